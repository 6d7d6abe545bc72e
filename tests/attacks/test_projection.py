"""The budget as a set: its nearest point, and where an attack may start in it."""

import torch
from hypothesis import given, settings
from problems import problems

from part_plugin.attacks.projection import project, uniform_start


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


def test_uniform_start_fills_the_budget():
    images = torch.full((64, 1, 8, 8), 0.5)
    radii = torch.full((64, 1, 8, 8), 0.1)
    radii[:, :, :4] = 0.05
    noise = (uniform_start(images, radii, 0.1) - images) / radii
    assert noise.abs().max() <= 1 + 1e-5
    for half in (noise[:, :, :4], noise[:, :, 4:]):
        assert half.abs().max() > 0.99
        assert abs(half.var() - 1 / 3) < 0.02
