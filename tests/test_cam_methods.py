"""The formulas, number by number."""

import pytest
import torch

from part_plugin.cam_methods import METHODS

A, G = torch.randn(2, 3, 4, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_hand(name, a, g):
    """One map from the activations and gradients of one image, (C, h, w) as nested lists."""
    channels, places = range(len(a)), [(i, j) for i in range(2) for j in range(5)]

    def weight(k, i, j):
        if name == "gradcam":
            return sum(g[k][y][x] for y, x in places) / len(places)
        if name == "xgradcam":
            total = sum(a[k][y][x] for y, x in places) + 1e-7
            return sum(g[k][y][x] * a[k][y][x] / total for y, x in places)
        return max(g[k][i][j], 0)

    return [[sum(weight(k, i, j) * a[k][i][j] for k in channels) for j in range(5)] for i in range(2)]


@pytest.mark.parametrize("name", ["gradcam", "xgradcam", "layercam"])
def test_formulas(name):
    activations, gradients = A.clone(), G.clone()
    maps = METHODS[name](activations, gradients)
    expected = [by_hand(name, a, g) for a, g in zip(A.tolist(), G.tolist(), strict=True)]
    torch.testing.assert_close(maps, torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(activations, A)
    assert torch.equal(gradients, G)
    assert list(METHODS) == ["gradcam", "xgradcam", "layercam"]
