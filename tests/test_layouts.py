"""How the output of a layer may lie, and where its positions lie in the image."""

import itertools

import pytest
import torch

from part_plugin.layouts import Layout, in_proportion, placement, quadrants_replaced, readings

N, C, H, W = 2, 3, 4, 5
MAPS = torch.arange(N * C * H * W).reshape(N, C, H, W)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("order", ["NTC", "NCT", "TNC"])
def test_tokens_become_the_maps_that_they_came_from(order, prefix):
    tokens = torch.cat([torch.full((N, C, prefix), -1), MAPS.flatten(2)], 2)
    output = tokens.permute(["NCT".index(letter) for letter in order])
    assert torch.equal(Layout(order, (H, W), prefix)(output), MAPS)


def test_maps_of_either_order():
    assert Layout("NCHW", (H, W))(MAPS) is MAPS
    assert torch.equal(Layout("NHWC", (H, W))(MAPS.permute(0, 2, 3, 1)), MAPS)


def test_layouts_as_people_read_them():
    assert str(Layout("NTC", (4, 6), 1)) == "1 + 4x6 tokens"
    assert str(Layout("TNC", (4, 6))) == "4x6 tokens"
    assert str(Layout("NHWC", (4, 6))) == "(N, h, w, C)"


def test_proportions_by_brute_force():
    """A grid is in proportion if some stride gives it, both ways rounded alike, up or down."""
    for height, width in ((32, 32), (24, 40), (33, 20)):
        size, strides = torch.Size((height, width)), [1 + n / 97 for n in range(97 * 40)]
        possible = {(int(height // s), int(width // s)) for s in strides}
        possible |= {(int(-(-height // s)), int(-(-width // s))) for s in strides}
        for grid in possible:
            assert in_proportion(grid, size) or 0 in grid or grid == (1, 1), (grid, size)
        for grid in itertools.product(range(2, height + 1), range(2, width + 1)):
            off = abs(grid[0] / height - grid[1] / width) * min(height, width)
            assert not in_proportion(grid, size) or off < 2, (grid, size)
    assert not in_proportion((7, 8), torch.Size((56, 56)))
    assert not in_proportion((64, 64), torch.Size((32, 32)))


@pytest.mark.parametrize(
    ("shape", "size", "seen", "found"),
    [
        ((5, 64, 7, 7), (56, 56), [], [Layout("NCHW", (7, 7))]),
        ((5, 7, 7, 64), (56, 56), [], [Layout("NHWC", (7, 7))]),
        ((5, 8, 8, 8), (56, 56), [], [Layout("NCHW", (8, 8)), Layout("NHWC", (8, 8))]),
        ((5, 6, 9, 64), (64, 96), [], [Layout("NHWC", (6, 9))]),
        ((5, 3, 65, 64), (32, 32), [], []),
        ((5, 65, 192), (32, 32), [(8, 8)], [Layout("NTC", (8, 8), 1)]),
        ((5, 65, 192), (32, 32), [], [Layout("NTC", (8, 8), 1)]),
        ((5, 25, 192), (64, 96), [(4, 6)], [Layout("NTC", (4, 6), 1)]),
        ((5, 192, 69), (32, 32), [(8, 8)], [Layout("NCT", (8, 8), 5)]),
        ((5, 192, 69), (32, 32), [], []),
        ((5, 73, 64), (32, 32), [(8, 8)], [Layout("NCT", (8, 8), 0)]),
        ((5, 10), (32, 32), [], []),
    ],
)
def test_readings(shape, size, seen, found):
    assert [layout for layout in readings(torch.Size(shape), torch.Size(size), seen) if layout.grid != (1, 1)] == found


def test_placement():
    image = torch.rand(1, 3, 8, 8)
    rows = quadrants_replaced(image)
    assert torch.equal(rows[0], image[0])
    for number, (i, j) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4)), 1):
        changed = (rows[number] != image[0]).any(0)
        assert changed[i : i + 4, j : j + 4].all()
        assert changed.sum() == 16
    assert rows.amin() >= image.amin()
    assert rows.amax() <= image.amax()
    assert placement(rows) == 1.0
    assert placement(rows.flip(2)) == placement(rows.flip(3)) == 0.5
    assert placement(rows.flip((2, 3))) == 0.0
    assert placement(rows[:, :, :, :, None].expand(5, 3, 8, 8, 2).flatten(3)) == 1.0
    odd = quadrants_replaced(torch.rand(1, 3, 7, 7))
    assert placement(odd) > 0.9
