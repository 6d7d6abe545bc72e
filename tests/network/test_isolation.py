"""The network while it is attacked: cheaper, and afterwards as it was."""

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, snapshot

from part_plugin.network.isolation import eval_mode, frozen


def plain_gradient(model, images, labels):
    with eval_mode(model):
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(adv), labels), adv)[0]


def gradient(model, images, labels):
    with eval_mode(model), frozen(model):
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
