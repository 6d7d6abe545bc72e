"""How everything here is timed: one clock, variants that take turns, medians with their extremes, peak memory.

Machines are noisy and drift. So variants take turns, a repetition is one turn of each, and a ratio is one of two turns
of the same repetition. Every repetition begins with another variant, so that none always has the same place.
What one variant leaves behind in memory makes another slower or faster: `Process` gives it a process of its own.
"""

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from tqdm import tqdm

Turn = Callable[[], float]


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return how long one call takes, from an idle device to an idle device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def turn(
    run: Callable[[], Any], device: torch.device, before: Callable[[], Any] | None = None, at_least: float = 0
) -> float:
    """Return the mean seconds of a call over one turn.

    Args:
        run: what is timed.
        device: where it runs.
        before: called before each call of `run`, and not timed.
        at_least: seconds that a turn lasts; 0: one call.
    """
    began, taken = time.perf_counter(), []
    while not taken or time.perf_counter() - began < at_least:
        if before is not None:
            before()
        taken.append(seconds(run, device))
    return mean(taken)


def take_turns(turns: Mapping[str, Turn], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Return what each turn returned, once for every repetition.

    Args:
        turns: by the name of the variant.
        repeats: repetitions that count.
        warm_up: repetitions before those, which do not.
    """
    names = list(turns)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repetition in tqdm(range(-warm_up, repeats), unit="repetition", leave=False, disable=None):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            taken = turns[name]()
            if repetition >= 0:
                times[name].append(taken)
    return times


class Process:
    """A process of its own, where variants run when they are asked to.

    Args:
        make: function of a module, called there; returns turns by the name of the variant.
        arguments: of `make`.
        device: where the variants run, for the peak memory.
    """

    def __init__(self, make: Callable[..., Mapping[str, Turn]], arguments: Sequence[Any], device: torch.device):
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        spawn.Process(target=_serve, args=(theirs, make, arguments, device), daemon=True).start()
        theirs.close()  # so that a process that dies is noticed

    def turn(self, name: str) -> float:
        """Let the variant have its turn, and return what that returns."""
        return self._ask(name)

    def close(self) -> float:
        """Return the peak memory in MB, and end the process."""
        return self._ask(None)

    def _ask(self, name: str | None) -> float:
        try:
            self._connection.send(name)
            return self._connection.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"a process ended before its turn of {name!r}; its error is above") from None


def _serve(
    parent: Connection, make: Callable[..., Mapping[str, Turn]], arguments: Sequence[Any], device: torch.device
) -> None:
    turns = make(*arguments)
    while (name := parent.recv()) is not None:
        parent.send(turns[name]())
    parent.send(peak_memory(device))


def peak_memory(device: torch.device) -> float:
    """Return the peak of this process in MB: allocated on the card, or resident.

    The resident one is Linux's VmHWM, since getrusage counts the parent's as well.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each repetition."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, smallest and largest."""
    return {"median": median(values), "smallest": min(values), "largest": max(values)}
