"""What several corruptions of CIFAR-10-C do with pictures of 32x32 pixels: blur, move, enlarge; and clouds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .cifar_severities import SIDE

Values = NDArray[np.float64]
"""(32, 32, 3) or (32, 32), in [0, 1]."""


def smooth(x: Values, sigma: float) -> Values:
    """Return a picture behind a Gaussian.

    Args:
        x: (32, 32) or (32, 32, 3).
        sigma: its width in pixels.
    """
    from scipy.ndimage import gaussian_filter

    widths = (sigma, sigma, 0) if x.ndim == 3 else sigma
    smooth: Values = gaussian_filter(x, widths, mode="nearest")
    return smooth


def moved(x: Values, radius: int, sigma: float, angle: float) -> Values:
    """Return a picture that moved, as ImageMagick blurs it: half a Gaussian, in whole pixels, edges repeated.

    Args:
        x: (32, 32) or (32, 32, 3).
        radius: the Gaussian ends after twice as many pixels.
        sigma: its width in pixels.
        angle: the direction in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    rows, columns = np.arange(SIDE), np.arange(SIDE)
    moved = np.zeros_like(x)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        right = math.ceil(step * math.cos(math.radians(angle)) - 0.5)
        down = math.ceil(step * math.sin(math.radians(angle)) - 0.5)
        moved += weight * x[(rows + down).clip(0, SIDE - 1)][:, (columns + right).clip(0, SIDE - 1)]
    return np.rint(255 * moved) / 255


def enlarged(x: Values, factor: float) -> Values:
    """Return the middle of a picture, as large as the whole.

    Args:
        x: (32, 32) or (32, 32, 3).
        factor: by which it is enlarged.
    """
    from scipy.ndimage import zoom

    side = math.ceil(SIDE / factor)
    first = (SIDE - side) // 2
    large = zoom(x[first : first + side, first : first + side], (factor, factor, 1)[: x.ndim], order=1)
    rest = (len(large) - SIDE) // 2
    middle: Values = large[rest : rest + SIDE, rest : rest + SIDE]
    return middle


def clouds(decay: float, generator: np.random.Generator) -> Values:
    """Return a plasma fractal in [0, 1]: midpoints of squares and diamonds, with noise that decays, on a torus.

    Args:
        decay: of the noise from each size to half of it.
        generator: draws it.
    """
    heights, step, noise = np.zeros((SIDE, SIDE)), SIDE, 100.0
    while step >= 2:
        half, spread = step // 2, noise * noise

        def middle(corners: Values, spread: float = spread) -> Values:
            return corners / 4 + generator.uniform(-spread, spread, corners.shape)

        corner = heights[::step, ::step]
        below = corner + np.roll(corner, -1, 0)
        heights[half::step, half::step] = middle(below + np.roll(below, -1, 1))
        centre, corner = heights[half::step, half::step], heights[::step, ::step]
        sides = centre + np.roll(centre, 1, 0) + corner + np.roll(corner, -1, 1)
        heights[::step, half::step] = middle(sides)
        sides = centre + np.roll(centre, 1, 1) + corner + np.roll(corner, -1, 0)
        heights[half::step, ::step] = middle(sides)
        step, noise = half, noise / decay
    clouds: Values = (heights - heights.min()) / (heights.max() - heights.min())
    return clouds
