"""How many rows of a batch go through the network at a time, for speed on a CPU and for memory anywhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .isolation import eval_mode
from .memory import Memory
from .uncompiled import uncompiled
from .view import network_of, without_wrappers

VALUES_AT_ONCE = 2**20
Result = TypeVar("Result")


def rows_at_once(model: nn.Module, images: Tensor) -> int:
    """Return how many rows of a batch of `images` to attack at a time: all, but on a CPU what its memory is fast for.

    The activations of a large batch are more than the C library keeps for reuse: every step asks the system for fresh
    pages, at a third of its time and more (benchmarks/speed/speedups.py). So the largest activation of a part has no
    more than `VALUES_AT_ONCE` values in `model`: 64 images of 32x32 in a ResNet-18 of width 16, 16 at width 64.
    """
    if images.device.type != "cpu":
        return len(images)
    return max(1, VALUES_AT_ONCE // _largest_activation(model, images))


_largest: Memory[int] = Memory()


def _largest_activation(model: nn.Module, images: Tensor) -> int:
    """Return how many values one image has at most, as it is or after any module; remembered."""
    network = network_of(model)

    def find() -> int:
        values = [images[0].numel()]

        def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor):
                values.append(output.numel())

        with ExitStack() as hooks, eval_mode(model), torch.no_grad(), uncompiled():
            for module in network.modules():
                if not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                    hooks.callback(module.register_forward_hook(record).remove)
            without_wrappers(model)(images[:1].detach().clone())
        return max(values)

    return _largest.recall(network, images.shape[1:], find)


def in_parts(run: Callable[[slice], Result], model: nn.Module, images: Tensor) -> list[Result]:
    """Call `run` on the rows of `images`, as many at once as suit `model`, and return its results.

    No row may depend on others.
    """
    return within_memory(run, len(images), rows_at_once(model, images))


def within_memory(run: Callable[[slice], Result], rows: int, size: int | None = None) -> list[Result]:
    """Call `run` on rows 0 to `rows`, `size` at a time, or in ever smaller parts while memory runs out.

    Raises:
        RuntimeError: what `run` raises for another reason, or for a single row.
        MemoryError: there is none for a single row.
    """
    results: list[Result] = []
    first, size = 0, min(size or rows, rows)
    while first < rows:
        try:
            results.append(run(slice(first, min(first + size, rows))))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not _out_of_memory(error):
                raise
            size = (size + 1) // 2
        else:
            first += size
    return results


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)  # what torch says on a CPU
