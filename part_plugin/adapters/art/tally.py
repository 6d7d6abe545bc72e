"""What happened in one epoch of an ART trainer: losses, hits, and what its attacks counted."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...objectives import Outputs
from ...part import PART


class Tally:
    """Sums over one epoch, and what the parts (the losses that take turns) counted meanwhile."""

    def __init__(self, parts: Sequence[PART]):
        self.parts = parts
        self.began = time.perf_counter()
        self.before = self._counts()
        self.seen = 0
        self.sums = torch.zeros(3, dtype=torch.float64)  # of loss, adversarial and natural hits, where the model is

    def add(self, outputs: Outputs, labels: Tensor) -> None:
        """Count one batch: the outputs of its training pass and its labels (N,)."""
        logits = (outputs.adv_logits, outputs.natural_logits)
        hits = [torch.zeros_like(outputs.loss) if z is None else (z.argmax(1) == labels).sum() for z in logits]
        new = torch.stack([outputs.loss.detach() * len(labels), *hits])
        self.sums = self.sums.to(new.device) + new.double().detach()
        self.seen += len(labels)

    def shown(self) -> dict[str, str]:
        """Return what the progress bar shows."""
        loss, adv, _ = self.means()
        return {"loss": f"{loss:.3f}", "adv": f"{adv:.1%}"}

    def means(self) -> list[float]:
        """Return loss, adversarial and natural accuracy so far."""
        return (self.sums / self.seen).tolist()

    def record(self) -> dict[str, float]:
        """Return the record of the epoch, plain numbers."""
        maps, no_signal, attacked, zero_gradients = self._counts() - self.before
        loss, adv_accuracy, natural_accuracy = self.means()
        record = {"loss": loss, "adv_accuracy": adv_accuracy}
        if self.parts[0].objective.needs_natural:
            record["natural_accuracy"] = natural_accuracy
        record["no_signal"] = float(no_signal / max(maps, 1))
        record["zero_gradient"] = float(zero_gradients / max(attacked, 1))
        record["seconds"] = time.perf_counter() - self.began
        return record

    def _counts(self) -> np.ndarray:
        budgets = {id(part.budget): part.budget for part in self.parts}.values()
        made = [[getattr(budget, name, 0) for name in ("images", "no_signal")] for budget in budgets]
        attacked = [[part.attacked, part.zero_gradients] for part in self.parts]
        return np.concatenate([np.sum(made, axis=0), np.sum(attacked, axis=0)])
