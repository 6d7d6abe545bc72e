"""The paper's datasets as images in [0, 1]: `load_dataset`, `as_tensors`."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import check_choice, check_count, check_images
from .augmentation import augmentation, import_torchvision

DATASETS = ("cifar10", "svhn", "tinyimagenet", "digits", "imagefolder")
Sample = tuple[str, int]


def load_dataset(
    name: str, root: str | os.PathLike, split: str = "test", download: bool = False, augment: bool = False
) -> Dataset:
    """Return a dataset of (image, class): float32 tensors (3, H, W) in [0, 1] without normalisation, and ints.

    Args:
        name: "cifar10" and "svhn" as torchvision stores them; "tinyimagenet" as distributed, `tiny-imagenet-200`
            in `root` or `root` itself, with the validation images in one folder or sorted into class folders;
            "digits", scikit-learn's 8x8 digits in three channels, of which 400 are the test set, without files;
            "imagefolder", class folders of images in root/train and root/test (or root/val), or in `root` itself,
            which then is both splits.
        root: directory of the files.
        split: "train" or "test"; TinyImageNet's is its validation set, as its test labels are not public.
        download: fetch missing files (CIFAR-10 and SVHN only).
        augment: random crops, padded by an eighth of the size, and flips (not of SVHN, as digits have a
            direction), the augmentation usual in adversarial training; for split="train" only.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: an unknown `name` or `split`, `augment` or `download` where they are not possible, files that
            are damaged, test classes that are not the training classes.
        ImportError: torchvision, or scipy for SVHN, is not installed.
    """
    check_choice("name", name, DATASETS)
    check_choice("split", split, ("train", "test"))
    if augment and split != "train":
        raise ValueError(f"augment=True is for training only; it needs split='train', not {split!r}")
    if download and name not in ("cifar10", "svhn"):
        raise ValueError(f"download=True is possible for 'cifar10' and 'svhn' only; put the files of {name!r} in root")
    if name == "digits":
        if augment:
            raise ValueError("augment=True is not possible for 'digits'; their images have no room to be cropped")
        return _digits(split)
    torchvision, folder = import_torchvision(), Path(root).expanduser()
    if name in ("cifar10", "svhn"):
        dataset = _checksummed(torchvision, name, folder, split, download)
    else:
        dataset = (_tiny_imagenet if name == "tinyimagenet" else _image_folder)(torchvision, folder, split)
    if augment:
        moves = augmentation(name, dataset[0][0].shape[1:])
        dataset.transform = torchvision.transforms.Compose([moves, dataset.transform])
    return dataset


def as_tensors(dataset: Dataset, n: int | None = None, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """Return n samples as images (N, C, H, W), float32 in [0, 1], and classes (N,), int64.

    Args:
        dataset: what `load_dataset` returns, or another with a length and samples (image, class).
        n: number of samples. (Default: all)
        seed: draw the samples at random instead of taking the first; they stay in the dataset's order.

    Raises:
        TypeError: images that are not tensors.
        ValueError: an empty subset, more samples than there are, images of different sizes or outside [0, 1].
    """
    total = len(dataset)
    n = total if n is None else check_count("n", n, 0)
    if n > total:
        raise ValueError(f"n={n} samples asked for; the dataset has {total}")
    if n == 0:
        raise ValueError(f"an empty subset was asked for (n=0 of {total} samples); at least one sample is needed")
    indices = list(range(n))
    if seed is not None:
        generator = torch.Generator().manual_seed(check_count("seed", seed, 0))
        indices = torch.randperm(total, generator=generator)[:n].sort().values.tolist()
    images, labels = None, torch.empty(n, dtype=torch.long)
    for row, index in enumerate(indices):
        image, labels[row] = dataset[index]
        if not isinstance(image, Tensor):
            raise TypeError(f"the dataset's images are {type(image).__name__}; tensors are needed (ToTensor)")
        if images is None:  # filled row by row: a list to stack would hold a large dataset twice
            images = torch.empty(n, *image.shape, dtype=torch.float32)
        if image.shape != images.shape[1:]:
            sizes = ["x".join(map(str, shape)) for shape in (images.shape[1:], image.shape)]
            raise ValueError(f"images {indices[0]} and {index} have sizes {sizes[0]} and {sizes[1]}; one is needed")
        images[row] = image
    check_images(images)
    return images, labels


def _digits(split: str) -> Dataset:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            "name='digits' needs scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    x, y = load_digits(return_X_y=True)
    parts = train_test_split(x, y, test_size=400, random_state=0, stratify=y)
    x, y = parts[split == "test"], parts[2 + (split == "test")]
    images = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1)
    return _InMemory(list(zip(images, y.tolist(), strict=True)))


class _InMemory(Dataset):
    """Samples that need no files."""

    def __init__(self, samples: list[tuple[Tensor, int]]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.samples[index]


def _checksummed(torchvision: ModuleType, name: str, root: Path, split: str, download: bool) -> Dataset:
    """Return torchvision's dataset; it does not tell missing from damaged files, so look when it complains."""
    if name == "cifar10":
        kind, options = torchvision.datasets.CIFAR10, {"train": split == "train"}
        listed = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        files = {f"{kind.base_folder}/{file}": md5 for file, md5 in listed}
    else:
        if importlib.util.find_spec("scipy") is None:
            raise ImportError("name='svhn' needs scipy, which is not installed: pip install scipy")
        kind, options = torchvision.datasets.SVHN, {"split": split}
        files = dict([kind.split_list[split][1:]])
    try:
        return kind(root, transform=torchvision.transforms.ToTensor(), download=download, **options)
    except RuntimeError as error:
        for file in files:
            if not (root / file).is_file():
                raise _missing(name, root, f"{file} is missing", "pass download=True or put the files there") from error
        for file, md5 in files.items():
            if not torchvision.datasets.utils.check_integrity(root / file, md5):
                reason = f"{file} does not have the checksum that torchvision expects"
                raise _damaged(name, root, f"{reason}; delete it and pass download=True") from error
        raise


def _missing(name: str, root: Path, reason: str, remedy: str) -> FileNotFoundError:
    return FileNotFoundError(f"{name} is not complete in root={str(root)!r} ({reason}); {remedy}")


def _damaged(name: str, root: Path, reason: str) -> ValueError:
    return ValueError(f"{name} in root={str(root)!r} is damaged: {reason}")


class _LabelledFiles(Dataset):
    """Image files with their classes, where no folder tells the class."""

    def __init__(self, samples: list[Sample], loader: Callable[[str], Any], transform: Callable[[Any], Tensor]):
        self.samples = samples
        self.loader = loader
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.transform(self.loader(path)), label


def _tiny_imagenet(torchvision: ModuleType, root: Path, split: str) -> Dataset:
    """Return TinyImageNet, which torchvision has no dataset of; its classes are numbered as ImageFolder does."""
    folder = root / "tiny-imagenet-200" if (root / "tiny-imagenet-200").is_dir() else root
    for entry in ("wnids.txt", "train" if split == "train" else "val"):
        if not (folder / entry).exists():
            raise _missing("tinyimagenet", root, f"{entry} is missing", "unpack tiny-imagenet-200.zip there")
    wnids = sorted(set((folder / "wnids.txt").read_text().split()))
    if len(wnids) != 200:
        raise _damaged("tinyimagenet", root, f"wnids.txt lists {len(wnids)} classes; it must list 200")
    if split == "train":
        dataset = _class_folders(torchvision, "tinyimagenet", root, folder / "train")
        if dataset.classes != wnids:
            wrong = min(set(dataset.classes) ^ set(wnids))
            raise _damaged("tinyimagenet", root, f"class {wrong} is in only one of train and wnids.txt")
        return dataset
    samples = _validation_samples(torchvision, root, folder / "val", wnids)
    return _LabelledFiles(samples, torchvision.datasets.folder.default_loader, torchvision.transforms.ToTensor())


def _validation_samples(torchvision: ModuleType, root: Path, val: Path, wnids: list[str]) -> list[Sample]:
    """Return the images of class folders, or those in val/images with their lines in val_annotations.txt."""
    number_of = {wnid: number for number, wnid in enumerate(wnids)}
    if any((val / wnid).is_dir() for wnid in wnids):  # not ImageFolder: an empty val/images may have been left
        try:
            return torchvision.datasets.folder.make_dataset(val, number_of, torchvision.datasets.folder.IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise _damaged("tinyimagenet", root, f"val: {_reason(error)}") from error
    for entry in ("val_annotations.txt", "images"):
        if not (val / entry).exists():
            raise _missing("tinyimagenet", root, f"val/{entry} is missing", "unpack tiny-imagenet-200.zip there")
    lines = [line.split() for line in (val / "val_annotations.txt").read_text().splitlines()]
    wnid_of = {fields[0]: fields[1] for fields in lines if len(fields) > 1}
    images = {file.name for file in (val / "images").glob("*.JPEG")}
    if odd := images ^ wnid_of.keys():
        raise _damaged("tinyimagenet", root, f"{min(odd)} is in only one of val/images and val/val_annotations.txt")
    if unknown := set(wnid_of.values()) - number_of.keys():
        raise _damaged(
            "tinyimagenet", root, f"class {min(unknown)} is in val/val_annotations.txt, but not in wnids.txt"
        )
    return [(str(val / "images" / file), number_of[wnid]) for file, wnid in wnid_of.items()]


def _image_folder(torchvision: ModuleType, root: Path, split: str) -> Dataset:
    """Return the class folders in root/train or root/test (or root/val), or those in `root` if it has none of them."""
    if not root.is_dir():
        raise _missing("imagefolder", root, "there is no such directory", "put class folders of images there")
    present = [entry for entry in ("train", "test", "val") if (root / entry).is_dir()]
    wanted = [entry for entry in present if (entry == "train") == (split == "train")]
    if present and not wanted:
        raise _missing(
            "imagefolder", root, f"there is {present[0]}, but no {split}", f"put the class folders of {split} there"
        )
    dataset = _class_folders(torchvision, "imagefolder", root, root / wanted[0] if wanted else root)
    if wanted and split == "test" and "train" in present:
        train_classes = torchvision.datasets.folder.find_classes(root / "train")[0]
        if odd := set(train_classes) ^ set(dataset.classes):  # ImageFolder would number the others differently
            raise ValueError(f"root={str(root)!r} has class {min(odd)!r} in only one of train and {wanted[0]}")
    return dataset


def _class_folders(torchvision: ModuleType, name: str, root: Path, folder: Path) -> Dataset:
    try:
        return torchvision.datasets.ImageFolder(folder, transform=torchvision.transforms.ToTensor())
    except FileNotFoundError as error:
        raise _missing(name, root, _reason(error), "put class folders of images there") from error


def _reason(error: FileNotFoundError) -> str:
    """Return what torchvision found wrong with the class folders, without its list of file extensions."""
    return str(error).partition(". Supported")[0].rstrip(".")
