"""Any network from disk: this package's checkpoints, files and directories of other programs, RobustBench's models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.robustbench import normalize_model
from ..checks import check_count
from ..files import StrPath, opened
from ..short import short
from .architectures import arguments_of, build_network, check_architecture, has_own_head
from .checkpoints import check_normalisation, load_checkpoint
from .common import usable_device
from .directories import read_directory
from .entry_points import from_entry, is_entry
from .foreign_weights import aligned, read_weights
from .model_zoo import ZOO, load_from_zoo
from .skeleton import Skeleton, Spec, skeleton_of
from .weights_file import recognises

OWN = ("architecture", "arguments", "num_classes", "mean", "std", "key")
"""Arguments of `load_network` that a source which describes itself does not take."""


def describes_itself(source: StrPath) -> bool:
    """Return whether a network needs no `architecture`, as a directory or a checkpoint of this package.

    Args:
        source: see `load_network`.

    Raises:
        FileNotFoundError: no such file.
        OSError: no regular file, or it cannot be read.
    """
    if os.fspath(source).startswith(ZOO) or os.path.isdir(source):
        return True
    with opened("checkpoint", source) as file:
        return recognises(file)


def load_network(
    source: StrPath,
    architecture: str | None = None,
    num_classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    *,
    key: str | None = None,
    model_dir: StrPath = "models",
    device: str | torch.device = "cpu",
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network from disk, in eval mode on [0, 1] images, and its description; nothing is downloaded.

    The description has the keys of `load_checkpoint`'s and "notes", what was done to the weights, in words. A file is
    data: only what `architecture` names is called.

    Args:
        source: one of
            a checkpoint of this package, for which see `load_checkpoint`;
            a file of torch.save or safetensors with the weights of another program, for which `architecture` is needed;
            a directory of the Hugging Face hub, config.json and model.safetensors, of transformers or timm;
            "robustbench:NAME" or "robustbench:DATASET/THREAT_MODEL/NAME", a model of RobustBench in `model_dir`.
        architecture: see `build_network`, or "package.module:function" for a function, or class, of one's own that
            returns the network; `arguments` are passed to it, and `num_classes` if it has an argument of this name.
        num_classes: number of logits. (Default: what the weights tell)
        arguments: of the architecture, plain data. (Default: none)
        mean: normalisation per channel that the network expects of its input. (Default: none, or what the weights or
            the directory say)
        std: goes with `mean`; each > 0.
        key: under which the weights lie in a file that has several, such as "ema"; or a prefix of their names.
        model_dir: where RobustBench keeps its models, as DATASET/THREAT_MODEL/NAME.pt.
        device: where the network is to be.

    Raises:
        FileNotFoundError: no such file, directory or model.
        OSError: something else than a file or directory, or it cannot be read.
        ValueError: weights that are not those of the architecture, an architecture that is not known, arguments that
            do not go together, no such device.
        TypeError: a function of one's own that returns no network.
        ImportError: a library is not installed.
    """
    device = usable_device("device", device)
    if num_classes is not None:
        check_count("num_classes", num_classes)
    given = dict(zip(OWN, (architecture, arguments, num_classes, mean, std, key), strict=True))
    text = os.fspath(source)
    if text.startswith(ZOO):
        _refuse(text, given, OWN)
        model, description = load_from_zoo(text, model_dir)
    elif os.path.isdir(source):
        _refuse(text, given, [name for name in OWN if name not in ("mean", "std")])
        described, weights = read_directory(Path(source))
        if mean is not None or std is not None:
            described |= {"mean": mean, "std": std}
        model, description = _load(text, described, weights, bounded=True)
    elif architecture is None or describes_itself(source):
        _refuse(text, given, OWN)
        model, description = load_checkpoint(source)
        description["notes"] = []
    else:
        check_normalisation(mean, std)
        network = None
        if is_entry(architecture):
            network = from_entry(architecture, arguments or {}, num_classes)
        else:
            check_architecture(architecture, arguments or {})
        weights, notes, prefix = read_weights(source, key)
        described = {name: given[name] for name in ("architecture", "num_classes", "mean", "std")}
        described |= {
            "arguments": dict(arguments or {}),
            "training": {},
            "key": prefix,
            "notes": notes,
            "network": network,
        }
        model, description = _load(text, described, weights, bounded=False)
    return model.to(device).eval(), description


def _refuse(source: str, given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise if what is `given` is not for this source.

    Raises:
        ValueError: it is.
    """
    for name in names:
        if given[name] is not None:
            says = "says what it holds" if describes_itself(source) else "needs architecture first"
            raise ValueError(f"{name}={short(given[name])} does not go with {source!r}, which {says}")


def _load(
    source: str, described: dict[str, Any], weights: Mapping[str, Tensor], *, bounded: bool
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network that is `described`, with these weights, and its description.

    Raises:
        ValueError: they do not go together; the sentence names the source.
        ImportError: the library of the architecture is not installed.
    """
    try:
        return _described(described, weights, bounded)
    except ValueError as error:
        raise ValueError(f"checkpoint {source!r} cannot be used: {error}") from error


def _described(
    described: dict[str, Any], weights: Mapping[str, Tensor], bounded: bool
) -> tuple[nn.Module, dict[str, Any]]:
    architecture, arguments, classes = (described[name] for name in ("architecture", "arguments", "num_classes"))
    network: nn.Module | None = described.get("network")
    if network is not None:
        needed, head = Skeleton(_specs(network.state_dict()), {}, classes or 0), False
        found = aligned(architecture, classes or 0, needed, weights, described.get("key"), head)
    else:
        most = _specs(weights) if bounded else None
        head = has_own_head(architecture) or "num_classes" in arguments_of(architecture)
        if head and classes is None and (classes := arguments.get("num_classes")) is None:
            classes = _classes_of(architecture, arguments, weights, most)
        arguments = _with_classes(architecture, arguments, classes)
        needed = skeleton_of(architecture, arguments, classes or 1, most)
        classes = needed.classes if classes is None else classes
        found = aligned(architecture, classes, needed, weights, described.get("key"), head)
    mean, std = described["mean"], described["std"]
    if mean is None and std is None:
        mean, std = found.mean, found.std
    mean, std = check_normalisation(mean, std)
    if network is None:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            network = build_network(architecture, arguments, classes)
    network.load_state_dict(found.weights)
    description = {
        "format": None,
        "architecture": architecture,
        "arguments": dict(arguments),
        "num_classes": classes,
        "mean": mean,
        "std": std,
        "training": described["training"],
        "versions": {},
        "notes": [*described["notes"], *found.notes],
    }
    return network if mean is None else normalize_model(network, mean, std), description


def _specs(weights: Mapping[str, Tensor]) -> dict[str, Spec]:
    return {name: Spec(tuple(one.shape), one.dtype) for name, one in weights.items()}


def _with_classes(architecture: str, arguments: Mapping[str, Any], num_classes: int | None) -> Mapping[str, Any]:
    """Return the arguments with the number of logits among them, where the architecture takes it so."""
    if has_own_head(architecture) or num_classes is None or "num_classes" not in arguments_of(architecture):
        return arguments
    return {"num_classes": num_classes} | dict(arguments)


def _classes_of(
    architecture: str, arguments: Mapping[str, Any], weights: Mapping[str, Tensor], most: Mapping[str, Spec] | None
) -> int:
    """Return the number of logits: the first dimension of those weights that depend on it.

    Raises:
        ValueError: the weights do not tell.
    """
    one, other = (
        skeleton_of(architecture, _with_classes(architecture, arguments, number), number, most) for number in (3, 5)
    )
    names = [name for name, spec in one.weights.items() if other.weights.get(name) != spec]
    names += [name for name, own in one.published.items() if own in names]
    sizes = {
        len(tensor)
        for there, tensor in weights.items()
        if tensor.dim() and any(there == name or there.endswith(f".{name}") for name in names)
    }
    if len(sizes) != 1:
        raise ValueError(f"num_classes=None is not allowed, as the weights do not tell it; {architecture!r} needs one")
    return sizes.pop()
