"""The file from which a training that was stopped goes on: read, and checked in full before anything is changed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..files import StrPath, read_tensors
from ..short import short
from .plain import plain
from .skeleton import Spec

FORMAT = 2
_REMEDY = "remove it to begin anew"
_KEYS: dict[str, type] = {
    "settings": dict,
    "done": list,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
}
_RECORD = ("epoch", "loss", "adv_accuracy", "lr", "seconds")
_PREFIX = "network."


@dataclass(frozen=True)
class Expected:
    """What the state of a run must agree with.

    Attributes:
        settings: those of the training, plain data.
        model: weights of the network before its first epoch; their values are not looked at.
        optimizer: state of the optimizer then.
        schedule: that of the schedule.
        parameters: those that the optimizer works on.
        batches: number of batches of an epoch.
        samples: number of samples.
        size: (H, W) of the images.
        renewal: epoch, counted from 1 -> number of the renewal that the masks at its end are of, None without masks.
    """

    settings: Mapping[str, Any]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    parameters: Sequence[Tensor]
    batches: int
    samples: int
    size: Sequence[int]
    renewal: Callable[[int], int | None]


def read_resume(path: StrPath, expected: Expected) -> dict[str, Any]:
    """Return the Lightning checkpoint in a file, of which every part fits the run.

    Args:
        path: file to read.
        expected: what it must agree with; its settings may have more epochs.

    Raises:
        FileNotFoundError: no such file.
        OSError: no regular file, or it cannot be read.
        ValueError: it is damaged, or belongs to another training, or one of more epochs.
    """
    state = read_tensors("resume file", path, FORMAT, _KEYS, _REMEDY)
    name = f"resume file {os.fspath(path)!r}"
    try:
        found = plain(state["settings"])
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{name} is damaged, its settings are not plain data; {_REMEDY}") from error
    settings = plain(expected.settings)
    for setting in (settings | found).keys() - {"epochs"}:
        if found.get(setting) != settings.get(setting):
            raise ValueError(
                f"{name} belongs to another training: its {setting} is {short(state['settings'].get(setting))}, not "
                f"{short(expected.settings.get(setting))}; remove it or choose another checkpoint name"
            )
    try:
        _check(state, expected)
    except ValueError as error:
        raise ValueError(f"{name} is damaged, {error}; {_REMEDY}") from error
    done, epochs = state["done"], settings["epochs"]
    if done > [epochs, 0]:
        raise ValueError(f"{name} is of epoch {done[0] + bool(done[1])}, beyond epochs={epochs}; {_REMEDY}")
    (optimizer,), (schedule,) = state["optimizer_states"], state["lr_schedulers"]
    known = expected.schedule.keys()  # it takes every other value for an attribute of its own
    moments = {number: dict.fromkeys(one, _own(*one.values())) for number, one in optimizer["state"].items()}
    return state | {
        "optimizer_states": [optimizer | {"state": moments}],
        "lr_schedulers": [{name: value for name, value in schedule.items() if name in known}],
    }


def _own(buffer: Tensor | None = None) -> Tensor | None:
    """Return a tensor in memory of its own; a file may hold several of one memory, which SGD cannot write to."""
    return None if buffer is None else buffer.detach().clone(memory_format=torch.contiguous_format)


def _check(state: Mapping[str, Any], expected: Expected) -> None:
    """Raise unless every part of a state fits the run.

    Raises:
        ValueError: one does not; the sentence says which.
    """
    epoch, given = _check_position(state, expected.batches)
    for callback in ("Records", "MasksOf"):
        if not isinstance(state["callbacks"].get(callback), dict):
            raise ValueError(f"its callbacks lack {callback!r}")
    _check_records(state["callbacks"]["Records"], epoch)
    model = {short_name(name): tensor for name, tensor in state["state_dict"].items()}
    _check_tensors("model", model, expected.model)
    for name in expected.model:
        if name not in model:
            raise ValueError(f"its model lacks {name!r}")
    for states in ("optimizer_states", "lr_schedulers"):
        if len(state[states]) != 1 or not isinstance(state[states][0], dict):
            raise ValueError(f"its {states} are not one")
    (optimizer,), (schedule,) = state["optimizer_states"], state["lr_schedulers"]
    _check_optimizer(optimizer, expected.optimizer, expected.parameters)
    needed = ("milestones", "gamma", "base_lrs", "last_epoch", "_last_lr")
    _check_values("schedule", schedule, {**expected.schedule, "last_epoch": epoch}, needed, ("_last_lr",))
    (group,) = expected.optimizer["param_groups"]
    passed = sum(times for milestone, times in expected.schedule["milestones"].items() if milestone <= epoch)
    due_lr = group["lr"] * expected.schedule["gamma"] ** passed
    lr = optimizer["param_groups"][0]["lr"]
    if not math.isclose(lr, due_lr, rel_tol=1e-9):
        raise ValueError(f"lr={lr} of its optimizer is not {due_lr:g}, which epoch {epoch} ends with")
    part = state["callbacks"]["MasksOf"]
    step, due = part.get("step"), epoch * expected.batches + given
    if type(step) is not int or step != due:
        raise ValueError(
            f"step={short(step)} is not {due}, {epoch} epochs of {expected.batches} batches and {given} more"
        )
    _check_masks(part, expected, expected.renewal(epoch + bool(given)))


def short_name(name: Any) -> Any:
    """Return the `name` of a weight without what Lightning puts before it."""
    return name.removeprefix(_PREFIX) if isinstance(name, str) else name


def _check_position(state: Mapping[str, Any], batches: int) -> tuple[int, int]:
    """Return the number of epochs that are done, and that of batches of the next.

    Raises:
        ValueError: it is not told, or in several ways.
    """
    done = state["done"]
    if len(done) != 2 or any(type(one) is not int for one in done) or not (0 <= done[1] < batches and done > [0, 0]):
        raise ValueError(f"done={short(done)} are not numbers of epochs and of batches, of {batches}")
    for value in _leaves(state["loops"]):
        if type(value) not in (int, bool) or value < 0:
            raise ValueError(f"{short(value)} of its loops is no count")
    epoch, given = done
    try:
        loop = state["loops"]["fit_loop"]
        total = loop["epoch_loop.batch_progress"]["total"]["processed"]
        told = [loop["epoch_progress"]["current"]["processed"], loop["state_dict"]["combined_loader"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"its loops lack {error}") from error
    if total != epoch * batches + given or told != [epoch, [{"epoch": epoch, "given": given}]]:
        raise ValueError(f"its loops are not where {epoch} epochs of {batches} batches and {given} more end")
    return epoch, given


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value


def _check_records(records: Mapping[str, Any], epoch: int) -> None:
    """Raise unless there is a history of all epochs, and of the next what is needed.

    Raises:
        ValueError: there is not.
    """
    history, sums, seconds = records.get("history"), records.get("sums"), records.get("seconds")
    if not isinstance(history, list):
        raise ValueError(f"its history is {short(history)}")
    _check_history(history, epoch)
    if not isinstance(sums, list) or len(sums) != 3 or any(type(one) not in (int, float) for one in [*sums, seconds]):
        raise ValueError(f"sums={short(sums)} and seconds={short(seconds)} of its records are not numbers")


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
