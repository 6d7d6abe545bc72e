"""Batch norm folded into the convolution before it."""

import logging

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from network.gradients import distance, gradient, layout, plain_gradient
from torch import nn
from torch.nn.utils import prune

from part_plugin import PART, FixedBudget
from part_plugin.adapters.robustbench import build_model
from part_plugin.network.fold import foldable_pairs, folded, folded_weights

WIDE = ("robust_wide_resnet.RobustWideResNet", {"channel_configs": [4, 4, 8, 16], "depth_configs": [1, 1, 1]})


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


class Pruned(SmallNet):
    """A convolution that makes its weight before every forward pass."""

    def __init__(self):
        super().__init__(3, 4)
        prune.l1_unstructured(self.features[0], "weight", 0.5)


class Branched(Tapped):
    """A convolution whose output is used again behind everything else, where no gradient is followed."""

    def forward(self, x):
        out = self.conv(x)
        return (self.norm(out) * out.detach().sigmoid()).mean((2, 3))


@pytest.mark.parametrize(("make", "count"), [(lambda: SmallNet(3, 4), 2), (Tapped, 0), (Branched, 0), (Pruned, 1)])
def test_what_can_be_folded_does_not_hang_on_todays_weights(make, count):
    """A network whose logits are all zero at first, as with a head that begins so, and under autocast."""
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    net = with_statistics(make(), images)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        assert len(foldable_pairs(net, images)) == count
    net.load_state_dict(weights)
    assert distance(gradient(net, images, labels, "fold"), plain_gradient(net, images, labels)) < 1e-5
    assert len(foldable_pairs(net, images)) == count


def test_a_module_with_a_forward_pass_of_its_own_is_left_alone(digits_net, batch):
    norm = digits_net.features[1]
    norm.forward = lambda x: 2 * nn.BatchNorm2d.forward(norm, x)
    assert foldable_pairs(digits_net, batch[0]) == [(digits_net.features[3], digits_net.features[4])]


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


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_folded_weights_against_the_formula(bias, affine):
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 3, bias=bias).double(), nn.BatchNorm2d(4, affine=affine, eps=0.01).double()
    with torch.no_grad():
        for tensor in (norm.running_mean, norm.running_var, *norm.parameters()):
            tensor.uniform_(0.5, 2)
    weight, shift = folded_weights(convolution, norm)
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = norm.eval()(convolution(images))
    torch.testing.assert_close(F.conv2d(images, weight, shift), expected, rtol=1e-12, atol=1e-12)
    assert not weight.requires_grad
    assert not shift.requires_grad


def test_a_batch_norm_without_running_statistics_is_left_alone(digits_net, batch, caplog):
    digits_net.features[1] = nn.BatchNorm2d(16, track_running_stats=False)
    (pair,) = foldable_pairs(digits_net, batch[0])
    assert pair == (digits_net.features[3], digits_net.features[4])
    assert distance(gradient(digits_net, *batch, "fold"), plain_gradient(digits_net, *batch)) < 1e-5
    with pytest.raises(ValueError, match="^a batch norm without running statistics cannot be folded$"):
        folded_weights(digits_net.features[0], digits_net.features[1])


def test_a_network_that_works_in_place_on_its_input_is_folded_all_the_same(digits_net, batch):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net

        def forward(self, x):
            return self.net(x.sub_(0.5))

    model, images = InPlace(), batch[0].clone()
    assert len(foldable_pairs(model, images)) == 2
    assert torch.equal(images, batch[0])
    found = gradient(model, *batch, "fold")
    assert distance(found, plain_gradient(digits_net, batch[0] - 0.5, batch[1])) < 1e-5


def test_a_network_is_looked_at_once(digits_net, batch):
    calls = []
    digits_net.head.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    pairs = foldable_pairs(digits_net, batch[0])
    assert calls == [1]  # one image is enough
    seen = len(calls)
    assert foldable_pairs(nn.DataParallel(digits_net), batch[0]) == pairs
    assert len(calls) == seen
