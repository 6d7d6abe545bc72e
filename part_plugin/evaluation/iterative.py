"""PGD and the minimum-margin attack, plain and adaptive; all numbers of steps asked for in one run.

The random start of an image depends on the seed and the image alone, so that accuracies depend
neither on the batch size nor on the order or number of the samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..attacks.minimum_margin import MinimumMargin
from ..attacks.pixel_ag import pixel_ag
from ..budget import Budget
from ..network.batching import in_parts
from ..objectives import AT, ascent
from ..pixel_budget import PixelBudget
from .common import correct, random_start
from .entries import ByBatch, Rows


@dataclass(eq=False)
class IterativeAttack(ByBatch):
    """PGD or the minimum-margin attack under a budget.

    Args:
        steps: name of the row -> number of steps.
        margin: whether it is the minimum-margin attack.
        budget: how far each pixel may move.
        alpha: step size, of images in [0, 1].
        seed: of the random starts.
    """

    steps: dict[str, int]
    margin: bool
    budget: Budget
    alpha: float
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows, by their number of steps."""
        return tuple(sorted(self.steps, key=self.steps.__getitem__))

    @property
    def eps(self) -> float:
        """Largest radius."""
        return self.budget.eps

    @property
    def eps_low(self) -> float:
        """Smallest radius."""
        return self.budget.eps_low

    @property
    def settings(self) -> str:
        """What runs, to read."""
        loss = "margin to 3 targets" if self.margin else "cross-entropy"
        steps = [self.steps[name] for name in self.names]
        return f"{loss}, {self.budget}, alpha={self.alpha:.4g}, random start, last of the steps {steps}"

    def split(self, run: Callable[[slice], Rows], model: nn.Module, images: Tensor) -> list[Rows]:
        """Call `run` on the rows of a batch, whose random starts do not depend on what else is in it."""
        return in_parts(run, model, images)

    def piece(self, model: nn.Module, images: Tensor, labels: Tensor, attack: str = "") -> dict[str, Any]:
        """Return what has to be kept of a batch, the number of maps that say nothing about their image with it."""
        if not isinstance(self.budget, PixelBudget):
            return super().piece(model, images, labels, attack)
        before = self.budget.no_signal
        piece = super().piece(model, images, labels, attack)
        return piece | {"no_signal": self.budget.no_signal - before, "maps": len(images)}

    def warnings(self, pieces: list[dict[str, Any]]) -> list[str]:
        """Return how many images have no map, and so the larger radius everywhere."""
        missing, maps = (sum(piece.get(what, 0) for piece in pieces) for what in ("no_signal", "maps"))
        if not missing:
            return []
        return [
            f"{missing} of {maps} maps had no signal, so that all pixels of their images may move by {self.eps:.4g}"
        ]

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Rows:
        """Return the flags of one batch after every number of steps asked for."""
        began = time.perf_counter()
        radii = self.budget.radii(model, images, labels)
        adv = random_start(images, radii, self.seed)
        attack = MinimumMargin(model, images, labels, radii, self.alpha, adv) if self.margin else None
        loss = ascent(model, AT(), labels)
        rows, done = {}, 0
        for name in self.names:
            more, done = self.steps[name] - done, self.steps[name]
            adv = attack.advance(more) if attack else pixel_ag(loss, images, radii, self.alpha, more, adv)
            rows[name] = (correct(model, adv, labels), time.perf_counter() - began)
        return rows
