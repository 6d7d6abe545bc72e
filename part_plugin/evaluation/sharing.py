"""Who makes the pieces of an evaluation: this process, workers on a CPU or on several devices, or ranks."""

from __future__ import annotations

import os

import torch
from torch import nn

from ..checks import check_count
from .common import device_of
from .pieces import Alone
from .ranks import Ranks
from .workers import Workers


def shared(model: nn.Module, jobs: int, devices: int, ranks: bool) -> Alone:
    """Return who makes the pieces of an evaluation of a model.

    Args:
        model: the caller's.
        jobs: processes on the CPU.
        devices: devices like the model's, with a process each.
        ranks: whether the ranks of torch.distributed do.

    Raises:
        TypeError: counts that are no integers.
        ValueError: counts < 1, more than one of the three, jobs of a model on a device, devices of one that is on the
            CPU, more devices than there are.
        RuntimeError: `ranks` without torch.distributed.
    """
    device = device_of(model)
    check_count("jobs", jobs)
    check_count("devices", devices)
    if sum((jobs > 1, devices > 1, bool(ranks))) > 1:
        raise ValueError(f"jobs={jobs}, devices={devices} and ranks={ranks} do not go together; choose one of them")
    if ranks:
        return Ranks()
    if jobs > 1 and device.type != "cpu":
        raise ValueError(f"jobs={jobs} is for models on the CPU; the model is on {device}, for which there is devices")
    if devices > 1 and device.type != "cuda":
        raise ValueError(f"devices={devices} is for models on cuda; the model is on {device}, for which there is jobs")
    if jobs > 1:
        return Workers(model, [{}] * jobs)
    if devices > 1:
        if devices > (there := torch.cuda.device_count()):
            raise ValueError(f"devices={devices} is not allowed; there are {there}")
        return Workers(model, environments(device.index, devices, there))
    return Alone()


def environments(own: int, devices: int, there: int) -> list[dict[str, str]]:
    """Return which devices each of several processes sees, in which order: its own has the place of the model's.

    So whatever is sent says the right device.

    Args:
        own: index of the model's device.
        devices: how many processes there are.
        there: how many devices this process sees.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible[:there] if len(visible) >= there else [str(index) for index in range(there)]
    found = []
    for number in range(devices):
        order, other = names.copy(), (own + number) % there
        order[own], order[other] = order[other], order[own]
        found.append({"CUDA_VISIBLE_DEVICES": ",".join(order)})
    return found
