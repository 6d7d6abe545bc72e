"""Checks of numbers that lie on a device: at once where reading is free, later where it would have to be waited for.

To read one number from a GPU is to wait until everything that it was asked for before is done, and then to let it idle
until it is asked for more. So a training step notes what it would have looked at, and training goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor

EVERY = 100
"""Training steps after which noted numbers are read, if nothing else has let them be read before."""


class DeferredChecks:
    """Checks of the training steps of one `PART`, noted while they run.

    They are made at the end of the first step, of every hundredth after that, and when `make` is called.
    """

    def __init__(self) -> None:
        self._noted: list[tuple[int, Tensor, Callable[..., None]]] = []
        self._step: int | None = None
        self._steps = 0

    @contextmanager
    def during(self, step: int) -> Iterator[None]:
        """Note the checks that are made meanwhile, where numbers are not free to read; `step` is named in messages.

        Raises:
            ValueError: see `make`.
        """
        if step != self._step:
            self._step, self._steps = step, self._steps + 1
        token = _noting.set(self)
        try:
            yield
        finally:
            _noting.reset(token)
        if self._steps % EVERY == 1:
            self.make()

    def note(self, values: Tensor, check: Callable[..., None]) -> None:
        """Call `check` with the `values` later."""
        self._noted.append((self._step or 0, values, check))

    def make(self) -> None:
        """Make the checks that were noted.

        Raises:
            ValueError: one of them found something, with the step in which it was noted.
        """
        noted, self._noted = self._noted, []
        for step, values, check in noted:
            try:
                check(*_read(values))
            except ValueError as error:
                raise ValueError(
                    f"{error} (in step {step}, counted from 0; told only now, as no step waits for {values.device})"
                ) from None


_noting: ContextVar[DeferredChecks | None] = ContextVar("_noting", default=None)


def check_values(values: Tensor, check: Callable[..., None]) -> bool:
    """Call `check` with the numbers in `values`, and return whether it was done at once.

    Where it was not, a training step runs on a device that is not waited for, and whatever `check` is about must do no
    harm until it is.

    Args:
        values: a few numbers.
        check: takes each of them as an argument, and raises a ValueError.
    """
    noting = _noting.get()
    if noting is None or not reading_waits(values):
        check(*_read(values))
        return True
    noting.note(values, check)
    return False


def holds(message: str) -> Callable[[bool], None]:
    """Return a check that raises a ValueError with the `message` unless what it is given is true."""
    return partial(_check_true, message)


def _check_true(message: str, found: bool) -> None:
    if not found:
        raise ValueError(message)


def reading_waits(tensor: Tensor) -> bool:
    """Return whether to read a number of `tensor` is to wait for the device that it lies on."""
    return tensor.device.type != "cpu"


def moved(tensor: Tensor, images: Tensor) -> Tensor:
    """Return `tensor` where the `images` are, without waiting until it has arrived: what uses it there comes after."""
    return tensor.to(images.device, non_blocking=not reading_waits(tensor))


def _read(values: Tensor) -> list[Any]:
    found: list[Any] = values.reshape(-1).tolist()
    return found
