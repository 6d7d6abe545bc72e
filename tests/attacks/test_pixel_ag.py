import itertools

import numpy as np
import pytest
import torch
from conftest import SmallNet
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from part_plugin.attacks.change_of_variable import change_of_variable, pull_back
from part_plugin.attacks.pixel_ag import pixel_ag
from part_plugin.attacks.projection import gaussian_start, project, uniform_start


def within(images, adv, radii, clip):
    """Inside the budget and the clip range, but for one unit in the last place of the image."""
    ulp = torch.finfo(images.dtype).eps * torch.maximum(images.abs(), adv.abs())
    assert adv.isfinite().all()
    assert ((adv - images).abs() <= radii + ulp).all()
    assert (adv >= clip[0]).all()
    assert (adv <= clip[1]).all()


@st.composite
def problems(draw):
    """Random images, radii and clip ranges of any shape, scale and precision."""
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    n, c, h, w = (draw(st.integers(1, most)) for most in (4, 3, 7, 7))
    low = draw(st.sampled_from([0.0, -1.0, -2.5]))
    high = low + draw(st.sampled_from([1.0, 2.0, 255.0]))
    images = (low + (high - low) * torch.rand(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype)
    eps = draw(st.floats(0, 0.5)) * (high - low)
    shape = draw(st.sampled_from([(n, 1, h, w), (n, c, h, w), (1, 1, 1, 1)]))
    kind = draw(st.sampled_from(["two values", "any", "zeros and eps", "equal"]))
    fraction = torch.rand(shape, generator=generator, dtype=torch.float64)
    eps_low = draw(st.floats(0, 1))
    fraction = {
        "two values": torch.where(fraction > 0.7, 1.0, eps_low),
        "any": fraction,
        "zeros and eps": (fraction > 0.5).double(),
        "equal": torch.ones_like(fraction),
    }[kind]
    radii = (eps * fraction).to(dtype)
    return images.clamp(low, high), radii, float(radii.max()), (low, high), generator


@settings(max_examples=400)
@given(problems(), st.integers(0, 3), st.floats(0.01, 3), st.sampled_from(["none", "uniform", "gaussian"]))
def test_no_pixel_leaves_its_budget_or_the_range(problem, steps, relative_alpha, start):
    images, radii, eps, clip, generator = problem
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images.dtype)
    first = {
        "none": lambda: None,
        "uniform": lambda: uniform_start(images, radii, eps, clip, generator),
        "gaussian": lambda: gaussian_start(images, radii, clip, generator),
    }[start]()
    if first is not None:
        within(images, first, radii, clip)
    adv = pixel_ag(lambda x: (x * direction).sum().sin(), images, radii, relative_alpha * eps, steps, first, clip)
    within(images, adv, radii, clip)
    assert adv.dtype == images.dtype
    assert not adv.requires_grad


@settings(max_examples=300)
@given(problems(), st.sampled_from([1.0, 1.5]))
def test_the_change_of_variable_stays_in_the_budget_even_if_the_attack_does_not(problem, overshoot):
    images, radii, eps, clip, generator = problem
    noise = torch.rand(images.shape, generator=generator, dtype=torch.float64) * 2 - 1
    z = (images.double() + overshoot * eps * noise.sign()).clamp(*clip).to(images.dtype)
    within(images, pull_back(images, z, radii, relative_radii(radii, eps), clip), radii, clip)


@settings(max_examples=200)
@given(problems())
def test_projection_is_the_nearest_feasible_point(problem):
    images, radii, eps, clip, generator = problem
    adv = images + 2 * eps * torch.randn(images.shape, generator=generator, dtype=torch.float64).to(images.dtype)
    ours = project(images, adv, radii, clip)
    low = (images - radii).double().clamp(*clip)
    high = (images + radii).double().clamp(*clip)
    nearest = torch.minimum(torch.maximum(adv.double(), low), high)
    tolerance = 4 * torch.finfo(images.dtype).eps * (images.abs().double() + eps)
    assert ((ours.double() - nearest).abs() <= tolerance).all()


@settings(max_examples=50)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=2).filter(lambda w: min(map(abs, w)) > 0.05),
    st.floats(-2, 2),
    st.lists(st.floats(0.01, 0.3), min_size=2, max_size=2),
    st.lists(st.floats(0.35, 0.65), min_size=2, max_size=2),
)
def test_linear_model_reaches_the_corner_of_theorem_3_2(weights, target, radii, pixels):
    """For f = w.x and square loss the maximiser is d_i = -sign(r) sign(w_i) eps_i, r = y - f(x)."""
    x = torch.tensor(pixels, dtype=torch.float64).reshape(1, 1, 1, 2)
    w = torch.tensor(weights, dtype=torch.float64).reshape(1, 1, 1, 2)
    eps = torch.tensor(radii, dtype=torch.float64).reshape(1, 1, 1, 2)
    residual = target - float((w * x).sum())
    if abs(residual) < 1e-6:
        return

    def loss(adv):
        return (target - (w * adv).sum()) ** 2

    adv = pixel_ag(loss, x, eps, alpha=0.05, steps=10)
    corner = x - np.sign(residual) * w.sign() * eps
    torch.testing.assert_close(adv, corner, atol=1e-12, rtol=0)

    grid = [torch.linspace(-float(e), float(e), 41, dtype=torch.float64) for e in eps.flatten()]
    best = max(float(loss(x + torch.stack(point).reshape(1, 1, 1, 2))) for point in itertools.product(*grid))
    assert float(loss(adv)) >= best - 1e-12


def test_brute_force_finds_nothing_better_on_a_linear_classifier():
    """Over all corners of a budget of 6 pixels, for cross-entropy of a two-class linear model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).double()
    x = torch.rand(1, 1, 2, 3, dtype=torch.float64) * 0.4 + 0.3
    radii = torch.tensor([[[[0.1, 0.02, 0.1], [0.05, 0.0, 0.1]]]], dtype=torch.float64)
    label = torch.tensor([0])

    def loss(adv):
        return nn.functional.cross_entropy(model(adv), label)

    adv = pixel_ag(loss, x, radii, alpha=0.03, steps=10)
    corners = (
        torch.tensor(signs, dtype=torch.float64).reshape(x.shape) for signs in itertools.product((-1, 1), repeat=6)
    )
    best = max(float(loss(x + signs * radii).detach()) for signs in corners)
    assert float(loss(adv).detach()) == pytest.approx(best, abs=1e-12)


def test_uniform_start_fills_the_budget():
    images = torch.full((64, 1, 8, 8), 0.5)
    radii = torch.full((64, 1, 8, 8), 0.1)
    radii[:, :, :4] = 0.05
    noise = (uniform_start(images, radii, 0.1) - images) / radii
    assert noise.abs().max() <= 1 + 1e-5
    for half in (noise[:, :, :4], noise[:, :, 4:]):
        assert half.abs().max() > 0.99
        assert abs(half.var() - 1 / 3) < 0.02


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
