"""A replica computes what the network does, shares its memory, and keeps everything else to itself."""

import functools
import threading

import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot
from torch import nn

from part_plugin import PART, PixelAttack, PixelPGD, class_activation_map
from part_plugin.network.isolation import callers_own, isolated
from part_plugin.network.memory import original_of
from part_plugin.network.replica import is_separable, replicate
from part_plugin.network.view import ModelView


class Wired(nn.Module):
    """Modules reached by other ways than as attributes: a list, a bound method, a partial, a hook, tied weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.second.weight = self.first.weight
        self.listed = [self.first, (self.second,)]
        self.bound = self.halve
        self.partial = functools.partial(Wired.add, self, other=self.second)
        self.notes = []
        self.norm.register_forward_hook(self.note)
        self.head = nn.Linear(4, 10)

    def halve(self, x):
        return 0.5 * self.norm(x)

    def add(self, x, other):
        return x + other(x.mean(1, keepdim=True))[:, :, :1, :1]

    def note(self, module, inputs, output):
        self.notes.append(module)
        return output

    def forward(self, x):
        x = self.listed[0](x) + self.listed[1][0](x)
        return self.head(self.partial(self.bound(x)).mean((2, 3)))


class Closed(nn.Module):
    """A forward pass that is a closure over the network itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.forward = lambda x: net(x)


def modules_of(network):
    return {id(module) for module in network.modules()}


@pytest.mark.parametrize("make", [SmallNet, Wired, lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 3, 3))])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_replica_computes_the_same_with_modules_of_its_own(make, channels_last):
    torch.manual_seed(0)
    network, x = make().eval(), torch.rand(5, 1, 8, 8)
    replica = replicate(network.train(), channels_last)
    assert type(replica) is type(network)
    assert not modules_of(replica) & modules_of(network)
    assert not any(module.training for module in replica.modules())
    assert all(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in replica.parameters())
    assert [original_of(module) for module in replica.modules()] == list(network.modules())
    torch.testing.assert_close(replica(x), network.eval()(x), rtol=1e-5, atol=1e-6)
    if not channels_last:
        assert torch.equal(replica(x), network(x))
        for ours, theirs in zip(replica.state_dict().values(), network.state_dict().values(), strict=True):
            assert ours.data_ptr() == theirs.data_ptr()


def test_what_a_replica_is_told_stays_with_it(digits_net, batch):
    before = snapshot(digits_net)
    replica = replicate(digits_net)
    replica.train()
    replica.eval()
    replica.features[0].register_forward_hook(lambda *call: 1 / 0)
    replica.features[3].forward = None
    replica.head = nn.Identity()
    replica.new = 3
    assert_untouched(digits_net, before)
    assert digits_net(batch[0]).shape == (16, 10)


def test_every_way_to_a_module_leads_to_its_replica():
    network = Wired()
    replica = replicate(network)
    replica(torch.rand(2, 1, 8, 8))
    assert replica.listed[0] is replica.first
    assert replica.listed[1][0] is replica.second
    assert replica.bound.__self__ is replica
    assert replica.partial.args[0] is replica
    assert replica.partial.keywords["other"] is replica.second
    assert network.notes == [replica.norm]  # a list without modules is the caller's own


def test_weights_that_are_changed_in_place_are_followed(digits_net, batch):
    with isolated(digits_net, batch[0]) as first, torch.no_grad():
        before = first(batch[0])
        digits_net.head.weight.mul_(2)
        assert torch.equal(first(batch[0]), digits_net(batch[0]))
        assert not torch.equal(first(batch[0]), before)


def test_a_network_that_has_no_replica_is_attacked_itself(digits_net, batch):
    """In turns, in eval mode, and left as it was; the answer is that of a network that has one."""
    alike = Closed(SmallNet())
    alike.net.load_state_dict(digits_net.state_dict())
    alike.train()
    before = snapshot(alike)
    assert not is_separable(alike, lambda replica: replica(batch[0]))
    assert is_separable(digits_net, lambda replica: replica(batch[0]))
    with isolated(alike, batch[0]) as attacked:
        assert attacked is alike
        assert not alike.net.training
    settings = {"burn_in": 0, "seed": 0, "steps": 3, "eps": 0.1, "alpha": 0.05, "target_layers": "net.features"}
    adv = PART(**settings).perturb(alike, *batch)
    assert_untouched(alike, before)
    expected = PART(**settings | {"target_layers": "features"}).perturb(digits_net, *batch)
    assert torch.equal(adv, expected)
    scripted = torch.jit.trace(digits_net, batch[0])
    assert not is_separable(scripted, lambda replica: replica(batch[0]))


def test_a_view_is_seen_through_and_a_replica_is_not_replicated_again(digits_net, batch):
    view = ModelView(digits_net, lambda images: 2 * images)
    with isolated(view, batch[0]) as outer, isolated(outer, batch[0]) as inner:
        assert inner.module is outer.module
        assert torch.equal(outer(batch[0]), view(batch[0]))
        with callers_own(outer) as own:
            assert own.module is digits_net


def test_a_forward_pass_that_becomes_a_closure_is_noticed(digits_net, batch):
    with isolated(digits_net, batch[0]) as attacked:
        assert attacked is not digits_net
    usual = digits_net.forward
    digits_net.forward = lambda x: digits_net.head(torch.flatten(digits_net.pool(digits_net.features(x)), 1))
    with isolated(digits_net, batch[0]) as attacked:
        assert attacked is digits_net
    digits_net.forward = usual
    with isolated(digits_net, batch[0]) as attacked:
        assert attacked is not digits_net


def test_the_first_call_draws_what_every_call_draws(digits_net, batch):
    """A network that is random itself: looking at it moves nothing, or the first batch would be another."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net

        def forward(self, x):
            return self.net(x + 0.1 * torch.randn_like(x))

    net, adv = Noisy(), []
    for _ in range(2):
        torch.manual_seed(0)
        adv.append(PART(burn_in=0, steps=2, fast="fold").perturb(net, *batch))
    assert torch.equal(*adv)


@pytest.mark.parametrize("kind", ["replica", "turns"])
def test_threads_get_what_each_gets_alone(digits_net, batch, kind):
    """Attacks, maps and the caller's own training at once: every result is that of the call alone, to the bit."""
    import torchattacks

    net = digits_net if kind == "replica" else Closed(digits_net)
    layers = "features" if kind == "replica" else "net.features"
    settings = {"eps": 0.1, "alpha": 0.03, "steps": 3, "target_layers": layers}
    plain = {"eps": 0.1, "alpha": 0.03, "steps": 2}
    calls = [
        lambda: PART(burn_in=0, seed=0, **settings).perturb(net, *batch),
        lambda: PART("trades", burn_in=0, seed=1, fast="fold", **settings).perturb(net, *batch),
        lambda: PixelPGD(net, random_start=False, **settings)(*batch),
        lambda: PixelAttack(torchattacks.BIM(net, **plain), target_layers=layers)(*batch),
        lambda: class_activation_map(net, batch[0], target_layers=layers),
    ]
    expected = [call() for call in calls]
    net.train() if kind == "replica" else net.eval()
    before, wrong, stop = snapshot(net), [], threading.Event()

    def work(first):
        for number in range(first, first + 12):
            if not torch.equal(calls[number % 5](), expected[number % 5]):
                wrong.append(number % 5)

    def look():
        while not stop.wait(0.002):
            if kind == "replica" and not (net.training and net.head.weight.requires_grad):
                wrong.append("the network was touched")

    workers = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    looker = threading.Thread(target=look)
    for thread in (*workers, looker):
        thread.start()
    for thread in workers:
        thread.join()
    stop.set()
    looker.join()
    assert not wrong
    assert_untouched(net, before)
