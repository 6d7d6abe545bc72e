"""The ranks of torch.distributed, as torchrun starts them, that share an evaluation; each has its own network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn

from ..files import StrPath
from ..network.view import logits_of
from .common import digest
from .pieces import Alone, Task
from .state import reserved

_PATIENCE = timedelta(days=7)  # a piece may take hours; a rank that dies closes its connections


def rank_of_torchrun() -> int | None:
    """Return which of several processes of torchrun this one is, None if it is none."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return None
    return int(os.environ["RANK"])


def own_device(device: str) -> str:
    """Return a `device`, but for "cuda" the card of this process, if it is one of torchrun's."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and rank_of_torchrun() is not None else device


@contextmanager
def joined() -> Iterator[bool]:
    """Join the other processes of torchrun until the end of the block, if it started this one, and yield whether."""
    if there := rank_of_torchrun() is not None:
        distributed.init_process_group("gloo")
    try:
        yield there
    finally:
        if there:
            distributed.destroy_process_group()


class Ranks(Alone):
    """The ranks that share an evaluation: of pieces that do not depend on each other, rank r makes r, r + world, ...

    After each round all ranks have the pieces of all, so that all go the same way; rank 0 alone writes. What a rank
    raises the others hear of at their next exchange, instead of waiting for it.

    Raises:
        RuntimeError: torch.distributed is not initialised.
    """

    def __init__(self) -> None:
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RuntimeError(
                "ranks=True needs torch.distributed.init_process_group() before it, in the processes of torchrun"
            )
        self.rank, self.processes = distributed.get_rank(), distributed.get_world_size()
        self.writes = self.rank == 0
        self._together = True

    def __enter__(self) -> Ranks:
        self._group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Let the others know how this rank ended.

        Raises:
            RuntimeError: another rank failed.
        """
        try:
            if self._together and (error is None or isinstance(error, Exception)):
                self._exchange(None, None if error is None else f"{type(error).__name__}: {error}")
        except RuntimeError:
            if error is None:
                raise
        finally:
            distributed.destroy_process_group(self._group)

    @contextmanager
    def reserved(self, state: StrPath | None) -> Iterator[StrPath | None]:
        """Yield the path of the state for rank 0, which reserves it, and None for the others."""
        with ExitStack() as stack:
            self.once(lambda: stack.enter_context(reserved(state)))
            yield state if self.rank == 0 else None

    def start(self, model: nn.Module, images: Tensor, card: Mapping[str, Any]) -> None:
        """Begin with a model.

        Args:
            model: what to evaluate, in eval mode.
            images: the first few, on its device.
            card: what tells the evaluation from others.

        Raises:
            ValueError: the ranks do not evaluate the same, or do not compute alike.
        """
        super().start(model, images, card)
        with torch.no_grad():
            logits = logits_of(model, images).float().cpu()
        mine = {**card, "threads": torch.get_num_threads(), "logits": digest([logits])}
        for rank, other in enumerate(self._exchange(mine)):
            for name, value in mine.items():
                if other[name] != value:
                    raise ValueError(
                        f"rank {rank} evaluates with {name}={other[name]!r}, rank {self.rank} with {name}={value!r}; "
                        "all ranks must call evaluate with the same, on devices of one kind"
                    )

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Make the pieces of `tasks` together with the other ranks, and yield them in their order."""
        for first in range(0, len(tasks), self.processes):
            shared = tasks[first : first + self.processes]
            mine = shared[self.rank].made(self.model) if self.rank < len(shared) else None
            yield from zip(shared, self._exchange(mine), strict=False)

    def once(self, make: Callable[[], Any]) -> Any:
        """Return what `make` returns on rank 0."""
        return self._exchange(make() if self.rank == 0 else None)[0]

    def _exchange(self, mine: Any, error: str | None = None) -> list[Any]:
        """Return what every rank gives.

        Raises:
            RuntimeError: another rank gave an error.
        """
        given: list[Any] = [None] * self.processes
        distributed.all_gather_object(given, (mine, error), group=self._group)
        failed = [(rank, said) for rank, (_, said) in enumerate(given) if said is not None]
        self._together = not failed
        if failed and error is None:
            raise RuntimeError(f"rank {failed[0][0]} failed: {failed[0][1]}")
        return [one for one, _ in given]
