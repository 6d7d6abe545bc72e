"""The pieces that an evaluation is made of, an attack on a batch each: made here or elsewhere, kept in its state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import Tensor, nn

from ..files import StrPath
from .state import State, reserved

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)
Parsed = TypeVar("Parsed")


class Maker(Protocol):
    """What can make pieces, as the entries of `evaluate` can."""

    @property
    def portable(self) -> bool:
        """Whether it can be sent to another process."""

    def piece(self, model: nn.Module, images: Tensor, labels: Tensor, attack: str) -> dict[str, Any]:
        """Return what has to be kept of a batch, as plain data."""

    def checked(self, piece: Any, rows: int) -> dict[str, Any]:
        """Return a `piece` of so many `rows`, or raise ValueError if it is none."""


@dataclass(frozen=True, eq=False)
class Task:
    """A piece that is to be made.

    Args:
        key: its name in the state.
        maker: what makes it.
        images: of its batch, on the CPU.
        labels: theirs.
        attack: which of those of the maker, if it has several.
    """

    key: str
    maker: Maker
    images: Tensor
    labels: Tensor
    attack: str = ""

    def made(self, model: nn.Module) -> dict[str, Any]:
        """Return the piece of a `model`."""
        return self.maker.piece(model, self.images, self.labels, self.attack)

    def checked(self, piece: Any) -> dict[str, Any]:
        """Return a `piece` that `made` returned, or raise ValueError if it is something else."""
        return self.maker.checked(piece, len(self.labels))


class Alone:
    """Who makes the pieces: this process, one after the other. Others that share them are derived from it."""

    model: nn.Module
    writes = True
    """Whether this process writes files and shows progress."""
    processes = 1
    """How many processes share the work."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        """Release whatever is held."""

    @contextmanager
    def reserved(self, state: StrPath | None) -> Iterator[StrPath | None]:
        """Reserve a `state` file until the end of the block, and yield its path, None where it is not written."""
        with reserved(state):
            yield state

    def start(self, model: nn.Module, images: Tensor, card: Mapping[str, Any]) -> None:
        """Begin with a model.

        Args:
            model: what to evaluate, in eval mode.
            images: the first few, on its device.
            card: what tells the evaluation from others, the number of images and batch_size among it.
        """
        self.model = model
        images, size = card["n"], card["batch_size"]
        if self.writes and (batches := -(-images // size)) < self.processes:
            logger.warning(
                "%d of %d processes have work: %d images are %d batches of batch_size=%d, which are what they share",
                *(batches, self.processes, images, batches, size),
            )

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Make the pieces of `tasks`, which do not depend on each other, and yield them as they come."""
        for task in tasks:
            yield task, task.made(self.model)

    def once(self, make: Callable[[], Any]) -> Any:
        """Return what `make` returns, plain data, which is made once."""
        return make()


class Pieces:
    """The pieces of an evaluation: those that are in a state are taken from there, the others made and kept.

    Args:
        state: of the evaluation.
        hands: who makes them.
    """

    def __init__(self, state: State, hands: Alone):
        self.state, self.hands = state, hands
        state.pieces = hands.once(lambda: state.pieces)

    def each(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Yield the pieces of tasks in their order; each is kept as soon as it is there.

        Args:
            tasks: they do not depend on each other.

        Raises:
            ValueError: a piece in the state is damaged.
        """
        coming = self.hands.run([task for task in tasks if task.key not in self.state.pieces])
        for task in tasks:
            yield task, self.state.get(task.key, partial(self._awaited, task, coming), task.checked)

    def get(self, key: str, make: Callable[[], Any], parse: Callable[[Any], Parsed]) -> Parsed:
        """Return a piece that is no attack's; `key`, `make` and `parse` are those of `State.get`."""
        return self.state.get(key, partial(self.hands.once, make), parse)

    def _awaited(self, task: Task, coming: Iterator[tuple[Task, dict[str, Any]]]) -> dict[str, Any]:
        """Return the piece of a task out of those that are `coming`, and keep the others that come before it."""
        other, piece = next(coming)
        while other is not task:
            self.state.keep(other.key, piece)
            other, piece = next(coming)
        return piece
