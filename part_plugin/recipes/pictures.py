"""Picture files of any size as images that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .common import import_torchvision


def load_pictures(paths: Sequence[Path], size: Sequence[int] | None = None) -> Tensor:
    """Return picture files as images (N, 3, H, W) in [0, 1], float32.

    Args:
        paths: files of any format that Pillow reads.
        size: resize them to this (H, W). (Default: as they are, all alike)

    Raises:
        FileNotFoundError: no such file.
        ValueError: no picture, a damaged one, or pictures of several sizes and no `size`.
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
        ValueError: no picture, or a damaged one.
    """
    from PIL import Image

    import_torchvision()
    from torchvision.transforms.functional import resize, to_tensor

    if not path.is_file():
        raise FileNotFoundError(f"picture {str(path)!r} does not exist")
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {str(path)!r} is damaged or no picture") from error
    image: Tensor = to_tensor(picture if size is None else resize(picture, list(size)))
    return image
