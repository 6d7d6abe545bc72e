"""What `evaluate` can run: the base of all its entries, and the natural images.

An entry turns a batch into flags, for one row of the result for each of its names.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..network.batching import within_memory
from .attack_result import AttackResult, check_flags, flags_from_text, flags_to_text
from .common import correct, device_of
from .content import COUNT, LIST, check_entries
from .pieces import Pieces, Task

Rows = dict[str, tuple[Tensor, float]]
"""Name of a row -> whether each sample of the batch is classified correctly, and the seconds that took."""


class Entry(ABC):
    """An attack, or none, that can be evaluated."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the rows."""

    @property
    @abstractmethod
    def eps(self) -> float | None:
        """Largest radius, of images in [0, 1]; None if it is no number or not l_inf."""

    @property
    def eps_low(self) -> float | None:
        """Smallest radius, that of unimportant pixels under Pixel-AG."""
        return self.eps

    @property
    def portable(self) -> bool:
        """Whether it can be sent to another process."""
        return True

    @abstractmethod
    def results(
        self, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, pieces: Pieces, bar: tqdm[Any]
    ) -> list[AttackResult]:
        """Return one result per name.

        Args:
            model: network that returns logits (N, K), in eval mode.
            x: images (N, C, H, W) in [0, 1], on the CPU.
            y: class indices (N,), on the CPU.
            batch_size: samples at a time.
            pieces: where finished ones are taken from, and others made and kept.
            bar: progress, in samples.
        """


class ByBatch(Entry):
    """An entry that goes through the samples batch by batch, each batch on its own."""

    @property
    @abstractmethod
    def settings(self) -> str:
        """What runs, to read."""

    @abstractmethod
    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Rows:
        """Return the flags of `model` on one batch of `images` and `labels`."""

    @property
    def key(self) -> str:
        """What tells its pieces from those of other entries on the same model."""
        return f"{self.names}/{self.settings}"

    def results(
        self, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, pieces: Pieces, bar: tqdm[Any]
    ) -> list[AttackResult]:
        """Return one result per name; batches that are among `pieces` already are taken from there."""
        key, made = self.key, []
        batches = zip(range(0, len(x), batch_size), x.split(batch_size), y.split(batch_size), strict=True)
        for task, piece in pieces.each([Task(f"{key}/{first}", self, *batch) for first, *batch in batches]):
            made.append(piece)
            bar.update(len(task.labels))
        return [
            AttackResult(
                name,
                np.concatenate([flags_from_text(piece[name][0]) for piece in made]),
                sum(piece[name][1] for piece in made),
                self.eps,
                self.eps_low,
                self.settings,
                self.warnings(made),
            )
            for name in self.names
        ]

    def warnings(self, pieces: list[dict[str, Any]]) -> list[str]:
        """Return what is to be known of all batches, of which `pieces` holds what `piece` returned."""
        return []

    def checked(self, piece: Any, rows: int) -> dict[str, Any]:
        """Return a `piece` of so many `rows` if it is what `piece` returns.

        Raises:
            ValueError: it is not.
        """
        check_entries(piece, dict.fromkeys(self.names, LIST), {"no_signal": COUNT, "maps": COUNT})
        for name in self.names:
            check_flags(dict(zip(("correct", "seconds"), piece[name], strict=False)), rows)
        return dict(piece)

    def split(self, run: Callable[[slice], Rows], model: nn.Module, images: Tensor) -> list[Rows]:
        """Call `run`, which calls `model`, on the rows of `images`, in as few parts as memory allows."""
        return within_memory(run, len(images))

    def piece(self, model: nn.Module, images: Tensor, labels: Tensor, attack: str = "") -> dict[str, Any]:
        """Return flags of `model` on `images` and `labels`, and their seconds, as plain data; `attack` is ""."""
        device = device_of(model)
        images, labels = images.to(device), labels.to(device)
        parts = self.split(lambda rows: self.run(model, images[rows], labels[rows]), model, images)
        return {
            name: [
                "".join(flags_to_text(part[name][0].cpu().numpy()) for part in parts),
                sum(part[name][1] for part in parts),
            ]
            for name in self.names
        }


class Natural(ByBatch):
    """No attack at all."""

    names = ("natural",)
    eps = 0.0
    settings = "the images as they are"

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Rows:
        """Return the flags of one batch."""
        began = time.perf_counter()
        return {"natural": (correct(model, images, labels), time.perf_counter() - began)}
