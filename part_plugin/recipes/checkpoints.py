"""Checkpoints: weights and a plain-data description of the network that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..adapters.robustbench import build_model, normalize_model
from ..files import StrPath, read_tensors, write_tensors
from ..network.view import without_wrappers
from .common import usable_device

FORMAT = 1
_KEYS = {
    "architecture": str,
    "arguments": dict,
    "num_classes": int,
    "mean": list | None,
    "std": list | None,
    "training": dict,
    "state_dict": dict,
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

    Args:
        path: file to write.
        model: network of that architecture; an ART classifier's is `classifier.model`.
        architecture: name of the network, see `build_model`.
        num_classes: number of logits.
        arguments: of the architecture, see `build_model`. (Default: none)
        mean: normalisation per channel that the network expects of its input. (Default: none)
        std: goes with `mean`.
        training: settings of the training, plain data of your choice.

    Raises:
        ValueError: the description does not build a network with these weights; nothing is written.
        TypeError: `training` is not plain data; nothing is written.
        OSError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "architecture": architecture,
        "arguments": dict(arguments or {}),
        "num_classes": num_classes,
        "mean": None if mean is None else [float(value) for value in mean],
        "std": None if std is None else [float(value) for value in std],
        "training": dict(training or {}),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in without_wrappers(model).state_dict().items()},
    }
    _restore(content)
    write_tensors("checkpoint", path, content)


def load_checkpoint(path: StrPath, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a checkpoint, in eval mode on [0, 1] images, and its description.

    Args:
        path: file that `save_checkpoint` wrote.
        device: where the network is to be.

    Raises:
        FileNotFoundError: no such file.
        OSError: a directory, or it cannot be read.
        ValueError: not a checkpoint of this package, one that does not fit its own description, or no such device.
    """
    device = usable_device("device", device)
    content = read_tensors("checkpoint", path, FORMAT, _KEYS, "save_checkpoint writes one")
    model = _restore(content)
    if content["mean"] is not None:
        model = normalize_model(model, content["mean"], content["std"])
    return model.to(device).eval(), {name: value for name, value in content.items() if name != "state_dict"}


def _restore(content: dict[str, Any]) -> nn.Module:
    """Return the network that a checkpoint describes, with its weights.

    Raises:
        ValueError: the description does not fit the weights.
    """
    if (content["mean"] is None) != (content["std"] is None):
        raise ValueError("mean and std go together; give both or neither")
    with torch.random.fork_rng(range(torch.cuda.device_count())):  # its first weights are drawn and thrown away
        model = build_model(content["architecture"], content["arguments"])
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(f"the weights do not fit architecture {content['architecture']!r}: {reason}") from error
    *_, last = model.parameters()
    if last.shape[0] != content["num_classes"]:
        raise ValueError(f"num_classes={content['num_classes']} does not fit the weights, which have {last.shape[0]}")
    return model
