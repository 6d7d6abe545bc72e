"""Random starts from numpy's generator."""

import numpy as np
import pytest
import torch
from art.utils import random_sphere

from part_plugin.adapters.art.starts import numpy_gaussian_start, numpy_uniform_start

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RADII = 0.2 * torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("clip", [(0.0, 1.0), (-9.0, 9.0)])
def test_a_uniform_start_is_arts_shrunk_to_the_radii(clip):
    np.random.seed(0)
    drawn = torch.from_numpy(random_sphere(5, 192, 0.2, np.inf).reshape(5, 3, 8, 8).astype(np.float32))
    np.random.seed(0)
    found = numpy_uniform_start(IMAGES, RADII, 0.2, clip)
    torch.testing.assert_close(found, (IMAGES + drawn * RADII / 0.2).clamp(*clip), rtol=0, atol=1e-7)
    np.random.seed(0)
    whole = numpy_uniform_start(IMAGES, torch.full_like(RADII, 0.2), 0.2, clip)
    assert torch.equal(whole, (IMAGES + drawn).clamp(*clip))


def test_a_gaussian_start_is_inside_the_radii():
    np.random.seed(0)
    drawn = torch.from_numpy(np.random.normal(0, 0.001, (5, 3, 8, 8)).astype(np.float32))
    np.random.seed(0)
    radii = 0.001 * RADII / 0.2
    found = numpy_gaussian_start(IMAGES, radii, (0.0, 1.0))
    expected = (IMAGES + torch.minimum(torch.maximum(drawn, -radii), radii)).clamp(0, 1)
    assert torch.equal(found, expected)
    assert (drawn.abs() > radii).any()


def test_other_types_and_a_radius_of_zero():
    images = IMAGES.double()
    assert numpy_uniform_start(images, RADII.double(), 0.2, (0.0, 1.0)).dtype == torch.float64
    assert torch.equal(numpy_uniform_start(images, torch.zeros_like(images), 0.0, (0.0, 1.0)), images)
