"""What the command line's arguments mean: checked, and turned into what the commands work on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from .recipes.common import Samples
from .recipes.datasets import DATASETS, as_tensors, load_dataset
from .short import short

_LARGEST_SIDE = 1024


def overrides(settings: Sequence[str] | None, option: str = "--set") -> dict[str, Any]:
    """Return {"lr": 0.02, ...} for ["lr=0.02", ...]; what is no JSON is text.

    Args:
        settings: what the option was given; the last of a name counts.
        option: its name, for the sentence.

    Raises:
        ValueError: no equals sign.
    """
    values = {}
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals:
            example = "epochs=10" if option == "--set" else "img_size=32"
            raise ValueError(f"{option} {setting!r} is not allowed; KEY=VALUE is needed, e.g. {option} {example}")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


def configured(config: Path | None) -> dict[str, Any]:
    """Return the settings in a file of YAML, as `part-plugin presets` prints them.

    Args:
        config: the file. (None: no settings)

    Raises:
        OSError: it cannot be read.
        ValueError: it is no YAML, or something else than settings by name.
    """
    if config is None:
        return {}
    import yaml

    try:
        found = yaml.safe_load(config.read_bytes())
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config {str(config)!r} is no YAML: {reason}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"--config {str(config)!r} has {short(found)}; settings are needed, as in: epochs: 80")
    return found


def check_not_given(out: Path, file: Path, given: Sequence[Path]) -> None:
    """Raise if what is written would replace what was given, or belongs to it.

    Args:
        out: what --out was given.
        file: that of which it would be.
        given: files to read.

    Raises:
        ValueError: it is one of them.
    """
    if file.resolve() in [one.resolve() for one in given]:
        raise ValueError(f"--out {str(out)!r} would replace {str(file)!r} or what belongs to it; choose another name")


def subset(dataset: Any, n: int, seed: int) -> Subset[Any]:
    """Return `n` samples of a dataset, drawn and ordered at random with a `seed`.

    Raises:
        ValueError: more than there are, or none.
    """
    if not 0 < n <= len(dataset):
        raise ValueError(f"--n {n} is not allowed; the dataset has {len(dataset)} samples and at least 1 is needed")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return Subset(dataset, order[:n].tolist())


def name_of(source: Path) -> str:
    """Return what a network is called in results: as its file, or as RobustBench calls it.

    Args:
        source: see `load_network`.
    """
    return source.stem.removeprefix("robustbench:")


def runs(checkpoints: Sequence[Path], seeds: Sequence[int]) -> list[tuple[str, str, int]]:
    """Return (name of the result, name of the checkpoint, seed) of every evaluation.

    Args:
        checkpoints: files, which name their results.
        seeds: each checkpoint is evaluated with all of them, and if they are several, they are in the names.

    Raises:
        ValueError: two results would have the same name, or one that of another file.
    """
    names = [name_of(path) for path in checkpoints]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two checkpoints are called {name!r}; their results would have the same name")
        if name == "comparison" or name.endswith(".state"):
            raise ValueError(f"a checkpoint called {name!r} would have results named as other files are; rename it")
    return [(f"{name}-seed{seed}" if len(seeds) > 1 else name, name, seed) for name in names for seed in seeds]


def images_for(
    descriptions: Mapping[str, Mapping[str, Any]], dataset: str | None, root: Path, download: bool, n: int | None
) -> tuple[Tensor, Tensor]:
    """Return test images (N, C, H, W) in [0, 1] and their classes (N,).

    Args:
        descriptions: those of the checkpoints, by their names.
        dataset: its name; None is what the first checkpoint was trained on.
        root: its directory.
        download: whether to fetch missing files.
        n: so many samples, the first, but drawn from an imagefolder, whose first images are all of one class.

    Raises:
        ValueError: no dataset is named, or one with classes that a network does not have.
    """
    if dataset is None:
        first = next(iter(descriptions))
        dataset, known = descriptions[first]["training"].get("dataset"), ", ".join(DATASETS)
        if dataset is None:
            raise ValueError(f"--dataset is missing, and checkpoint {first!r} does not say; choose from {known}")
        if type(dataset) is not str or dataset not in DATASETS:
            raise ValueError(f"checkpoint {first!r} was trained on dataset={short(dataset)}; known are {known}")
    size = trained_size(descriptions) if dataset == "imagefolder" else None
    side = size[0] if size is not None and size[0] == size[1] else None
    samples: Samples = load_dataset(dataset, root, "test", download, size=side)
    x, y = as_tensors(samples, n, 0 if dataset == "imagefolder" else None)
    for name, description in descriptions.items():
        classes = description["num_classes"]  # None of a network of one's own, of which it is seen later
        if classes is not None and int(y.max()) >= classes:
            raise ValueError(f"{dataset} has class {int(y.max())}, and checkpoint {name!r} has {classes} classes")
    return x, y


def trained_size(descriptions: Mapping[str, Mapping[str, Any]]) -> list[int] | None:
    """Return (H, W) of the images that the first checkpoint was trained on, None if it does not say.

    Args:
        descriptions: those of the checkpoints, by their names.

    Raises:
        ValueError: it says something else than three sizes.
    """
    first = next(iter(descriptions))
    shape = descriptions[first]["training"].get("image_shape")
    if shape is None:
        return None
    sizes = list(shape) if type(shape) in (list, tuple) else []
    if len(sizes) != 3 or not all(type(one) is int and 1 <= one <= _LARGEST_SIDE for one in sizes):
        raise ValueError(
            f"checkpoint {first!r} was trained on image_shape={short(shape)}; three integers from 1 to {_LARGEST_SIDE} "
            "are needed, or --size"
        )
    return sizes[1:]


def networks_and_pictures(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the checkpoints among `paths` and the other files.

    Raises:
        ValueError: one of the two is missing, or two checkpoints have the same name.
    """
    networks = [path for path in paths if _is_network(path)]
    pictures = [path for path in paths if path not in networks]
    if not networks or not pictures:
        raise ValueError("at least one checkpoint (.pt) and one picture are needed")
    names = [name_of(path) for path in networks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two checkpoints are called {name!r}; their columns would have the same name")
    return networks, pictures


def _is_network(path: Path) -> bool:
    endings = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")
    return path.suffix in endings or str(path).startswith("robustbench:") or path.is_dir()
