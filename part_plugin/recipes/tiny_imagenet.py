"""TinyImageNet as it is distributed, which torchvision has no dataset of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from .common import class_folders, damaged, import_torchvision, incomplete, without_extensions

NAME = "tinyimagenet"
REMEDY = "unpack tiny-imagenet-200.zip there"


def tiny_imagenet(root: Path, split: str) -> Any:
    """Return TinyImageNet, its 200 classes numbered in the order of their names, as ImageFolder numbers them.

    Args:
        root: the directory `tiny-imagenet-200`, or the one that it is in.
        split: "train", or "test" for the validation images, as the test labels are not public.

    Raises:
        FileNotFoundError: something is missing.
        ValueError: the files do not fit each other.
    """
    folder = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    for entry in ("wnids.txt", "train" if split == "train" else "val"):
        if not (folder / entry).exists():
            raise FileNotFoundError(incomplete(NAME, root, f"{entry} is missing", REMEDY))
    wnids = sorted(set((folder / "wnids.txt").read_text().split()))
    if len(wnids) != 200:
        raise ValueError(damaged(NAME, root, f"wnids.txt lists {len(wnids)} classes; it must list 200"))
    if split == "train":
        dataset = class_folders(NAME, root, folder / "train")
        if dataset.classes != wnids:
            wrong = min(set(dataset.classes) ^ set(wnids))
            raise ValueError(damaged(NAME, root, f"class {wrong} is in only one of train and wnids.txt"))
        return dataset
    val, number_of = folder / "val", {wnid: number for number, wnid in enumerate(wnids)}
    sorted_into_folders = any((val / wnid).is_dir() for wnid in wnids)
    samples = (_from_folders if sorted_into_folders else _from_annotations)(root, val, number_of)
    torchvision = import_torchvision()
    return LabelledFiles(samples, torchvision.datasets.folder.default_loader, torchvision.transforms.ToTensor())


class LabelledFiles(Dataset[tuple[Tensor, int]]):
    """Image files with their classes, where no folder tells the class.

    Args:
        samples: (path, class) of each.
        loader: makes a picture of a path.
        transform: makes a tensor of a picture.
    """

    def __init__(
        self, samples: Sequence[tuple[str, int]], loader: Callable[[str], Any], transform: Callable[[Any], Tensor]
    ):
        self.samples = samples
        self.loader = loader
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.transform(self.loader(path)), label


def _from_folders(root: Path, val: Path, number_of: dict[str, int]) -> list[tuple[str, int]]:
    """Return the validation images of class folders; not by ImageFolder, as an empty val/images may have been left.

    Raises:
        ValueError: a class without images.
    """
    folder = import_torchvision().datasets.folder
    try:
        return list(folder.make_dataset(val, number_of, folder.IMG_EXTENSIONS))
    except FileNotFoundError as error:
        raise ValueError(damaged(NAME, root, f"val: {without_extensions(error)}")) from error


def _from_annotations(root: Path, val: Path, number_of: dict[str, int]) -> list[tuple[str, int]]:
    """Return the images in val/images with their lines in val_annotations.txt.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: they do not fit each other, or wnids.txt.
    """
    for entry in ("val_annotations.txt", "images"):
        if not (val / entry).exists():
            raise FileNotFoundError(incomplete(NAME, root, f"val/{entry} is missing", REMEDY))
    lines = [line.split() for line in (val / "val_annotations.txt").read_text().splitlines()]
    wnid_of = {fields[0]: fields[1] for fields in lines if len(fields) > 1}
    images = {file.name for file in (val / "images").glob("*.JPEG")}
    if odd := images ^ wnid_of.keys():
        raise ValueError(damaged(NAME, root, f"{min(odd)} is in only one of val/images and val/val_annotations.txt"))
    if unknown := set(wnid_of.values()) - number_of.keys():
        reason = f"class {min(unknown)} is in val/val_annotations.txt, but not in wnids.txt"
        raise ValueError(damaged(NAME, root, reason))
    return [(str(val / "images" / file), number_of[wnid]) for file, wnid in wnid_of.items()]
