"""The paper's datasets and settings: `load_dataset`, `as_tensors`, `preset`."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .cam import check_cam
from .checks import (
    check_choice,
    check_count,
    check_eps_pair,
    check_images,
    check_number,
    parse_radius,
    radius_text,
    warn_of_unusual,
)
from .part import PART
from .surrogate import check_fast

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
    torchvision, folder = _torchvision(), Path(root).expanduser()
    if name in ("cifar10", "svhn"):
        dataset = _checksummed(torchvision, name, folder, split, download)
    else:
        dataset = (_tiny_imagenet if name == "tinyimagenet" else _image_folder)(torchvision, folder, split)
    if augment:
        moves = augmentation(name, dataset[0][0].shape[1:])
        dataset.transform = torchvision.transforms.Compose([moves, dataset.transform])
    return dataset


def augmentation(name: str, size: Sequence[int]) -> Callable:
    """Return the moves of `load_dataset(name, augment=True)` for images of `size` (H, W).

    A transform of torchvision's second version: it moves an image and its mask alike.
    """
    _torchvision()
    transforms = importlib.import_module("torchvision.transforms.v2")
    height, width = size
    crop = transforms.RandomCrop((height, width), padding=(width // 8, height // 8))
    return transforms.Compose([crop] if name == "svhn" else [crop, transforms.RandomHorizontalFlip()])


class MovedMasks(Dataset):
    """Samples (image, class, number, mask): augmented images with the remembered masks that moved with them.

    Masks belong to the images as they are, and are moved by the very crop and flip of their image. Load with a new
    iterator for each epoch, as `DataLoader` does by default, so that its workers know the masks of that epoch.

    Args:
        dataset: samples (image, class) that are not augmented, images (C, H, W).
        part: the `PART` that remembers the masks; see `PART.remember`.
        transform: joint transform of image and mask, such as `augmentation`; None leaves both as they are.
    """

    def __init__(self, dataset: Dataset, part: PART, transform: Callable | None = None):
        self.dataset = dataset
        self.part = part
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, Tensor]:
        image, label = self.dataset[index]
        mask = self.part.mask_of(index, image.shape[1:])
        if self.transform is not None:
            tv_tensors = importlib.import_module("torchvision.tv_tensors")
            image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))
            image, mask = (part.as_subclass(Tensor) for part in (image, mask))
        return image, label, index, mask


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


def _torchvision() -> ModuleType:
    try:
        import torchvision
    except Exception as error:  # built for another torch, it raises more than ImportError
        raise ImportError(
            f"load_dataset needs torchvision, which cannot be imported ({error}): pip install torchvision"
        ) from error
    return torchvision


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


_RADII = ("eps", "eps_low", "alpha")


@dataclass(frozen=True)
class Preset:
    """The settings of a training, as in the paper (PART, Appendix G); made by `preset`, printed one a line.

    Attributes:
        dataset: name for `load_dataset`.
        num_classes: number of logits.
        architecture, arguments: RobustBench's, see `part_plugin.adapters.robustbench.build_model`.
        objective: "at", "trades" or "mart".
        beta: weight of the second term of TRADES and MART.
        eps, eps_low: l_inf radius of important and of other pixels, for images in [0, 1].
        alpha: step size of the attack, for images in [0, 1].
        steps: number of steps of the attack.
        burn_in: number of first epochs with eps everywhere.
        mask_every: masks are renewed every so many epochs.
        cam: name of a method, see `class_activation_map`.
        attack: "pgd" or "mma".
        fast: options that make the attack cheaper and approximate, see `part_plugin.surrogate.FAST`.
        epochs: number of epochs, burn-in included.
        milestones: numbers of epochs after which the learning rate is divided by 10.
        lr, momentum, weight_decay: of SGD.
        batch_size: images in a batch.
        seed: of everything random.
    """

    dataset: str
    num_classes: int = 10
    architecture: str = "resnet.ResNet18"
    arguments: dict[str, Any] = field(default_factory=dict)
    objective: str = "at"
    beta: float = 6.0
    eps: float = 8 / 255
    eps_low: float = 7 / 255
    alpha: float = 2 / 255
    steps: int = 10
    burn_in: int = 20
    mask_every: int = 1
    cam: str = "gradcam"
    attack: str = "pgd"
    fast: tuple[str, ...] = ()
    epochs: int = 80
    milestones: tuple[int, ...] = (60,)
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 2e-4
    batch_size: int = 128
    seed: int = 0

    def __str__(self) -> str:
        lines = []
        for name, value in vars(self).items():
            lines.append(f"{name} = {radius_text(value) if name in _RADII else value}")
        return "\n".join(lines)


PRESETS: dict[str, Preset] = {
    "cifar10": Preset("cifar10"),
    "svhn": Preset("svhn", alpha=1 / 255, weight_decay=3.5e-3),
    # WideResNet-34-10 under another name: wide_resnet.WideResNet has the same weights, but pools windows of 8x8, which
    # for images of 64x64 are four, and makes of each image four rows of logits; this one pools whatever there is.
    "tinyimagenet": Preset(
        "tinyimagenet",
        num_classes=200,
        architecture="robust_wide_resnet.RobustWideResNet",
        arguments={"depth_configs": [5, 5, 5], "channel_configs": [16, 160, 320, 640], "num_classes": 200},
        lr=0.02,
        weight_decay=5e-4,
        batch_size=512,
    ),
    # not of the paper: a network of 10,000 weights without strides, so that maps are as fine as the 8x8 images
    "digits": Preset(
        "digits",
        architecture="robust_wide_resnet.RobustWideResNet",
        arguments={"channel_configs": [8, 8, 16, 16], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]},
        eps=0.2,
        eps_low=0.175,
        alpha=0.05,
        burn_in=5,
        epochs=20,
        milestones=(15,),
        lr=0.05,
        weight_decay=5e-4,
        batch_size=32,
    ),
}

_CHOICES = {"dataset": DATASETS, "objective": ("at", "trades", "mart"), "attack": ("pgd", "mma")}
_LOWEST = {"num_classes": 2, "steps": 1, "burn_in": 0, "mask_every": 1, "epochs": 1, "batch_size": 1, "seed": 0}
_KINDS = {"architecture": str, "cam": str, "arguments": dict, "milestones": (list, tuple), "fast": (str, list, tuple)}


def preset(name: str, **overrides: Any) -> Preset:
    """Return the paper's settings for a dataset (PART, Appendix G), with those in `overrides` changed.

    Args:
        name: "cifar10", "svhn" or "tinyimagenet"; or "digits", which is not in the paper and trains in a minute.
        **overrides: any attribute of `Preset`; eps, eps_low and alpha also as "8/255". A new `architecture` starts
            from no `arguments`, and `num_classes` is added to them.

    Raises:
        TypeError: a setting of the wrong type.
        ValueError: an unknown name or setting, or settings that are not allowed or do not fit each other.
    """
    base = PRESETS[check_choice("name", name, tuple(PRESETS))]
    for setting in overrides:
        check_choice("setting", setting, [known.name for known in dataclasses.fields(Preset)])
    checked = {setting: _check_setting(setting, value) for setting, value in overrides.items()}
    if "architecture" in checked:
        checked.setdefault("arguments", {})
    settings = dataclasses.replace(copy.deepcopy(base), **checked)
    check_eps_pair(settings.eps, settings.eps_low)
    if settings.burn_in >= settings.epochs:
        raise ValueError(
            f"burn_in={settings.burn_in} leaves none of epochs={settings.epochs} for PART; it must be smaller"
        )
    warn_of_unusual(settings.eps)
    given = overrides.get("arguments", {}).get("num_classes")
    return dataclasses.replace(settings, arguments=_with_num_classes(settings, given))


def _with_num_classes(settings: Preset, given: int | None) -> dict[str, Any]:
    """Return the architecture's arguments with the number of classes in them."""
    num_classes = settings.num_classes
    if given not in (None, num_classes):
        raise ValueError(f"arguments have num_classes={given}, and the setting is num_classes={num_classes}; give one")
    if not settings.architecture.startswith("resnet."):
        return settings.arguments | {"num_classes": num_classes}
    if num_classes == 10:  # which RobustBench's ResNets have anyway
        return settings.arguments
    if settings.architecture != "resnet.ResNet18":
        raise ValueError(
            f"num_classes={num_classes} does not fit architecture {settings.architecture!r}, which has 10; choose "
            "another, e.g. 'resnet.ResNet18'"
        )
    return settings.arguments | {"num_classes": num_classes}


def _check_setting(name: str, value: Any) -> Any:
    """Return the value of one setting in its own type, or raise."""
    if name in _RADII:
        return check_number(name, parse_radius(name, value), above=name == "alpha")
    if name in _CHOICES:
        return check_choice(name, value, _CHOICES[name])
    if name in _LOWEST:
        return check_count(name, value, _LOWEST[name])
    if name not in _KINDS:
        return check_number(name, value, above=name == "lr")
    if not isinstance(value, _KINDS[name]):
        needed = {"arguments": "dict", "milestones": "list of epochs", "fast": "list of options"}.get(name, "str")
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; a {needed} is needed")
    if name == "cam":
        check_cam(value)
    if name == "fast":
        return check_fast(value)
    if name == "milestones":
        return tuple(check_count(name, epoch) for epoch in value)
    return copy.deepcopy(value)
