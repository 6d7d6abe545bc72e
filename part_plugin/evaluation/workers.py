"""Processes that make the pieces of an evaluation, with the flags of one process to the bit."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from ..network.view import logits_of
from .pieces import Alone, Task
from .travel import StaysHere, packed, packed_network
from .worker import Worker
from .worker_main import Settings

logger = logging.getLogger(__name__)


class Workers(Alone):
    """Processes of their own that make pieces, as many at once as they are.

    They start when there is a first set of pieces to share. A piece whose process dies is made again by a new one.
    Where the network or an attack cannot be sent to them, or gives other logits there, this process does the work,
    and says so.

    Args:
        network: the caller's.
        environments: what each process has in its environment that this one has not.
    """

    def __init__(self, network: nn.Module, environments: Sequence[dict[str, str]]):
        self.network = network.module if isinstance(network, nn.DataParallel) else network
        self.environments = environments
        self.processes = len(environments)
        self._workers: list[Worker] | None = None
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._told: set[tuple[str, str]] = set()
        self._threads = ThreadPoolExecutor(len(environments))

    def __exit__(self, *raised: Any) -> None:
        """End the processes, whatever they do."""
        self._close()
        self._threads.shutdown(cancel_futures=True)
        self._close()

    def start(self, model: nn.Module, images: Tensor, card: Mapping[str, Any]) -> None:
        """Begin with a model.

        Args:
            model: what to evaluate, in eval mode.
            images: the first few, on its device.
            card: what tells the evaluation from others.
        """
        super().start(model, images, card)
        self.images = images.clone()  # not the memory of all

    def _close(self) -> None:
        for worker in self._workers or []:
            worker.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Make the pieces of `tasks` and yield them as they come.

        Raises:
            RuntimeError: a piece ended its process again and again.
        """
        if len(tasks) < 2 or not self._can_send(tasks[0]) or not self._hired():
            yield from super().run(tasks)
            return
        coming = {self._threads.submit(self._made, task): task for task in tasks}
        for future in as_completed(coming):
            yield coming[future], future.result()

    def _can_send(self, task: Task) -> bool:
        """Return whether a task, and those like it, can be sent; say so if not."""
        reason: StaysHere | str = "one of ART writes files when it is pickled"
        if task.maker.portable:
            try:
                packed(task.maker, self.network)
                return True
            except StaysHere as said:
                reason = said
        logger.warning("%s is evaluated in one process: its attack cannot be sent to another (%s)", task.key, reason)
        return False

    def _hired(self) -> bool:
        """Return whether there are workers, which are started at first."""
        if self._workers is None:
            self._workers = []
            try:
                self._hire()
            except StaysHere as reason:
                logger.warning(
                    "all is evaluated in one process: %s; under torchrun each process makes its own network", reason
                )
                self._close()
                self._workers = []
        return bool(self._workers)

    def _hire(self) -> None:
        """Start the workers.

        Raises:
            StaysHere: the network cannot be sent to them, or gives other logits there.
        """
        try:
            start = pickle.dumps((Settings.here(), packed_network(self.network), packed(self.images)))
        except StaysHere as reason:
            raise StaysHere(f"the network cannot be sent to another ({reason})") from reason
        with torch.no_grad():
            logits = logits_of(self.model, self.images).cpu()
        self._workers = [Worker(start, environment, self._told) for environment in self.environments]
        for said in self._threads.map(Worker.begin, self._workers):
            if isinstance(said, str):
                raise StaysHere(f"the network cannot be made in another ({said})")
            if not torch.equal(said, logits):
                raise StaysHere("the network's logits in another are not those that it has here")
        for worker in self._workers:
            self._idle.put(worker)

    def _made(self, task: Task) -> dict[str, Any]:
        worker = self._idle.get()
        try:
            alone = replace(task, images=task.images.clone(), labels=task.labels.clone())
            return worker.make(packed(alone, self.network), task.key)
        finally:
            self._idle.put(worker)
