"""The file from which a training that was stopped goes on: read, and checked in full before anything is changed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..files import StrPath, read_tensors
from ..short import short
from .plain import plain
from .skeleton import Spec

FORMAT = 1
_REMEDY = "remove it to begin anew"
_KEYS: dict[str, type] = {
    "settings": dict,
    "model": dict,
    "optimizer": dict,
    "schedule": dict,
    "part": dict,
    "epoch": int,
    "history": list,
}
_RECORD = ("epoch", "loss", "adv_accuracy", "lr", "seconds")


@dataclass(frozen=True)
class Expected:
    """What the state of a run must agree with.

    Attributes:
        settings: those of the training, plain data.
        fresh: the state of the run before its first epoch.
        parameters: those that the optimizer works on.
        epochs: number of epochs of the whole training.
        batches: number of batches of an epoch.
        samples: number of samples.
        size: (H, W) of the images.
        renewal: epoch, counted from 1 -> number of the renewal that the masks at its end are of, None without masks.
    """

    settings: Mapping[str, Any]
    fresh: Mapping[str, Any]
    parameters: Sequence[Tensor]
    epochs: int
    batches: int
    samples: int
    size: Sequence[int]
    renewal: Callable[[int], int | None]


def read_resume(path: StrPath, expected: Expected) -> dict[str, Any]:
    """Return the state in a file, of which every part fits the run.

    Args:
        path: file to read.
        expected: what it must agree with.

    Raises:
        FileNotFoundError: no such file.
        OSError: no regular file, or it cannot be read.
        ValueError: it is damaged, or belongs to another training.
    """
    state = read_tensors("resume file", path, FORMAT, _KEYS, _REMEDY)
    name = f"resume file {os.fspath(path)!r}"
    told = {"augmented": expected.settings["augmented"]} | state["settings"]  # which was not always told
    try:
        found = plain(told)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{name} is damaged, its settings are not plain data; {_REMEDY}") from error
    settings = plain(expected.settings)
    for setting in settings | found:
        if found.get(setting) != settings.get(setting):
            raise ValueError(
                f"{name} belongs to another training: its {setting} is {short(told.get(setting))}, not "
                f"{short(expected.settings.get(setting))}; remove it or choose another checkpoint name"
            )
    try:
        _check(state, expected)
    except ValueError as error:
        raise ValueError(f"{name} is damaged, {error}; {_REMEDY}") from error
    known = expected.fresh["schedule"].keys()  # it takes every other value for an attribute of its own
    moments = {number: dict.fromkeys(one, _own(*one.values())) for number, one in state["optimizer"]["state"].items()}
    state = state | {"optimizer": state["optimizer"] | {"state": moments}}
    return state | {"schedule": {name: value for name, value in state["schedule"].items() if name in known}}


def _own(buffer: Tensor | None = None) -> Tensor | None:
    """Return a tensor in memory of its own; a file may hold several of one memory, which SGD cannot write to."""
    return None if buffer is None else buffer.detach().clone(memory_format=torch.contiguous_format)


def _check(state: Mapping[str, Any], expected: Expected) -> None:
    """Raise unless every part of a state fits the run.

    Raises:
        ValueError: one does not; the sentence says which.
    """
    epoch, fresh = state["epoch"], expected.fresh
    if not 1 <= epoch <= expected.epochs:
        raise ValueError(f"epoch={short(epoch)} is not one of 1 to {expected.epochs}")
    _check_history(state["history"], epoch)
    _check_tensors("model", state["model"], fresh["model"])
    for name in fresh["model"]:
        if name not in state["model"]:
            raise ValueError(f"its model lacks {name!r}")
    _check_optimizer(state["optimizer"], fresh["optimizer"], expected.parameters)
    needed = ("milestones", "gamma", "base_lrs", "last_epoch", "_last_lr")
    _check_values("schedule", state["schedule"], fresh["schedule"] | {"last_epoch": epoch}, needed, ("_last_lr",))
    (group,), schedule = fresh["optimizer"]["param_groups"], fresh["schedule"]
    passed = sum(times for milestone, times in schedule["milestones"].items() if milestone <= epoch)
    due_lr = group["lr"] * schedule["gamma"] ** passed
    lr = state["optimizer"]["param_groups"][0]["lr"]
    if not math.isclose(lr, due_lr, rel_tol=1e-9):
        raise ValueError(f"lr={lr} of its optimizer is not {due_lr:g}, which epoch {epoch} ends with")
    step, due = state["part"].get("step"), epoch * expected.batches
    if type(step) is not int or step != due:
        raise ValueError(f"step={short(step)} is not {due}, {epoch} epochs of {expected.batches} batches")
    _check_masks(state["part"], expected, expected.renewal(epoch))


def _check_history(history: Sequence[Any], epoch: int) -> None:
    """Raise unless there is a record for each epoch.

    Raises:
        ValueError: there is not.
    """
    if len(history) != epoch:
        raise ValueError(f"its history has {len(history)} epochs, not {epoch}")
    for number, record in enumerate(history, 1):
        fits = isinstance(record, dict) and set(_RECORD) <= set(record) and record["epoch"] == number
        if not fits or not all(type(key) is str and type(one) in (int, float) for key, one in record.items()):
            raise ValueError(f"record {number} of its history is {short(record)}")


def _check_tensors(kind: str, found: Mapping[Any, Any], fresh: Mapping[Any, Any]) -> None:
    """Raise unless each tensor has a fresh one of its shape and dtype.

    Raises:
        ValueError: one has not.
    """
    for name, tensor in found.items():
        if name not in fresh:
            raise ValueError(f"its {kind} has {short(name)}, which is not known")
        needed = Spec(tuple(fresh[name].shape), fresh[name].dtype)
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise ValueError(f"{short(name)} of its {kind} is {short(tensor)}; {needed} is needed")
        if (spec := Spec(tuple(tensor.shape), tensor.dtype)) != needed:
            raise ValueError(f"{short(name)} of its {kind} is {spec}; {needed} is needed")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{short(name)} of its {kind} has values that are not finite")


def _check_optimizer(found: Mapping[Any, Any], fresh: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Raise unless this is the state of an SGD over these parameters that has made a step.

    Raises:
        ValueError: it is not.
    """
    groups, moments = found.get("param_groups"), found.get("state")
    if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
        raise ValueError("its optimizer lacks its group of parameters")
    (group,) = fresh["param_groups"]
    _check_values("optimizer", groups[0], group, ("lr", "momentum", "weight_decay", "params"), ("lr",))
    if not isinstance(moments, dict) or (group["momentum"] and not moments):
        raise ValueError("its optimizer lacks its state")
    for number, moment in moments.items():
        if not isinstance(moment, dict) or set(moment) > {"momentum_buffer"}:
            raise ValueError(f"its optimizer has {short(moment)} for parameter {short(number)}")
    buffers = {number: moment.get("momentum_buffer") for number, moment in moments.items()}
    told = {number: buffer for number, buffer in buffers.items() if buffer is not None or group["momentum"]}
    _check_tensors("optimizer", told, dict(enumerate(parameters)))


def _check_values(
    kind: str, found: Mapping[Any, Any], fresh: Mapping[str, Any], needed: Sequence[str], free: Sequence[str]
) -> None:
    """Raise unless values are those of a fresh run; those that are `free` are numbers, or lists of them.

    Raises:
        ValueError: one is not.
    """
    for name in needed:
        if name not in found:
            raise ValueError(f"its {kind} lacks {name!r}")
    for name in fresh.keys() & found.keys():
        value = found[name]
        if name in free:
            numbers = value if isinstance(value, list) else [value]
            if type(value) is not type(fresh[name]) or any(type(one) not in (int, float) for one in numbers):
                raise ValueError(f"{name}={short(value)} of its {kind} is not allowed")
        elif not name.startswith("_") and not _equal(value, fresh[name]):
            raise ValueError(f"{name}={short(value)} of its {kind} is not {short(fresh[name])}")


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, RecursionError):  # tensors of several values
        return False


def _check_masks(part: Mapping[str, Any], expected: Expected, renewal: int | None) -> None:
    """Raise unless there is a mask for each sample where masks are remembered, and none elsewhere.

    Raises:
        ValueError: there is not.
    """
    keys, masks, size = part.get("mask_keys"), part.get("masks"), part.get("mask_size")
    if not isinstance(keys, Tensor) or keys.dtype != torch.int64 or keys.dim() != 1:
        raise ValueError(f"mask_keys={short(keys)} are not the numbers of samples")
    since = part.get("masks_since", "missing")
    if type(since) not in (int, type(None)) or since != renewal:
        raise ValueError(f"masks_since={short(since)} is not {renewal}")
    samples = 0 if renewal is None else expected.samples
    if len(keys) != samples or sorted(keys.tolist()) != list(range(samples)):
        raise ValueError(f"masks of {len(keys)} samples are there, not of each of {samples}")
    pixels = expected.size[0] * expected.size[1] if samples else 0
    shapes = {(samples, -(-pixels // 8)), (samples, pixels)}  # a bit for each pixel, or 8
    if not isinstance(masks, Tensor) or masks.dtype != torch.uint8 or tuple(masks.shape) not in shapes:
        raise ValueError(f"its masks are not {samples} of {-(-pixels // 8)} bytes, or of {pixels}")
    if size is not None and not _equal(list(size) if isinstance(size, (tuple, list)) else size, list(expected.size)):
        raise ValueError(f"mask_size={short(size)} is not {short(tuple(expected.size))}")
