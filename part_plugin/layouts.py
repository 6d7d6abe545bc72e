"""How the output of a layer lies: where channels, rows and columns are, and which tokens are none of the image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_PREFIX_TOKENS = 8


@dataclass(frozen=True)
class Layout:
    """A reading of a layer's output; called with it, or its gradient, it returns (N, C, h, w).

    Args:
        order: "NCHW", "NHWC", or of tokens "NTC", "NCT", "TNC".
        grid: rows and columns, h and w.
        prefix: how many tokens come before those of the image: class, distillation and register tokens.
    """

    order: str
    grid: tuple[int, int]
    prefix: int = 0

    def __call__(self, output: Tensor) -> Tensor:
        """Return `output` as (N, C, h, w)."""
        if self.order == "NCHW":
            return output
        if self.order == "NHWC":
            return output.permute(0, 3, 1, 2)
        batch, tokens = self.order.index("N"), self.order.index("T")
        channels = 3 - batch - tokens
        image_tokens = output.permute(batch, channels, tokens)[:, :, self.prefix :]
        return image_tokens.reshape(*image_tokens.shape[:2], *self.grid)

    def __str__(self) -> str:
        if "T" not in self.order:
            return f"({', '.join(self.order.replace('H', 'h').replace('W', 'w'))})"
        prefix = f"{self.prefix} + " if self.prefix else ""
        return f"{prefix}{self.grid[0]}x{self.grid[1]} tokens"


def readings(shape: torch.Size, size: torch.Size, grids: Iterable[tuple[int, int]] = ()) -> list[Layout]:
    """Return the layouts that the output of a layer may have, the likely first.

    Args:
        shape: of the output, for a batch that is the first dimension.
        size: of the images, (H, W).
        grids: sizes (h, w) that other layers of the network gave; tokens are read so, or in the image's proportions.
    """
    if len(shape) == 4:
        found = []
        if in_proportion((shape[2], shape[3]), size):
            found.append(Layout("NCHW", (shape[2], shape[3])))
        if in_proportion((shape[1], shape[2]), size):
            found.append(Layout("NHWC", (shape[1], shape[2])))
        return found
    if len(shape) == 3:
        return [
            Layout(order, grid, shape[dimension] - math.prod(grid))
            for order, dimension in (("NTC", 1), ("NCT", 2))
            for grid in _grids(shape[dimension], size, grids, order == "NTC")
        ]
    return []


def _grids(tokens: int, size: torch.Size, seen: Iterable[tuple[int, int]], others: bool) -> list[tuple[int, int]]:
    """Return the sizes that so many tokens can have: of those seen or, with `others`, that with fewest tokens left."""
    possible = range(max(2, tokens - MOST_PREFIX_TOKENS), tokens + 1)
    found = [grid for grid in dict.fromkeys(seen) if math.prod(grid) in possible and in_proportion(grid, size)]
    if found or not others:
        return found
    for number in reversed(possible):
        grids = [(h, number // h) for h in range(1, number + 1) if number % h == 0]
        found = [grid for grid in grids if in_proportion(grid, size)]
        if found:
            return found
    return []


def in_proportion(grid: tuple[int, int], size: torch.Size) -> bool:
    """Return whether a `grid` (h, w) covers images of `size` (H, W) with one stride both ways, up to rounding."""
    (h, w), (height, width) = grid, size
    if height == width:
        return 1 < h == w <= height or h == w == 1
    if h > height or w > width or h * w < 2:
        return False
    strides = [(length / (cells + 1), length / max(cells - 1, 0.5)) for cells, length in ((h, height), (w, width))]
    return max(low for low, _ in strides) < min(high for _, high in strides)


def placement(maps: Tensor) -> float:
    """Return the share of positions that answer most, for what all do, to a change of their own half; chance is 0.5.

    Args:
        maps: (5, C, h, w), what a layer gave for an image, and for it with its quadrant at the top left, top right,
            bottom left, bottom right replaced.
    """
    answers = (maps[1:] - maps[0]).square().sum(1).sqrt()  # (4, h, w)
    answers = answers / answers.mean((1, 2), keepdim=True)  # a quadrant that all depends on tells nothing by that
    top, bottom = answers[0] + answers[1], answers[2] + answers[3]
    left, right = answers[0] + answers[2], answers[1] + answers[3]
    h, w = maps.shape[2:]
    right_places = [
        (top > bottom)[: h // 2].flatten(),
        (bottom > top)[(h + 1) // 2 :].flatten(),
        (left > right)[:, : w // 2].flatten(),
        (right > left)[:, (w + 1) // 2 :].flatten(),
    ]
    placed = torch.cat(right_places)
    return float(placed.double().mean()) if placed.numel() else 0.0


def quadrants_replaced(image: Tensor) -> Tensor:
    """Return (5, C, H, W): an `image` (1, C, H, W), and it with each of its quadrants replaced by noise."""
    rows = image.detach().expand(5, -1, -1, -1).clone()
    low, high = torch.aminmax(image.detach())
    noise = low + (high - low) * torch.rand_like(rows)
    h, w = image.shape[2] // 2, image.shape[3] // 2
    for number, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1)), 1):
        part = (number, slice(None), slice(h * i, None if i else h), slice(w * j, None if j else w))
        rows[part] = noise[part]
    return rows
