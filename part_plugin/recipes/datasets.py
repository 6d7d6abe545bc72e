"""The paper's datasets as images in [0, 1]: `load_dataset`, `as_tensors`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_count, check_images, check_seed, class_indices
from ..files import check_writable
from .augmentation import augmentation
from .common import Samples, class_folders, damaged, import_torchvision, incomplete
from .tiny_imagenet import tiny_imagenet

DATASETS = ("cifar10", "svhn", "tinyimagenet", "digits", "imagefolder")


def load_dataset(
    name: str,
    root: str | os.PathLike[str],
    split: str = "test",
    download: bool = False,
    augment: bool = False,
    size: int | None = None,
) -> Any:
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
        size: for "imagefolder": cut the middle out of each image, a square, and resize it to so many pixels a side.
            (Default: images are taken as they are)

    Raises:
        FileNotFoundError: files are missing.
        ValueError: an unknown `name` or `split`, `augment` or `download` where they are not possible, files that
            are damaged, test classes that are not the training classes.
        TypeError: `root` is not a path.
        ImportError: torchvision, or scipy for SVHN, is not installed.
    """
    check_choice("name", name, DATASETS)
    check_choice("split", split, ("train", "test"))
    if augment and split != "train":
        raise ValueError(f"augment=True is for training only; it needs split='train', not {split!r}")
    if download and name not in ("cifar10", "svhn"):
        raise ValueError(f"download=True is possible for 'cifar10' and 'svhn' only; put the files of {name!r} in root")
    if size is not None and (check_count("size", size) and name != "imagefolder"):
        raise ValueError(f"size={size} is possible for 'imagefolder' only; images of {name!r} have their own")
    if name == "digits":
        if augment:
            raise ValueError("augment=True is not possible for 'digits'; their images have no room to be cropped")
        return _digits(split)
    if not isinstance(root, str | os.PathLike):
        raise TypeError(f"root={root!r} is a {type(root).__name__}; a directory is needed")
    folder = Path(root).expanduser()
    if name == "tinyimagenet":
        dataset = tiny_imagenet(folder, split)
    elif name == "imagefolder":
        dataset = _image_folder(folder, split, size)
    else:
        dataset = _checksummed(name, folder, split, download)
    if augment:
        moves = augmentation(name, dataset[0][0].shape[1:])
        dataset.transform = import_torchvision().transforms.Compose([dataset.transform, moves.of_image])
    return dataset


def as_tensors(dataset: Samples, n: int | None = None, seed: int | None = None) -> tuple[Tensor, Tensor]:
    """Return n samples as images (N, C, H, W), float32 in [0, 1], and classes (N,), int64.

    Args:
        dataset: what `load_dataset` returns, or another with a length and samples (image, class).
        n: number of samples. (Default: all)
        seed: draw the samples at random instead of taking the first; they stay in the dataset's order.

    Raises:
        TypeError: images that are not tensors, classes that are not numbers.
        ValueError: an empty subset, more samples than there are, images of different sizes or outside [0, 1],
            classes that are not whole numbers >= 0.
    """
    indices = _chosen(len(dataset), n, seed)
    images, labels = torch.empty(0), torch.empty(len(indices), dtype=torch.float64)
    for row, index in enumerate(indices):
        image, label = dataset[index]
        if not isinstance(image, Tensor):
            raise TypeError(f"the dataset's images are {type(image).__name__}; tensors are needed (ToTensor)")
        if row == 0:  # filled row by row: a list to stack would hold a large dataset twice
            images = torch.empty(len(indices), *image.shape, dtype=torch.float32)
        if image.shape != images.shape[1:]:
            sizes = ["x".join(map(str, shape)) for shape in (images.shape[1:], image.shape)]
            raise ValueError(f"images {indices[0]} and {index} have sizes {sizes[0]} and {sizes[1]}; one is needed")
        images[row] = image
        try:
            labels[row] = label
        except (TypeError, RuntimeError):
            raise TypeError(f"the dataset's classes are {label!r} and the like; class indices are needed") from None
    check_images(images)
    return images, class_indices(labels, len(indices))


def _chosen(total: int, n: int | None, seed: int | None) -> list[int]:
    """Return the numbers of n of `total` samples in ascending order: the first, or drawn with a seed.

    Raises:
        ValueError: more than there are, or none.
    """
    n = total if n is None else check_count("n", n, 0)
    if n > total:
        raise ValueError(f"n={n} samples asked for; the dataset has {total}")
    if n == 0:
        raise ValueError(f"an empty subset was asked for (n=0 of {total} samples); at least one sample is needed")
    if seed is None:
        return list(range(n))
    generator = torch.Generator().manual_seed(check_seed("seed", seed))
    return torch.randperm(total, generator=generator)[:n].sort().values.tolist()


def _digits(split: str) -> list[tuple[Tensor, int]]:
    """Return scikit-learn's digits.

    Raises:
        ImportError: it is not installed.
    """
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
    return list(zip(images, y.tolist(), strict=True))


def _checksummed(name: str, root: Path, split: str, download: bool) -> Any:
    """Return torchvision's dataset; it does not tell missing from damaged files, so look when it complains.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged.
        RuntimeError: another complaint of torchvision's.
        ImportError: scipy, which reads SVHN, is not installed.
        OSError: nothing can be written in `root`, to which it is to be downloaded.
    """
    torchvision = import_torchvision()
    options: dict[str, Any]
    if download:
        check_writable("dataset", root / name)
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
                remedy = "pass download=True or put the files there"
                raise FileNotFoundError(incomplete(name, root, f"{file} is missing", remedy)) from error
        for file, md5 in files.items():
            if not torchvision.datasets.utils.check_integrity(root / file, md5):
                reason = f"{file} does not have the checksum that torchvision expects"
                raise ValueError(damaged(name, root, f"{reason}; delete it and pass download=True")) from error
        raise


def _image_folder(root: Path, split: str, size: int | None) -> Any:
    """Return the class folders in root/train or root/test (or root/val), or those in `root` if it has none of them.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the classes of root/test are not those of root/train.
    """
    if not root.is_dir():
        remedy = "put class folders of images there"
        raise FileNotFoundError(incomplete("imagefolder", root, "there is no such directory", remedy))
    present = [entry for entry in ("train", "test", "val") if (root / entry).is_dir()]
    wanted = [entry for entry in present if (entry == "train") == (split == "train")]
    if present and not wanted:
        reason, remedy = f"there is {present[0]}, but no {split}", f"put the class folders of {split} there"
        raise FileNotFoundError(incomplete("imagefolder", root, reason, remedy))
    dataset = class_folders("imagefolder", root, root / wanted[0] if wanted else root, size)
    if wanted and split == "test" and "train" in present:
        train_classes = import_torchvision().datasets.folder.find_classes(root / "train")[0]
        if odd := set(train_classes) ^ set(dataset.classes):  # ImageFolder would number the others differently
            raise ValueError(f"root={str(root)!r} has class {min(odd)!r} in only one of train and {wanted[0]}")
    return dataset
