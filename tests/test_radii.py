"""Radii as tensors."""

import re

import pytest
import torch

from part_plugin import FixedBudget
from part_plugin.radii import checked_radii, expanded, uniform

IMAGES = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_radii_in_the_dtype_of_the_images(dtype):
    images = IMAGES.to(dtype)
    for radii in (
        FixedBudget(0.1)(None, images),
        expanded(torch.full((1, 1, 5, 6), 0.1, dtype=torch.float64), images),
        uniform(images, 0.1),
    ):
        assert radii.dtype == dtype
        assert radii.shape == (2, 1, 5, 6)
        assert torch.equal(radii, torch.full((2, 1, 5, 6), 0.1, dtype=dtype))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (2, 1, 5, 6)),
        ((1,), (2, 1, 5, 6)),
        ((6,), (2, 1, 5, 6)),
        ((5, 1), (2, 1, 5, 6)),
        ((1, 5, 6), (2, 1, 5, 6)),
        ((3, 1, 1), (2, 3, 5, 6)),
        ((2, 1, 1, 1), (2, 1, 5, 6)),
        ((1, 3, 5, 6), (2, 3, 5, 6)),
    ],
)
def test_radii_broadcast_to_the_images(shape, expected):
    radii = torch.rand(shape)
    found = expanded(radii, IMAGES)
    assert found.shape == expected
    assert torch.equal(found + 0 * IMAGES, (radii + 0 * IMAGES))


@pytest.mark.parametrize(
    "shape", [(7,), (5, 5), (2, 5, 6), (5, 5, 6), (3, 1, 5, 6), (1, 2, 5, 6), (1, 1, 1, 5, 6), (0,)]
)
def test_radii_that_do_not_broadcast_to_the_images(shape):
    message = f"radii of shape {shape} do not fit images of shape (2, 3, 5, 6)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        expanded(torch.rand(shape), IMAGES)


def test_rounding_above_eps_is_forgiven_and_cut():
    radii = checked_radii(torch.full((5, 6), 0.2 * (1 + 5e-7), dtype=torch.float64), 0.2, IMAGES.double())
    assert (radii == 0.2).all()
    assert not checked_radii(torch.zeros(5, 6), 0.0, IMAGES).any()
    grown = torch.full((5, 6), 0.1, requires_grad=True)
    found = checked_radii(grown, 0.1, IMAGES)
    assert torch.equal(found, torch.full((2, 1, 5, 6), 0.1))
    assert not found.requires_grad
