"""Checkpoints: weights and a plain-data description of the network that they belong to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters.robustbench import build_model, normalize_model
from ..network.view import without_wrappers

FORMAT = 1


def save_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    architecture: str,
    num_classes: int,
    arguments: dict[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    training: dict[str, Any] | None = None,
) -> None:
    """Write weights and a plain-data description of them, in one step that cannot be half done.

    Args:
        path: file to write.
        model: network of that architecture; an ART classifier's is `classifier.model`.
        architecture, arguments: see `build_model`.
        num_classes: number of logits.
        mean, std: normalisation per channel that the network expects of its input; default: none.
        training: settings of the training, plain data of your choice.

    Raises:
        ValueError: the description does not build a network with these weights; nothing is written.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in without_wrappers(model).state_dict().items()}
    content = {
        "format": FORMAT,
        "architecture": architecture,
        "arguments": dict(arguments or {}),
        "num_classes": num_classes,
        "mean": None if mean is None else [float(value) for value in mean],
        "std": None if std is None else [float(value) for value in std],
        "training": dict(training or {}),
        "state_dict": weights,
    }
    _restore(content)
    write_tensors(content, path)


def write_tensors(content: dict[str, Any], path: str | os.PathLike) -> None:
    """Write plain data and tensors in one step that cannot be half done.

    Raises:
        Exception: `content` holds something else; nothing is written.
    """
    directory = Path(path).resolve().parent
    directory.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
    os.close(handle)
    try:
        torch.save(content, temporary)
        torch.load(temporary, weights_only=True)  # plain data only, or say so now
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_checkpoint(path: str | os.PathLike, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a checkpoint, in eval mode on [0, 1] images, and its description.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this package, or one that does not fit its own description.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"checkpoint {os.fspath(path)!r} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"checkpoint {os.fspath(path)!r} is damaged or holds more than plain data and tensors"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"checkpoint {os.fspath(path)!r} was not written by save_checkpoint (format {FORMAT})")
    model = _restore(content)
    if content["mean"] is not None:
        model = normalize_model(model, content["mean"], content["std"])
    return model.to(device).eval(), {name: value for name, value in content.items() if name != "state_dict"}


def _restore(content: dict[str, Any]) -> nn.Module:
    """Return the network that a checkpoint describes, with its weights."""
    if (content["mean"] is None) != (content["std"] is None):
        raise ValueError("mean and std go together; give both or neither")
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # its first weights are drawn and thrown away
        model = build_model(content["architecture"], content["arguments"])
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"the weights do not fit architecture {content['architecture']!r}: {reason}") from error
    *_, last = (parameter for parameter in model.parameters())
    if last.shape[0] != content["num_classes"]:
        raise ValueError(f"num_classes={content['num_classes']} does not fit the weights, which have {last.shape[0]}")
    return model
