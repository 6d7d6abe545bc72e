"""Activation checkpointing of torch's reentrant kind, through which no gradient of an image can be asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.checkpoint import CheckpointFunction, checkpoint

_here = threading.local()  # whether this thread is inside
_lock = threading.Lock()
_inside = 0  # how many threads are


@contextmanager
def not_reentrant() -> Iterator[None]:
    """Let reentrant checkpoints be of the other kind meanwhile, in this thread: same values, same memory.

    A reentrant one runs its layers without a graph, so that hooks see nothing that has a gradient, and refuses
    `torch.autograd.grad`. Torch decides on the kind by an argument deep in the network, hence the change here.
    """
    with _marked():
        _enter(1)
        try:
            yield
        finally:
            _enter(-1)


@contextmanager
def _marked() -> Iterator[None]:
    before = getattr(_here, "marked", False)
    _here.marked = True
    try:
        yield
    finally:
        _here.marked = before


def _enter(change: int) -> None:
    global _inside
    with _lock:
        before, _inside = _inside, _inside + change
        if before == 0:
            setattr(CheckpointFunction, "apply", _apply)  # noqa: B010 - mypy forbids to assign a method
        elif _inside == 0:
            delattr(CheckpointFunction, "apply")  # what it inherits shows again


def _apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    if not getattr(_here, "marked", False):
        return super(CheckpointFunction, CheckpointFunction).apply(function, preserve_rng_state, *args)

    def run(*again: Any) -> Any:
        with _marked():  # a backward pass on a GPU has a thread of its own
            return function(*again)

    return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state)
