"""RobustBench's models by name, from the files that RobustBench has downloaded before; nothing is fetched here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..adapters.robustbench import robustbench
from ..files import StrPath

ZOO = "robustbench:"
_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
_RADII = {("cifar10", "Linf"): 8 / 255, ("cifar100", "Linf"): 8 / 255, ("imagenet", "Linf"): 4 / 255}
"""Of RobustBench's threat models that are l_inf."""
_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def load_from_zoo(name: str, model_dir: StrPath) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model of RobustBench and its description.

    Args:
        name: "robustbench:NAME", or "robustbench:DATASET/THREAT_MODEL/NAME" where several have this name.
        model_dir: directory of the models.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: no such model, several, or one whose weights are not in a file of their own; a damaged file.
    """
    asked = name.removeprefix(ZOO)
    found = [place for place in _places() if asked in (place[2], "/".join(place))]
    if not found:
        [alike, *_] = difflib.get_close_matches(asked[:64], sorted({place[2] for place in _places()}), 1, 0.0)
        raise ValueError(f"{name!r} is no model of RobustBench; the nearest that it has is {alike!r}")
    files = {place: _files(*place, Path(model_dir)) for place in found}
    there = [place for place in found if files[place] and all(file.is_file() for file in files[place])]
    if len(there) > 1:
        names = " and ".join(repr(ZOO + "/".join(place)) for place in there)
        raise ValueError(f"{name!r} may be {names}; name one of them")
    if not there:
        _refuse(name, found, files)
    [(dataset, threat, model)] = there
    network = _load(dataset, threat, model, Path(model_dir), files[there[0]])
    training: dict[str, Any] = {"dataset": dataset}
    if (dataset, threat) in _RADII:
        training["eps"] = _RADII[dataset, threat]
    return network, {
        "format": None,
        "architecture": ZOO + "/".join(there[0]),
        "arguments": {},
        "num_classes": _CLASSES[dataset],
        "mean": None,
        "std": None,
        "training": training,
        "versions": {},
        "notes": [],
    }


def _places() -> Iterator[tuple[str, str, str]]:
    """Yield (dataset, threat model, name) of all models."""
    for dataset, threats in robustbench.model_zoo.models.model_dicts.items():
        for threat, models in threats.items():
            for name in models:
                yield dataset.value, threat.value, name


def _entry(dataset: str, threat: str, name: str) -> dict[str, Any]:
    models = robustbench.model_zoo.models.model_dicts
    [entry] = [
        models[one][kind][name]
        for one in models
        for kind in models[one]
        if (one.value, kind.value) == (dataset, threat)
    ]
    return dict(entry)


def _files(dataset: str, threat: str, name: str, model_dir: Path) -> list[Path]:
    """Return the files of a model; none where its weights come with a library, which would fetch them."""
    number = _entry(dataset, threat, name).get("gdrive_id")
    of_timm = f"{name.lower().replace('-', '_')}_{dataset}_{threat}".lower()  # as RobustBench asks timm for it
    if number is None or (dataset == "imagenet" and "Standard" in name) or timm.is_model(of_timm):
        return []
    path = model_dir / dataset / threat / f"{name}.pt"
    return [Path(f"{path}_m{one}.pt") for one in range(len(number))] if isinstance(number, list) else [path]


def _refuse(name: str, found: list[tuple[str, str, str]], files: dict[tuple[str, str, str], list[Path]]) -> None:
    """Say why there is no model.

    Raises:
        FileNotFoundError: its file is not there.
        ValueError: it has none.
    """
    missing = [file for place in found for file in files[place] if not file.is_file()]
    if not missing:
        raise ValueError(
            f"{name!r} has no file of its own, as a library has its weights; name its architecture instead"
        )
    dataset, threat, model = next(place for place in found if files[place])
    raise FileNotFoundError(
        f"{name!r} needs {' or '.join(repr(str(file)) for file in missing[:3])}, which does not exist; "
        f"robustbench.utils.load_model({model!r}, dataset={dataset!r}, threat_model={threat!r}) downloads it, or "
        "model_dir says where it is"
    )


def _load(dataset: str, threat: str, name: str, model_dir: Path, files: list[Path]) -> nn.Module:
    """Return a model through RobustBench itself, whose files are there.

    Raises:
        ValueError: a file is damaged, of another model, or holds more than plain data.
    """
    try:
        with _weights_only(), torch.random.fork_rng(range(torch.cuda.device_count())):
            network: nn.Module = robustbench.utils.load_model(name, model_dir, dataset, threat)
    except Exception as error:  # it passes on whatever torch finds wrong
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"checkpoint {str(files[0])!r} cannot be used: it is damaged or not that of {name!r} ({reason[0]})"
        ) from error
    return network


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let torch.load read nothing but plain data meanwhile."""
    before = os.environ.get(_FORCED)
    os.environ[_FORCED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCED]
        else:
            os.environ[_FORCED] = before
