"""Gradients of a network as they are, and as the attack takes them; what the tests of this folder compare."""

import torch
import torch.nn.functional as F

from part_plugin.network.fast import accelerated
from part_plugin.network.isolation import eval_mode, frozen
from part_plugin.network.view import logits_of


def plain_gradient(model, images, labels):
    """Of the loss in eval mode, by the network itself."""
    with eval_mode(model):
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(adv), labels), adv)[0]


def gradient(model, images, labels, *fast):
    """Of the loss, by the frozen network or what stands in for it with some of `fast.FAST`."""
    with eval_mode(model), frozen(model), accelerated(model, images, fast) as attacked:
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(logits_of(attacked, adv), labels), adv)[0]


def layout(model):
    """Where the weights lie and how, and which ask for gradients."""
    return {name: (p.data_ptr(), p.stride(), p.requires_grad) for name, p in model.named_parameters()}


def distance(one, other):
    """Relative distance."""
    return float((one - other).norm() / other.norm())
