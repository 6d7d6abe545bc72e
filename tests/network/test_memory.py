"""What is remembered of a network holds until it changes, and keeps nothing alive."""

import gc
import weakref

import pytest
import torch
from conftest import SmallNet
from torch import nn

from part_plugin.network.fold import foldable_pairs, folded
from part_plugin.network.memory import Memory, form_of
from part_plugin.network.replica import replicate


@pytest.fixture
def asked(digits_net):
    """A memory of the network in which every answer is new: the number of questions so far."""
    memory, found = Memory(), []

    def ask(key=None, network=digits_net):
        return memory.recall(network, key, lambda: found.append(key) or len(found))

    return ask


def new_forward(net):
    net.features[0].forward = lambda x: x


def new_class(net):
    net.features.__class__ = type("Other", (nn.Sequential,), {})


def new_flag(net):
    net.head.use_bias = True


CHANGES = {
    "a module replaced": lambda net: setattr(net.features, "0", nn.Conv2d(1, 16, 3, padding=1)),
    "a module added": lambda net: setattr(net, "more", nn.Identity()),
    "a module removed": lambda net: delattr(net, "dropout"),
    "a forward pass": new_forward,
    "a class": new_class,
    "a hook": lambda net: net.head.register_forward_hook(lambda *call: None),
    "a hook before": lambda net: net.head.register_forward_pre_hook(lambda *call: None),
    "a flag": new_flag,
    "a mode of padding": lambda net: setattr(net.features[0], "padding_mode", "reflect"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_network_is_noticed(digits_net, asked, change):
    assert asked() == asked() == 1
    change(digits_net)
    assert asked() == asked() == 2


def test_weights_modes_replicas_and_folds_are_no_change(digits_net, batch, asked):
    assert asked() == 1
    pairs = foldable_pairs(digits_net, batch[0])
    with torch.no_grad():
        digits_net.head.weight.mul_(2)
    digits_net.train()
    digits_net.requires_grad_(False)
    assert asked() == asked(network=replicate(digits_net)) == 1
    with folded(pairs):
        assert asked() == 1
    assert asked("other") == 2
    assert asked() == 1


def test_a_replica_answers_for_what_its_original_was(digits_net, asked):
    replica, form = replicate(digits_net), form_of(digits_net)
    new_forward(digits_net)
    assert form_of(replica) == form != form_of(digits_net)
    assert asked(network=replica) == 1
    assert asked() == 2


def test_to_find_out_moves_no_random_state(digits_net):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    assert Memory().recall(digits_net, None, lambda: torch.rand(9).shape[0]) == 9
    assert torch.equal(torch.rand(4), expected)


def test_what_cannot_be_found_out_is_asked_again(digits_net):
    memory = Memory()
    with pytest.raises(ZeroDivisionError):
        memory.recall(digits_net, None, lambda: 1 // 0)
    assert memory.recall(digits_net, None, lambda: 5) == 5


def looped():
    network = SmallNet()
    object.__setattr__(network.features[1], "parent", network)
    return network


def closed_over():
    """A network whose class refers to it."""

    class Self(SmallNet):
        def forward(self, x):
            return super().forward(x) + 0 * len(made)

    made = []
    made.append(Self())
    return made[0]


@pytest.mark.parametrize("make", [SmallNet, looped, closed_over])
def test_no_network_is_kept_alive(batch, make):
    from part_plugin import PART

    network = make()
    PART(burn_in=0, steps=1, fast="fold").perturb(network, *batch)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
