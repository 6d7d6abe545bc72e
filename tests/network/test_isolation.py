"""The network while it is attacked: cheaper, and afterwards as it was."""

import pytest
import torch
from conftest import assert_untouched, snapshot
from network.gradients import distance, gradient, layout, plain_gradient

from part_plugin.network.isolation import eval_mode, frozen, gradients_kept


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


class Boom(Exception):
    pass


def test_eval_mode_is_undone_module_by_module(lived_in):
    before = snapshot(lived_in)
    with torch.no_grad(), eval_mode(lived_in) as model:
        assert model is lived_in
        assert not any(module.training for module in lived_in.modules())
        assert torch.is_grad_enabled()
    assert_untouched(lived_in, before)
    with torch.inference_mode():
        with eval_mode(lived_in):
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()
    with pytest.raises(Boom), eval_mode(lived_in):
        raise Boom
    assert_untouched(lived_in, before)


def test_weights_made_under_inference_mode_are_refused():
    with torch.inference_mode():
        model = torch.nn.Linear(2, 2)
    message = "the model's weights were created under inference_mode, so nothing can be differentiated: create or load"
    with pytest.raises(RuntimeError, match=f"^{message} the model outside it "), eval_mode(model):
        pass


def test_gradients_are_kept(lived_in, batch):
    before = snapshot(lived_in)
    with eval_mode(lived_in), gradients_kept(lived_in):
        assert all(parameter.grad is None for parameter in lived_in.parameters())
        lived_in(batch[0]).sum().backward()
        assert lived_in.head.weight.grad is not None
    with pytest.raises(Boom), gradients_kept(lived_in):
        raise Boom
    assert_untouched(lived_in, before)


def test_frozen_weights_lie_channels_last_and_what_is_tied_stays_tied(digits_net):
    digits_net.twin = torch.nn.Conv2d(1, 16, 3, bias=False)
    digits_net.twin.weight = digits_net.features[0].weight
    where = layout(digits_net)
    values = {name: parameter.detach().clone() for name, parameter in digits_net.named_parameters()}
    with frozen(digits_net):
        assert digits_net.twin.weight is digits_net.features[0].weight
        for name, parameter in digits_net.named_parameters():
            assert torch.equal(parameter, values[name])
            assert parameter.dim() < 4 or parameter.is_contiguous(memory_format=torch.channels_last)
    assert layout(digits_net) == where
