"""The budget as a set: its nearest point, and where an attack may start in it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from problems import problems

from part_plugin.attacks.projection import gaussian_start, project, relative_radii, seeded_generator, uniform_start


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


CLIPS = [(0.0, 1.0), (0.3, 0.6), (-2.0, 2.0)]


@pytest.mark.parametrize("clip", CLIPS)
def test_uniform_start_is_its_formula(clip):
    """U(-eps, eps) * r / eps, cut to the range, from the very numbers that torch draws."""
    images = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(1)).clamp(*clip)
    radii = 0.2 * torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(2))
    drawn = torch.empty(3, 2, 5, 5).uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(3))
    found = uniform_start(images, radii, 0.2, clip, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, (images + drawn * radii / 0.2).clamp(*clip), rtol=0, atol=1e-7)
    exact = uniform_start(images, torch.full_like(radii, 0.2), 0.2, clip, torch.Generator().manual_seed(3))
    assert torch.equal(exact, (images + drawn).clamp(*clip))
    torch.manual_seed(3)
    assert torch.equal(uniform_start(images, radii, 0.2, clip), found)


@pytest.mark.parametrize("clip", CLIPS)
def test_gaussian_start_is_its_formula(clip):
    """x + 0.001 * N(0, 1), cut to the budget and to the range; images at both ends of the range."""
    images = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(1)).clamp(*clip)
    images[0], images[1] = clip[0], clip[1]
    radii = torch.full((3, 1, 5, 5), 0.1)
    radii[:, :, 0], radii[:, :, 1] = 0, 0.0005
    drawn = torch.empty(3, 2, 5, 5).normal_(generator=torch.Generator().manual_seed(3))
    found = gaussian_start(images, radii, clip, torch.Generator().manual_seed(3))
    expected = (images + torch.minimum(torch.maximum(0.001 * drawn, -radii), radii)).clamp(*clip)
    assert torch.equal(found, expected)
    assert torch.equal(found[:, :, 0], images[:, :, 0])
    assert (found[2] != images[2])[:, 1:].float().mean() > 0.9 or clip == (0.3, 0.6)
    assert found.min() >= clip[0]
    assert found.max() <= clip[1]
    torch.manual_seed(3)
    assert torch.equal(gaussian_start(images, radii, clip), found)


@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_every_image_starts_at_a_point_of_its_own(start):
    images, radii = torch.full((4, 1, 6, 6), 0.5), torch.full((4, 1, 6, 6), 0.1)
    begun = uniform_start(images, radii, 0.1) if start == "uniform" else gaussian_start(images, radii)
    for one in range(4):
        assert (begun[one] != 0.5).any()
        for other in range(one):
            assert (begun[one] != begun[other]).float().mean() > 0.9


def test_relative_radii_are_the_mask():
    radii = torch.tensor([0.0, 0.05, 0.1, 0.1 * (1 - 1e-7), 0.2])
    found = relative_radii(radii, 0.1)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0]))
    assert found[2] == found[4] == 1
    assert torch.equal(relative_radii(torch.zeros(3), 0.0), torch.ones(3))
    for eps in (8 / 255, 0.1, 1 / 3):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            assert relative_radii(torch.tensor([eps], dtype=dtype), eps).item() == 1


def test_a_generator_for_every_seed_rank_and_step(monkeypatch):
    def drawn(seed, step):
        return tuple(torch.rand(4, generator=seeded_generator(torch.device("cpu"), seed, step)).tolist())

    assert drawn(0, 0) == drawn(0, 0)
    different = {drawn(seed, step) for seed in range(3) for step in range(3)}
    monkeypatch.setenv("RANK", "0")
    assert drawn(2, 2) in different
    monkeypatch.setenv("RANK", "1")
    different |= {drawn(seed, step) for seed in range(3) for step in range(3)}
    assert len(different) == 18


def test_the_generator_is_that_of_numpys_seed_sequence(monkeypatch):
    """So that a run can be repeated with another version of this package."""
    monkeypatch.setenv("RANK", "3")
    seed = int(np.random.SeedSequence((7, 3, 11)).generate_state(1, np.uint64)[0]) // 2
    expected = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(torch.rand(4, generator=seeded_generator(torch.device("cpu"), 7, 11)), expected)
