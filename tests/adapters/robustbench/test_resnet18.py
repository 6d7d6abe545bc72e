"""RobustBench's ResNet-18 of any width: its weights, and that it makes nothing else first."""

import pytest
import torch
from torch import nn

from part_plugin.adapters.robustbench import ResNet18, build_model
from part_plugin.adapters.robustbench.toolkit import architectures


class Earlier(architectures.resnet.ResNet):
    """As earlier releases made it: the usual network first, then every layer anew."""

    def __init__(self, width, num_classes):
        super().__init__(architectures.resnet.BasicBlock, [2, 2, 2, 2], num_classes)
        self.in_planes = width
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for number in range(4):
            stage = self._make_layer(architectures.resnet.BasicBlock, width * 2**number, 2, 1 + (number > 0))
            setattr(self, f"layer{number + 1}", stage)
        self.linear = nn.Linear(8 * width, num_classes)


def same(one, other):
    assert list(one.state_dict()) == list(other.state_dict())
    assert [name for name, _ in one.named_modules()] == [name for name, _ in other.named_modules()]
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def seeded(make):
    torch.manual_seed(3)
    return make(), torch.rand(1)


@pytest.mark.parametrize(("width", "num_classes"), [(8, 10), (3, 200)])
def test_a_seed_gives_the_weights_that_it_gave(width, num_classes):
    """And leaves the generator where it was left."""
    ours, after = seeded(lambda: ResNet18(width, num_classes))
    earlier, expected = seeded(lambda: Earlier(width, num_classes))
    assert same(ours, earlier)
    assert torch.equal(after, expected)


def test_of_the_usual_width_it_is_robustbenchs():
    """The weights of a seed, and what is left of it."""
    ours, after = seeded(lambda: build_model("resnet.ResNet18", {"width": 64}))
    theirs, expected = seeded(lambda: build_model("resnet.ResNet18"))
    assert type(theirs) is architectures.resnet.ResNet
    assert same(ours, theirs)
    assert torch.equal(after, expected)


def test_no_other_network_is_made_first():
    registered = []
    handle = nn.modules.module.register_module_parameter_registration_hook(
        lambda module, name, parameter: registered.append(parameter)
    )
    try:
        network = ResNet18(2)
    finally:
        handle.remove()
    assert sum(one.numel() for one in registered if one is not None) == sum(one.numel() for one in network.parameters())
