"""Pixel-AG: it never leaves the budget, and finds the maximum where that is known."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problems, within
from torch import nn

from part_plugin.attacks.pixel_ag import pixel_ag
from part_plugin.attacks.projection import gaussian_start, uniform_start


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
