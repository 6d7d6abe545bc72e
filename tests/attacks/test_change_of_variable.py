"""Any l_inf attack as a Pixel-AG attack, by a change of variable."""

import pytest
import torch
from conftest import SmallNet
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problems, within

from part_plugin.attacks.change_of_variable import change_of_variable, pull_back
from part_plugin.attacks.projection import relative_radii


@settings(max_examples=300)
@given(problems(), st.sampled_from([1.0, 1.5]))
def test_the_change_of_variable_stays_in_the_budget_even_if_the_attack_does_not(problem, overshoot):
    images, radii, eps, clip, generator = problem
    noise = torch.rand(images.shape, generator=generator, dtype=torch.float64) * 2 - 1
    z = (images.double() + overshoot * eps * noise.sign()).clamp(*clip).to(images.dtype)
    within(images, pull_back(images, z, radii, relative_radii(radii, eps), clip), radii, clip)


def test_the_model_computes_f_of_the_shrunken_input(digits_net, batch):
    images, _ = batch
    mask = torch.rand(16, 1, 8, 8)
    z = (images + 0.2 * torch.randn_like(images)).clamp(0, 1)
    expected = digits_net(images + mask * (z - images))
    with change_of_variable(digits_net, images, mask):
        assert torch.allclose(digits_net(z), expected)
        rows = torch.tensor([5, 2, 11])  # an attack may ask about some rows only
        torch.testing.assert_close(digits_net(z[rows]), expected[rows])
        with pytest.raises(ValueError, match=r"inputs of shape \(16, 1, 7, 7\) for images of shape \(16, 1, 8, 8\)"):
            digits_net(z[:, :, 1:, 1:])
    assert not digits_net._forward_pre_hooks
    assert torch.equal(digits_net(z), SmallNet.forward(digits_net, z))


def test_a_mask_of_ones_changes_no_bit(digits_net, batch):
    z = torch.rand_like(batch[0])
    expected = digits_net(z)
    with change_of_variable(digits_net, batch[0], torch.ones(16, 1, 8, 8)):
        assert torch.equal(digits_net(z), expected)
