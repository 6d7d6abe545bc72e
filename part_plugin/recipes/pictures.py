"""Picture files of any size as images that a network takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .common import import_torchvision

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Those that are read; others of Pillow's run programs (EPS) or hold pictures by the way."""
LARGEST = 1 << 26
"""Pixels that a picture may have; it needs 15 bytes for each while it is read."""


def load_pictures(paths: Sequence[Path], size: Sequence[int] | None = None) -> Tensor:
    """Return picture files as images (N, 3, H, W) in [0, 1], float32.

    Args:
        paths: files of one of the `FORMATS`, with at most `LARGEST` pixels.
        size: resize them to this (H, W). (Default: as they are, all alike)

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, a damaged or too large one, or pictures of several sizes and no `size`.
    """
    images = [_load(path, size) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            sizes = ["x".join(map(str, one.shape[1:])) for one in (images[0], image)]
            raise ValueError(
                f"pictures {str(paths[0])!r} and {str(path)!r} have sizes {sizes[0]} and {sizes[1]}; a size is needed"
            )
    return torch.stack(images)


def _load(path: Path, size: Sequence[int] | None) -> Tensor:
    """Return one picture, (3, H, W).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, or a damaged or too large one.
    """
    from PIL import Image

    import_torchvision()
    from torchvision.transforms.functional import resize, to_tensor

    if not path.exists():
        raise FileNotFoundError(f"picture {str(path)!r} does not exist")
    if not path.is_file():
        raise ValueError(f"picture {str(path)!r} is not a regular file; one is needed")
    damaged = f"picture {str(path)!r} is damaged or no picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own about sizes
            file = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"picture {str(path)!r} has too many pixels; at most {LARGEST} are allowed") from error
    except Exception as error:  # Pillow's readers have many for damaged files
        raise ValueError(damaged) from error
    with file:
        width, height = file.size
        if width * height > LARGEST:
            raise ValueError(f"picture {str(path)!r} has {width} x {height} pixels; at most {LARGEST} are allowed")
        try:
            picture = file.convert("RGB")
        except Exception as error:
            raise ValueError(damaged) from error
    image: Tensor = to_tensor(picture if size is None else resize(picture, list(size)))
    return image
