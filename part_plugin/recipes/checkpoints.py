"""Checkpoints: weights and a plain-data description of the network that they belong to.

A checkpoint is data. Nothing in it can make `load_checkpoint` call, open, fetch or allocate anything but the network
that it names, one of `ARCHITECTURES`, in the size of the weights that it holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import UnionType
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..adapters.robustbench import normalize_model
from ..files import StrPath, opened, read_tensors, write_bytes
from ..network.view import without_wrappers
from ..short import short
from .architectures import build_network, check_architecture, version_of
from .common import usable_device
from .skeleton import Spec, check_fits
from .weights_file import FORMAT, WeightsFile, encode, recognises

_CHANNELS = 3
_KEYS: dict[str, type | UnionType] = {
    "architecture": str,
    "arguments": dict,
    "num_classes": int,
    "mean": list | None,
    "std": list | None,
    "training": dict,
    "versions": dict,
}


def save_checkpoint(
    path: StrPath,
    model: nn.Module,
    architecture: str,
    num_classes: int,
    arguments: dict[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Write weights and a plain-data description of them, in one step that cannot be half done.

    The file is of the safetensors format, whatever its name ends in.

    Args:
        path: file to write.
        model: network of that architecture; an ART classifier's is `classifier.model`.
        architecture: name of the network, see `build_network`: "resnet.ResNet18", "timm:resnet18", ...
        num_classes: number of logits.
        arguments: of the architecture, see `build_network`. (Default: none)
        mean: normalisation per channel that the network expects of its input. (Default: none)
        std: goes with `mean`; each > 0.
        training: settings of the training, plain data of your choice; tuples in it come back as lists.

    Raises:
        ValueError: the description does not build a network with these weights; nothing is written.
        TypeError: `training` is not plain data; nothing is written.
        ImportError: the library of the architecture is not installed; nothing is written.
        OSError: the file cannot be written.
    """
    state = without_wrappers(model).state_dict()
    description: dict[str, Any] = {
        "architecture": architecture,
        "arguments": {} if arguments is None else arguments,
        "num_classes": num_classes,
        "mean": _as_list(mean),
        "std": _as_list(std),
        "training": {} if training is None else training,
        "versions": {
            "part_plugin": __version__,
            "torch": str(torch.__version__),
            "robustbench": metadata.version("robustbench"),
        },
    }
    _check(description, _specs(state))
    description["versions"] |= version_of(architecture)
    try:
        content = encode(description, state)
    except (TypeError, RecursionError) as error:
        raise TypeError(f"checkpoint {os.fspath(path)!r} can hold plain data only: {error}") from error
    write_bytes("checkpoint", path, content)


def load_checkpoint(path: StrPath, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a checkpoint, in eval mode on [0, 1] images, and its description.

    The description has the keys "format", "architecture", "arguments", "num_classes", "mean", "std", "training" and
    "versions"; it is plain data, of which all but "training" has been checked.

    Args:
        path: file that `save_checkpoint` wrote, in this or an earlier release.
        device: where the network is to be.

    Raises:
        FileNotFoundError: no such file.
        OSError: no regular file, or it cannot be read.
        ValueError: not a checkpoint of this package, one that does not fit its own description, or no such device.
        ImportError: the library of its architecture is not installed.
    """
    device = usable_device("device", device)
    with opened("checkpoint", path) as file:
        if recognises(file):
            with _named(path):
                stored = WeightsFile(file)
                _check(stored.description, stored.weights)
                description, weights = {"format": FORMAT} | stored.description, stored.tensors()
        else:
            description, weights = _first_format(path, os.fstat(file.fileno()).st_size)
    with _named(path):
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # its first weights are drawn and thrown away
            model = build_network(*(description[key] for key in ("architecture", "arguments", "num_classes")))
        model.load_state_dict(weights)
    if description["mean"] is not None:
        model = normalize_model(model, description["mean"], description["std"])
    return model.to(device).eval(), description


@contextmanager
def _named(path: StrPath) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"checkpoint {os.fspath(path)!r} cannot be used: {error}") from error


def _first_format(path: StrPath, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return description and weights of a file of format 1, which torch.save wrote.

    Raises:
        ValueError: it is damaged or no checkpoint.
    """
    keys = {name: kind for name, kind in _KEYS.items() if name != "versions"} | {"state_dict": dict}
    remedy = "save_checkpoint writes one, other weights need architecture"
    content = read_tensors("checkpoint", path, 1, keys, remedy)
    description = {name: content[name] for name in keys if name != "state_dict"} | {"versions": {}}
    weights = content["state_dict"]
    with _named(path):
        specs = _specs(weights)
        if sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in specs.values()) > size:
            raise ValueError("its weights are larger than the file")
        _check(description, specs)
    return {"format": 1} | description, weights


def _check(description: Mapping[str, Any], weights: Mapping[str, Spec]) -> None:
    """Raise unless a description is whole, of the right types, allowed, and that of these weights.

    Raises:
        ValueError: it is not.
    """
    for name in description:
        if name not in _KEYS:
            raise ValueError(f"it has no {short(name)}; known are {', '.join(_KEYS)}")
    for name, kinds in _KEYS.items():
        if name not in description:
            raise ValueError(f"{name!r} is missing")
        value = description[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            needed = getattr(kinds, "__name__", "list or None")
            raise ValueError(f"{name}={short(value)} is a {type(value).__name__}; {needed} is needed")
    check_architecture(description["architecture"], description["arguments"])
    check_normalisation(description["mean"], description["std"])
    check_fits(description["architecture"], description["arguments"], description["num_classes"], weights)


def check_normalisation(mean: Any, std: Any) -> tuple[list[float] | None, list[float] | None]:
    """Return mean and standard deviation as lists, if they may be used.

    Args:
        mean: a number for each channel, or None.
        std: likewise.

    Raises:
        ValueError: one alone, or they are not numbers, as many as channels.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together; give both or neither")
    if mean is None:
        return None, None
    values = {"mean": _as_list(mean), "std": _as_list(std)}
    for name, one in values.items():
        _check_per_channel(name, one, positive=name == "std")
    return values["mean"], values["std"]


def _check_per_channel(name: str, values: Any, *, positive: bool) -> None:
    """Raise unless there is a number for each channel, finite in single precision, and > 0 if `positive`.

    Raises:
        ValueError: there is not.
    """
    allowed = f"{_CHANNELS} finite numbers{' > 0' if positive else ''} are needed, one per channel"
    if (
        not isinstance(values, list)
        or len(values) != _CHANNELS
        or any(type(value) not in (int, float) or abs(value) > 1e30 for value in values)
    ):
        raise ValueError(f"{name}={short(values)} is not allowed; {allowed}")
    single = torch.tensor(values, dtype=torch.float32)
    if not bool(single.isfinite().all()) or (positive and not bool((single > 0).all())):
        raise ValueError(f"{name}={short(values)} is not allowed; {allowed}")


def _specs(weights: Mapping[Any, Any]) -> dict[str, Spec]:
    """Return the shapes and dtypes of dense tensors.

    Raises:
        ValueError: something else is among them.
    """
    for name, tensor in weights.items():
        if type(name) is not str or not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"the weights hold {short(name)}, {short(tensor)}; names and dense tensors are needed")
    return {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}


def _as_list(values: Any) -> Any:
    """Return numbers of a sequence, array or tensor, as Python's."""
    if values is None or isinstance(values, (str, int, float)):
        return values
    return values.tolist() if hasattr(values, "tolist") else list(values)
