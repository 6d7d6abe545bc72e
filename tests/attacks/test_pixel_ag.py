"""Pixel-AG: it never leaves the budget, and finds the maximum where that is known."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import problems, within
from torch import nn

from part_plugin.attacks.pixel_ag import GradientCount, pixel_ag
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


def by_hand(loss, images, radii, alpha, steps, start, clip):
    """Eq. 4, pixel by pixel in Python's own numbers."""
    adv = start.clone()
    for _ in range(steps):
        adv.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(adv), adv)
        values = []
        for a, g, x, r in zip(*(t.flatten().tolist() for t in (adv, gradient, images, radii)), strict=True):
            moved = a + alpha * ((g > 0) - (g < 0))
            moved = x + min(max(moved - x, -r), r)
            values.append(min(max(moved, clip[0]), clip[1]))
        adv = torch.tensor(values, dtype=images.dtype).view_as(images)
    return adv


@pytest.mark.parametrize("clip", [(0.0, 1.0), (0.2, 0.7), (-1.0, 3.0)])
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_it_is_equation_4(digits_net, batch, clip, steps):
    net, images, labels = digits_net.double(), batch[0].double().clamp(*clip), batch[1]
    generator = torch.Generator().manual_seed(0)
    radii = 0.2 * torch.rand(images.shape, generator=generator, dtype=torch.float64)
    start = uniform_start(images, radii, 0.2, clip, generator)
    copies = [tensor.clone() for tensor in (images, radii, start)]

    def loss(adv):
        return nn.functional.cross_entropy(net(adv), labels)

    adv = pixel_ag(loss, images, radii, 0.07, steps, start, clip)
    torch.testing.assert_close(adv, by_hand(loss, images, radii, 0.07, steps, start, clip), rtol=0, atol=1e-12)
    for tensor, copied in zip((images, radii, start), copies, strict=True):
        assert torch.equal(tensor, copied)
    assert torch.equal(
        pixel_ag(loss, images, radii, 0.07, steps, None, clip), pixel_ag(loss, images, radii, 0.07, steps, images, clip)
    )


def test_only_the_first_gradient_is_shown(digits_net, batch):
    seen = []

    def loss(adv):
        return nn.functional.cross_entropy(digits_net(adv), batch[1])

    pixel_ag(loss, batch[0], torch.full((1,), 0.1), 0.05, 3, on_first_gradient=seen.append)
    images = batch[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(images), images)
    assert len(seen) == 1
    assert torch.equal(seen[0], expected)


def test_gradients_that_are_missing_are_counted():
    gradient = torch.ones(6, 2, 3, 3)
    gradient[0] = 0
    gradient[1, 0, 0, 0] = torch.nan
    gradient[2] = torch.nan
    gradient[3, 1, 2, 2] = -torch.inf
    gradient[4] = 0
    gradient[4, 1, 1, 1] = -1e-30
    count = GradientCount()
    assert (count.samples, count.missing) == (0, 0)
    count(gradient)
    assert (count.samples, count.missing) == (6, 4)
    count(gradient[4:])
    assert (count.samples, count.missing) == (8, 4)
    count(gradient[:1])
    assert (count.samples, count.missing) == (9, 5)


def test_samples_without_a_gradient_are_warned_of_once(caplog):
    gradient = torch.ones(100, 1, 2, 2)
    gradient[0] = 0
    count = GradientCount()
    count(gradient)
    count(0 * gradient[:10])  # looked at anew when there are twice as many
    assert (count.samples, count.missing, caplog.records) == (110, 11, [])
    for _ in range(3):
        count(gradient)
    (record,) = caplog.records
    assert record.getMessage() == "6% of the samples gave the attack no gradient to follow"
