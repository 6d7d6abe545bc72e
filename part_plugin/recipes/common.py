"""What the recipes share: what a sample is, torchvision, devices, and the sentences about files that are not right."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Subset


class Samples(Protocol):
    """Samples (image, class) by their numbers: a torch `Dataset` with a length, or a list."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        """Return the image (C, H, W) and the class of one."""


def import_torchvision() -> ModuleType:
    """Return torchvision.

    Raises:
        ImportError: it is missing or broken; the sentence says what to do.
    """
    try:
        import torchvision
    except Exception as error:  # built for another torch, it raises more than ImportError
        raise ImportError(
            f"load_dataset needs torchvision, which cannot be imported ({error}): pip install torchvision"
        ) from error
    module: ModuleType = torchvision
    return module


def import_lightning() -> ModuleType:
    """Return Lightning.

    Raises:
        ImportError: it is missing; the sentence says what to do.
    """
    try:
        import lightning.pytorch
    except ImportError as error:
        raise ImportError(f"train needs lightning, which is not there ({error}): pip install lightning") from error
    return lightning.pytorch


def class_names(dataset: Any) -> list[str] | None:
    """Return the names of the classes of a `dataset`, or of that which it is a part of; None if it has none."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else None


def usable_device(name: str, device: str | torch.device) -> torch.device:
    """Return the device, after trying it.

    Args:
        name: of the argument, for the sentence.
        device: such as "cpu" or "cuda:1".

    Raises:
        ValueError: there is no such device here.
    """
    try:
        usable = torch.device(device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"{name}={str(device)!r} cannot be used here ({str(error).splitlines()[0]})") from error
    return usable


def class_folders(name: str, root: Path, folder: Path, size: int | None = None) -> Any:
    """Return torchvision's dataset of class folders of images.

    Args:
        name: of the dataset, for the sentence.
        root: its directory, for the sentence.
        folder: directory of the class folders.
        size: cut the middle out of each image, a square, and resize it to so many pixels a side. (Default: as they are)

    Raises:
        FileNotFoundError: no class folder, or one without an image.
    """
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    cut = [] if size is None else [transforms.Resize(size), transforms.CenterCrop(size)]
    try:
        return torchvision.datasets.ImageFolder(folder, transform=transforms.Compose([*cut, transforms.ToTensor()]))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            incomplete(name, root, without_extensions(error), "put class folders of images there")
        ) from error


def incomplete(name: str, root: Path, reason: str, remedy: str) -> str:
    """Return the sentence about missing files: what (`name`) is not whole in `root`, the `reason` and the `remedy`."""
    return f"{name} is not complete in root={str(root)!r} ({reason}); {remedy}"


def damaged(name: str, root: Path, reason: str) -> str:
    """Return the sentence about files of `name` in `root` that do not fit each other, with the `reason`."""
    return f"{name} in root={str(root)!r} is damaged: {reason}"


def without_extensions(error: FileNotFoundError) -> str:
    """Return what torchvision found wrong with class folders (`error`), without its list of file extensions."""
    return str(error).partition(". Supported")[0].rstrip(".")
