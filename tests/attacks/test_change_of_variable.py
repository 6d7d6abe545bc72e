"""Any l_inf attack as a Pixel-AG attack, by a change of variable."""

import re

import pytest
import torch
from conftest import SmallNet
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problems, within
from torch import nn

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
        message = (
            "the attack sends inputs of shape (16, 1, 7, 7) for images of shape (16, 1, 8, 8); "
            "an attack that changes the image size cannot be given a budget per pixel"
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            digits_net(z[:, :, 1:, 1:])
    assert not digits_net._forward_pre_hooks
    assert torch.equal(digits_net(z), SmallNet.forward(digits_net, z))


def test_a_mask_of_ones_changes_no_bit(digits_net, batch):
    z = torch.rand_like(batch[0])
    expected = digits_net(z)
    with change_of_variable(digits_net, batch[0], torch.ones(16, 1, 8, 8)):
        assert torch.equal(digits_net(z), expected)


def test_what_is_pulled_back_is_the_convex_combination(batch):
    images = batch[0].double()
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 1, 8, 8, generator=generator, dtype=torch.float64)
    mask[:, :, 0] = 1
    z = (images + 0.2 * (2 * torch.rand(images.shape, generator=generator, dtype=torch.float64) - 1)).clamp(0, 1)
    adv = pull_back(images, z, 0.2 * mask, mask)
    torch.testing.assert_close(adv, (1 - mask) * images + mask * z, rtol=0, atol=1e-15)
    assert torch.equal(adv[:, :, 0], z[:, :, 0])


@pytest.mark.parametrize("eps", [8 / 255, 0.1])
def test_what_needs_no_pulling_back_is_not_changed_by_a_bit(eps):
    """Where m = 1 the answer is z itself, also at the very edge of the budget, where rounding seems to overstep it."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 8, 8, generator=generator, dtype=torch.float64).float()
    ones = torch.ones(64, 1, 8, 8)
    z = (images + eps * torch.randn(images.shape, generator=generator).sign()).clamp(0, 1)
    assert ((z - images).abs() > eps).any()
    assert torch.equal(pull_back(images, z, eps * ones, ones), z)
    far = torch.rand(64, 3, 8, 8, generator=generator, dtype=torch.float64).float()
    assert (images + (far - images) != far).any()
    model = nn.Identity()
    with change_of_variable(model, images, ones):
        assert torch.equal(model(far), far)


def test_the_nearest_image_is_that_whose_farthest_pixel_is_nearest():
    """B is closer to z than A on the whole, but one of its pixels is out of reach."""
    a = torch.full((1, 1, 8, 8), 0.4)
    z = a + 0.1
    z[0, 0, 0, 0] = 0.3
    images, mask = torch.cat([a, a + 0.15]), torch.tensor([0.5, 0.0]).reshape(2, 1, 1, 1)
    model = nn.Identity()
    with change_of_variable(model, images, mask):
        torch.testing.assert_close(model(z), a + 0.5 * (z - a))


def test_rows_in_another_order_get_the_mask_of_their_image(digits_net, batch):
    """Fewer or more rows than images, each next to the image it comes from."""
    images = batch[0]
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(16, 1, 8, 8, generator=generator)
    rows = torch.tensor([9, 9, 3, *range(16), 0])
    z = (images[rows] + 0.02 * torch.rand(len(rows), 1, 8, 8, generator=generator)).clamp(0, 1)
    expected = digits_net(images[rows] + mask[rows] * (z - images[rows]))
    with change_of_variable(digits_net, images, mask):
        torch.testing.assert_close(digits_net(z), expected)
    one = mask[:1]  # of all images
    expected = digits_net(images[rows] + one * (z - images[rows]))
    with change_of_variable(digits_net, images, one):
        torch.testing.assert_close(digits_net(z), expected)


def test_the_hook_goes_with_an_exception(digits_net, batch):
    with pytest.raises(ArithmeticError), change_of_variable(digits_net, batch[0], torch.ones(16, 1, 8, 8)):
        raise ArithmeticError
    assert not digits_net._forward_pre_hooks


def test_it_comes_before_the_hooks_of_others_and_passes_other_inputs_on(batch):
    class Scaled(nn.Module):
        def forward(self, x, factor):
            return factor * x

    model, seen = Scaled(), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    mask = torch.full((16, 1, 8, 8), 0.5)
    with change_of_variable(model, batch[0], mask):
        found = model(torch.zeros_like(batch[0]), 3)
    torch.testing.assert_close(seen[0], 0.5 * batch[0])
    torch.testing.assert_close(found, 1.5 * batch[0])
