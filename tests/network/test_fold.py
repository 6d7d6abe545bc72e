"""The model as the attack sees it: cheaper, and afterwards as it was."""

import logging

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet, assert_untouched, snapshot
from torch import nn
from torch._dynamo.utils import counters

from part_plugin import PART, FixedBudget, PARTTrainer, PixelPGD
from part_plugin.adapters.robustbench import build_model
from part_plugin.network import batching, fast
from part_plugin.network.fast import accelerated, check_fast
from part_plugin.network.fold import foldable_pairs, folded
from part_plugin.network.isolation import eval_mode, frozen
from part_plugin.network.view import ModelView, logits_of

WIDE = ("robust_wide_resnet.RobustWideResNet", {"channel_configs": [4, 4, 8, 16], "depth_configs": [1, 1, 1]})


def gradient(model, images, labels, *fast):
    with eval_mode(model), frozen(model), accelerated(model, images, fast) as attacked:
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(logits_of(attacked, adv), labels), adv)[0]


def plain_gradient(model, images, labels):
    with eval_mode(model):
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(adv), labels), adv)[0]


def layout(model):
    return {name: (p.data_ptr(), p.stride(), p.requires_grad) for name, p in model.named_parameters()}


def distance(one, other):
    return float((one - other).norm() / other.norm())


def test_lean_is_the_same_gradient_and_leaves_no_trace(lived_in, batch):
    before, where = snapshot(lived_in), layout(lived_in)
    expected = plain_gradient(lived_in, *batch)
    assert distance(gradient(lived_in, *batch), expected) < 1e-6
    with frozen(lived_in):
        assert not any(p.requires_grad for p in lived_in.parameters())
        assert lived_in.features[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert layout(lived_in) == where
    with pytest.raises(RuntimeError, match="in the middle"), frozen(lived_in):
        raise RuntimeError("in the middle")
    assert layout(lived_in) == where
    assert_untouched(lived_in, before)


def test_on_a_trained_resnet(cifar_net, photos):
    """Float32 gradients jump at ReLU kinks; on the whole they agree, and most are equal to rounding."""
    with torch.no_grad():
        labels = cifar_net(photos).argmax(1)
    expected = plain_gradient(cifar_net, photos, labels)
    for fast in ((), ("fold",)):
        found = gradient(cifar_net, photos, labels, *fast)
        each = [distance(a, b) for a, b in zip(found, expected, strict=True)]
        assert sorted(each)[len(each) // 2] < 1e-3
        assert float((found.sign() != expected.sign()).float().mean()) < 0.01
    assert len(foldable_pairs(cifar_net, photos)) == 20
    rough = gradient(cifar_net, photos, labels, "bfloat16")
    assert rough.dtype == torch.float32
    assert float((rough.sign() == expected.sign()).float().mean()) > 0.8


def with_statistics(model, images):
    """Give the batch norms statistics of their own."""
    model.train()
    for _ in range(3):
        model(images)
    return model.eval()


@pytest.mark.parametrize(
    ("make", "count"),
    [(lambda: SmallNet(3), 2), (lambda: build_model(*WIDE), 3), (lambda: build_model("resnet.ResNet18"), 20)],
)
def test_folded_logits_are_the_same(make, count):
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    net = make()
    if isinstance(net, SmallNet):
        images = images[:, :, :8, :8]
    with_statistics(net, images)
    pairs = foldable_pairs(net, images)
    assert len(pairs) == count
    with torch.no_grad():
        expected = net(images)
        with folded(pairs):
            assert all("forward" in vars(module) for pair in pairs for module in pair)
            assert torch.allclose(net(images), expected, rtol=1e-4, atol=1e-5)
        assert not any("forward" in vars(module) for module in net.modules())
        assert torch.equal(net(images), expected)


def test_weights_are_folded_anew_for_every_batch(digits_net, batch):
    x, y = batch
    gradient(digits_net, x, y, "fold")
    with torch.no_grad():
        digits_net.features[0].weight.mul_(-1.5)
        digits_net.features[1].running_mean.add_(0.3)
    assert distance(gradient(digits_net, x, y, "fold"), plain_gradient(digits_net, x, y)) < 1e-5


class Twice(nn.Module):
    """A convolution and its batch norm that are called twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.last, self.last_norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        for _ in range(2):
            x = self.norm(self.conv(x))
        return self.last_norm(self.last(x)).mean((2, 3))


class Tapped(nn.Module):
    """A convolution whose output is also used as it is."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        out = self.conv(x)
        return (self.norm(out) + out.relu()).mean((2, 3))


@pytest.mark.parametrize(("make", "count"), [(Twice, 1), (Tapped, 0)])
def test_pairs_that_cannot_be_folded_are_not(make, count, caplog):
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    net = with_statistics(make(), images)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert distance(gradient(net, images, labels, "fold"), plain_gradient(net, images, labels)) < 1e-5
    assert len(foldable_pairs(net, images)) == count
    said = [record.message for record in caplog.records]
    assert said == ([] if count else ["fast='fold' finds nothing to fold in Tapped; it runs without"])


def test_a_compiled_copy_follows_the_weights_and_takes_short_batches(lived_in, batch, caplog):
    """One compilation serves all batches, whatever is done to the network or left out of the batch in between.

    A machine without a C++ compiler runs the same without it.
    """
    images, labels = batch
    assert distance(gradient(lived_in, images, labels, "fold", "compile"), plain_gradient(lived_in, *batch)) < 1e-4
    graphs = dict(counters["stats"])
    with torch.no_grad():
        lived_in.features[0].weight.mul_(1.2)
        lived_in.features[1].running_mean.add_(0.3)
    before = snapshot(lived_in)
    for rows in (16, 5, 1, 16):
        expected = plain_gradient(lived_in, images[:rows], labels[:rows])
        found = gradient(lived_in, images[:rows], labels[:rows], "fold", "compile")
        assert found.shape == expected.shape
        assert distance(found, expected) < 1e-4
    assert dict(counters["stats"]) == graphs
    assert bool(graphs.get("unique_graphs")) != ("it runs without" in caplog.text)
    assert_untouched(lived_in, before)


def test_what_cannot_be_compiled_runs_without(digits_net, batch, caplog, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler found\nsecond line")

    monkeypatch.setattr(torch, "compile", broken)
    for _ in range(2):
        assert torch.equal(gradient(digits_net, *batch, "compile"), gradient(digits_net, *batch))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["fast='compile' fails for SmallNet (no compiler found); it runs without"]


@pytest.mark.parametrize("fast", [(), "fold", "bfloat16", ("fold", "bfloat16")])
def test_part_with_a_fast_attack(robust_net, batch, fast):
    """Inside the budget, about as strong, nothing left behind; the same map, so the same budget."""
    x, y = batch
    exact = PART(eps=0.1, eps_low=0.08, alpha=0.025, burn_in=0, seed=0)
    quick = PART(eps=0.1, eps_low=0.08, alpha=0.025, burn_in=0, seed=0, fast=fast)
    robust_net.train()
    before, where = snapshot(robust_net), layout(robust_net)
    expected, found = exact.perturb(robust_net, x, y), quick.perturb(robust_net, x, y)
    assert_untouched(robust_net, before)
    assert layout(robust_net) == where
    radii = exact.budget(robust_net, x, y)
    assert ((found - x).abs() <= radii + 1e-6).all()
    robust_net.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(robust_net(adv), y) for adv in (x, expected, found)]
    assert losses[0] < losses[2]
    assert losses[2] == pytest.approx(losses[1].item(), rel=0.1)


def test_pixelpgd_takes_fast(robust_net, batch):
    before, where = snapshot(robust_net), layout(robust_net)
    adv = {}
    for fast in ((), "fold"):
        torch.manual_seed(0)
        adv[fast] = PixelPGD(robust_net, eps=0.1, eps_low=0.08, alpha=0.025, fast=fast)(*batch)
    assert_untouched(robust_net, before)
    assert layout(robust_net) == where
    assert float((adv[()] == adv["fold"]).float().mean()) > 0.95
    with pytest.raises(ValueError, match="fast holds 'x'"):
        PixelPGD(robust_net, fast="x")


def test_an_exception_in_a_folded_network(robust_net, batch):
    class Failing(nn.Module):
        calls = 0

        def __init__(self):
            super().__init__()
            self.net = robust_net

        def forward(self, x):
            Failing.calls += 1
            if Failing.calls > 8:
                raise RuntimeError("in the middle")
            return self.net(x)

    model = Failing()
    where = layout(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        PART(budget=FixedBudget(0.1), burn_in=0, fast="fold").perturb(model, *batch)
    assert layout(model) == where
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_map_shares_its_forward_pass_with_trades(digits_net, batch):
    """PART-T runs the network as often as TRADES does, and attacks from the same natural logits."""
    counts = {}
    batching.rows_at_once(digits_net, batch[0])  # looks at one image, once for a network
    for name, eps_low in (("TRADES", 0.1), ("PART-T", 0.08)):
        part = PART("trades", eps=0.1, eps_low=eps_low, alpha=0.03, steps=3, burn_in=0, target_layers="features")
        calls = []
        handle = digits_net.register_forward_hook(lambda *call, calls=calls: calls.append(len(call[1][0])))
        part.loss(digits_net, *batch)
        handle.remove()
        counts[name] = calls
    assert counts["PART-T"] == counts["TRADES"] == [16] * 6
    important, logits = part.budget.look(digits_net, *batch)
    with torch.no_grad():
        assert torch.equal(logits, digits_net(batch[0]))
    assert torch.equal(important, part.budget.weights(digits_net, *batch)[0])


@pytest.mark.parametrize(
    ("fast", "message"),
    [
        ("folding", "fast holds 'folding'; choose from 'fold', 'compile', 'bfloat16', 'float16'"),
        (("fold", "x"), "fast holds 'x'; choose from"),
        (("bfloat16", "float16"), "fast holds 'bfloat16' and 'float16'; choose one"),
    ],
)
def test_unknown_options(fast, message):
    with pytest.raises(ValueError, match=message):
        check_fast(fast)
    with pytest.raises(ValueError, match=message):
        PART(fast=fast)


def test_the_art_trainer_takes_fast(digits, digits_net):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    optimizer = torch.optim.SGD(digits_net.parameters(), 0.01)
    classifier = PyTorchClassifier(
        digits_net, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1)
    )
    attack = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.03, max_iter=3, num_random_init=1, verbose=False)
    trainer = PARTTrainer(classifier, attack, burn_in=0, fast="fold")
    trainer.fit(digits[0][:64].numpy(), digits[1][:64].numpy(), batch_size=32, nb_epochs=2, verbose=False)
    assert trainer.history[-1]["loss"] > 0
    with pytest.raises(ValueError, match="fast holds 'x'"):
        PARTTrainer(classifier, attack, fast="x")


class Scripted(nn.Module):
    """A network whose body is scripted, which takes no hooks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = torch.jit.script(nn.Sequential(nn.Conv2d(8, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))

    def forward(self, x):
        return self.body(self.stem(x))


@pytest.mark.parametrize("around", [ModelView, lambda net: fast._Autocast(ModelView(net), torch.bfloat16)])
def test_rows_at_once_follow_the_largest_activation(lived_in, batch, monkeypatch, around):
    """32 channels of 8x8 in `lived_in`, of which 4 may be attacked at a time, whatever stands around the network."""
    monkeypatch.setattr(batching, "VALUES_AT_ONCE", 4 * 32 * 64)
    before = snapshot(lived_in)
    assert [batching.rows_at_once(around(lived_in), batch[0]) for _ in range(2)] == [4, 4]
    assert_untouched(lived_in, before)
    images = torch.rand(16, 3, 8, 8)
    assert batching.rows_at_once(Scripted(), images) == 16
    assert batching.rows_at_once(lived_in, images.to("meta")) == 16  # not a CPU's memory
