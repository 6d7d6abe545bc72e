"""The common corruptions on pictures of 32x32 pixels, as the files of CIFAR-10-C have them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cifar_filters import Values, clouds, enlarged, moved, smooth
from .cifar_severities import SIDE, STRENGTHS


def corrupted_small(
    picture: NDArray[np.uint8], corruption: str, severity: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a picture under a corruption.

    Args:
        picture: (32, 32, 3).
        corruption: a key of `STRENGTHS`.
        severity: 1 to 5.
        generator: draws what is random.
    """
    strength = STRENGTHS[corruption][severity - 1]
    values = _FUNCTIONS[corruption](picture / 255.0, strength, generator)
    return (255 * np.clip(values, 0, 1) + 1e-9).astype(np.uint8)  # CIFAR-10-C cuts off what is behind the point


def _gaussian_noise(x: Values, scale: float, generator: np.random.Generator) -> Values:
    return x + generator.normal(0, scale, x.shape)


def _shot_noise(x: Values, photons: float, generator: np.random.Generator) -> Values:
    return generator.poisson(x * photons) / photons


def _impulse_noise(x: Values, share: float, generator: np.random.Generator) -> Values:
    hit, white = generator.random(x.shape) < share, generator.random(x.shape) < 0.5
    return np.where(hit, white, x)


def _speckle_noise(x: Values, scale: float, generator: np.random.Generator) -> Values:
    return x + x * generator.normal(0, scale, x.shape)


def _defocus_blur(x: Values, strength: tuple[float, float], generator: np.random.Generator) -> Values:
    from scipy.ndimage import convolve

    radius, soft = strength
    rows, columns = np.mgrid[-3:4, -3:4]
    disk = (rows**2 + columns**2 <= radius**2).astype(float)
    edge = math.exp(-1 / (2 * soft**2))
    line = np.array([edge, 1, edge]) / (1 + 2 * edge)
    kernel = convolve(disk / disk.sum(), np.outer(line, line), mode="constant")
    return np.stack([convolve(x[..., one], kernel, mode="mirror") for one in range(3)], -1)


def _glass_blur(x: Values, strength: tuple[float, int], generator: np.random.Generator) -> Values:
    """Each pixel takes the place of a neighbour before it, as CIFAR-10-C's exchange of two views does."""
    sigma, rounds = strength
    x = np.floor(255 * smooth(x, sigma)) / 255
    for _ in range(rounds):
        for row in range(SIDE - 1, 1, -1):
            moves = generator.integers(-1, 1, (SIDE, 2))
            for column in range(SIDE - 1, 1, -1):
                right, down = moves[column]
                x[row, column] = x[row + down, column + right]
    return smooth(x, sigma)


def _motion_blur(x: Values, strength: tuple[int, float], generator: np.random.Generator) -> Values:
    return moved(x, *strength, generator.uniform(-45, 45))


def _zoom_blur(x: Values, end: float, generator: np.random.Generator) -> Values:
    pictures = [x, *(enlarged(x, factor) for factor in np.arange(1, end, 0.01))]
    mean: Values = np.mean(pictures, axis=0)
    return mean


def _gaussian_blur(x: Values, sigma: float, generator: np.random.Generator) -> Values:
    return smooth(x, sigma)


def _snow(x: Values, strength: tuple[Any, ...], generator: np.random.Generator) -> Values:
    mean, scale, factor, least, radius, sigma, kept = strength
    flakes = enlarged(generator.normal(mean, scale, (SIDE, SIDE)), factor)
    flakes = np.floor(255 * np.clip(np.where(flakes < least, 0, flakes), 0, 1)) / 255
    flakes = moved(flakes, radius, sigma, generator.uniform(-135, -45))[..., None]
    grey = x @ np.array([0.299, 0.587, 0.114])
    white = np.maximum(x, 1.5 * grey[..., None] + 0.5)
    snow: Values = kept * x + (1 - kept) * white + flakes + np.rot90(flakes, 2)
    return snow


def _frost(x: Values, strength: tuple[float, float], generator: np.random.Generator) -> Values:
    """Ice of the pictures that imagecorruptions brings along, of which CIFAR-10-C takes five."""
    from PIL import Image

    name = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")[generator.integers(5)]
    with resources.as_file(resources.files("imagecorruptions") / "frost" / name) as path, Image.open(path) as file:
        ice = np.asarray(file.convert("RGB"))[2::5, 2::5] / 255  # a fifth of the size
    top, left = (generator.integers(0, side - SIDE) for side in ice.shape[:2])
    return strength[0] * x + strength[1] * ice[top : top + SIDE, left : left + SIDE]


def _fog(x: Values, strength: tuple[float, float], generator: np.random.Generator) -> Values:
    amount, decay = strength
    largest: Values = x.max()
    return (x + amount * clouds(decay, generator)[..., None]) * largest / (largest + amount)


def _brightness(x: Values, more: float, generator: np.random.Generator) -> Values:
    """Raise the value of HSV; hue and saturation stay."""
    value: Values = x.max(-1, keepdims=True)
    return np.where(value > 0, x / np.where(value > 0, value, 1), 1) * np.clip(value + more, 0, 1)


def _saturate(x: Values, strength: tuple[float, float], generator: np.random.Generator) -> Values:
    """Change the saturation of HSV; what is grey has the hue of red."""
    factor, more = strength
    value: Values = x.max(-1, keepdims=True)
    least: Values = x.min(-1, keepdims=True)
    colour = value > least
    away = np.where(colour, (value - x) / np.where(colour, value - least, 1), [0.0, 1.0, 1.0])  # from the value
    saturation = (value - least) / np.where(value > 0, value, 1)
    return value - away * value * np.clip(factor * saturation + more, 0, 1)


def _contrast(x: Values, kept: float, generator: np.random.Generator) -> Values:
    mean: Values = x.mean((0, 1))
    return (x - mean) * kept + mean


def _spatter(x: Values, strength: tuple[Any, ...], generator: np.random.Generator) -> Values:
    """Drops of water, pale turquoise, at the first three severities, and mud at the others."""
    mean, scale, sigma, least, most, of_mud = strength
    liquid = smooth(generator.normal(mean, scale, (SIDE, SIDE)), sigma)
    if of_mud:
        mud = smooth((liquid > least).astype(float), most)
        mud = np.where(mud < 0.8, 0, mud)[..., None]
        muddy: Values = x * (1 - mud) + mud * np.array([63, 42, 20]) / 255
        return muddy
    drops = np.where(liquid < least, 0, liquid)
    shine = (drops * 255).astype(np.uint8) * _distances((drops * 255).astype(np.uint8))
    if shine.max() == 0:  # no drop fell on it
        return x
    wet: Values = x + most * (shine / shine.max())[..., None] * np.array([175, 238, 238]) / 255
    return wet


def _distances(liquid: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how bright water is, by its distance from the edges of drops, in relief."""
    import cv2

    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    even = cv2.equalizeHist(cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8))
    relief = cv2.filter2D(even, cv2.CV_8U, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]))
    bright: NDArray[np.float32] = cv2.blur(relief, (3, 3)).astype(np.float32)
    return bright


def _elastic_transform(x: Values, strength: tuple[float, float, float], generator: np.random.Generator) -> Values:
    """Move three points by some pixels, the picture with them, and each pixel by a smooth field."""
    from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

    amount, sigma, shift = (SIDE * one for one in strength)
    centre, third = SIDE // 2, SIDE // 3
    points = np.array([[1, 1], [1, -1], [-1, -1]]) * third + centre  # (column, row)
    moved = points + generator.uniform(-shift, shift, points.shape)
    back = np.linalg.solve(np.c_[moved, np.ones(3)], points)  # (column, row, 1) there -> here
    matrix, offset = back[:2].T[::-1, ::-1], back[2, ::-1]
    planes = [affine_transform(x[..., one], matrix, offset, order=1, mode="mirror") for one in range(3)]
    fields = [
        amount * gaussian_filter(generator.uniform(-1, 1, (SIDE, SIDE)), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    ]
    places = np.mgrid[:SIDE, :SIDE] + np.stack(fields)
    return np.stack([map_coordinates(plane, places, order=1, mode="reflect") for plane in planes], -1)


def _pixelate(x: Values, share: float, generator: np.random.Generator) -> Values:
    from PIL import Image

    picture = Image.fromarray(np.rint(255 * x).astype(np.uint8)).resize((int(SIDE * share),) * 2, Image.Resampling.BOX)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255.0


def _jpeg_compression(x: Values, quality: int, generator: np.random.Generator) -> Values:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.rint(255 * x).astype(np.uint8)).save(file, "JPEG", quality=quality)
    with Image.open(file) as picture:
        return np.asarray(picture) / 255.0


_FUNCTIONS: dict[str, Callable[[Values, Any, np.random.Generator], Values]] = {
    function.__name__[1:]: function
    for function in (
        *(_gaussian_noise, _shot_noise, _impulse_noise, _speckle_noise, _defocus_blur, _glass_blur, _motion_blur),
        *(_zoom_blur, _gaussian_blur, _snow, _frost, _fog, _brightness, _spatter, _contrast, _elastic_transform),
        *(_pixelate, _jpeg_compression, _saturate),
    )
}
