"""Directories as the Hugging Face hub has them: config.json, weights, and how images are to be normalised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import opened
from ..short import short
from .architectures import arguments_of, check_architecture
from .foreign_weights import read_weights

_LARGEST = 1 << 22  # bytes of a JSON file
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def read_directory(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a directory says of its network, and the weights.

    Args:
        folder: of transformers or timm.

    Raises:
        FileNotFoundError: a file is missing.
        OSError: a file cannot be read.
        ValueError: a file is damaged, or of a network that is not for classifying images.
        ImportError: the library is not installed.
    """
    config = _json(folder, "config.json")
    if config is None:
        raise FileNotFoundError(f"checkpoint {str(folder)!r} is a directory without config.json; a file is needed")
    files = [folder / name for name in _WEIGHTS if (folder / name).exists()]
    if not files:
        raise FileNotFoundError(f"checkpoint {str(folder)!r} has no {' or '.join(_WEIGHTS)}")
    described = _of_timm(config) if "pretrained_cfg" in config else _of_transformers(folder, config)
    check_architecture(described["architecture"], described["arguments"])
    weights, notes, _ = read_weights(files[0])
    return described | {"notes": [*described["notes"], *notes]}, weights


def _json(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what a JSON file of a directory holds, None if there is none.

    Raises:
        ValueError: it is damaged, or too large.
    """
    path = folder / name
    if not path.exists():
        return None
    with opened("file", path) as file:
        data = file.read(_LARGEST + 1)
    try:
        content = json.loads(data) if len(data) <= _LARGEST else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"file {str(path)!r} is damaged; a JSON object of at most {_LARGEST} bytes is needed")
    return content


def _of_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    more = config["pretrained_cfg"] if isinstance(config["pretrained_cfg"], dict) else {}
    return {
        "architecture": f"timm:{config.get('architecture')}",
        "arguments": config.get("model_args") or {},
        "num_classes": config.get("num_classes"),
        "mean": more.get("mean"),
        "std": more.get("std"),
        "training": _training(config.get("label_names"), more.get("input_size")),
        "notes": [],
    }


def _of_transformers(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what transformers' files say.

    Raises:
        ValueError: they name no network that classifies images.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or type(names[0]) is not str:
        raise ValueError(
            f"checkpoint {str(folder)!r} has architectures={short(names)} in its config.json; the name of one class is "
            "needed"
        )
    architecture = f"transformers:{names[0]}"
    check_architecture(architecture, {})
    takes, notes = arguments_of(architecture), []
    labels = config.get("id2label")
    classes = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    known = labels if isinstance(labels, dict) and all(str(number) in labels for number in range(len(labels))) else None
    pictures = _json(folder, "preprocessor_config.json")
    mean = std = None
    if pictures is None:
        notes.append("no preprocessor_config.json, so no normalisation")
    elif pictures.get("do_normalize", True):
        mean, std = pictures.get("image_mean"), pictures.get("image_std")
    side = config.get("image_size")
    return {
        "architecture": architecture,
        "arguments": {name: config[name] for name in takes if name in config and name != "num_labels"},
        "num_classes": classes,
        "mean": mean,
        "std": std,
        "training": _training(known and [known[str(number)] for number in range(len(known))], side and [3, side, side]),
        "notes": notes,
    }


def _training(names: Any, shape: Any) -> dict[str, Any]:
    """Return what is known of the training: names of classes, (C, H, W) of images."""
    training: dict[str, Any] = {}
    if isinstance(names, list) and all(type(name) is str for name in names):
        training["class_names"] = names
    if isinstance(shape, list) and len(shape) == 3 and all(type(side) is int for side in shape):
        training["image_shape"] = shape
    return training
