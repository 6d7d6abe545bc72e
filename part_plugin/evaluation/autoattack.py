"""AutoAttack (Croce & Hein 2020) in RobustBench's settings, batch by batch, so that it can be interrupted.

The attacks, their order, their batches and their seeds are those of pyautoattack's own run, and so
are the flags; only the bookkeeping is done here, because its own forgets the batches of the attack
it was interrupted in, and does not notice another model, eps or data set.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..network.batching import within_memory
from ..network.isolation import gradients_kept
from ..network.view import logits_of
from .common import correct, device_of, seeded
from .results import AttackResult, flags_from_text, flags_to_text
from .state import State


class LogitsOnly(nn.Module):
    """A network whose output is the logits, whatever else it returns."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return logits_of(self.model, images)


def attacks_for(num_classes: int) -> tuple[str, ...]:
    """Return the attacks that make sense: the DLR loss needs 3 classes, its targeted form 4.

    Raises:
        ValueError: fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"autoattack needs at least 2 classes; the model has {num_classes}")
    dlr = {2: (), 3: ("apgd-dlr",)}.get(num_classes, ("apgd-t",))
    return ("apgd-ce", *dlr, "fab-t", "square")


@dataclass
class AutoAttack:
    """The entry "autoattack" of `evaluate`."""

    eps: float
    seed: int
    names: tuple[str, ...] = ("autoattack",)

    def __post_init__(self):
        if importlib.util.find_spec("pyautoattack") is None:
            raise ImportError("attacks holds 'autoattack', which is not installed: pip install pyautoattack")

    @property
    def eps_low(self) -> float:
        """Radius of unimportant pixels, the same."""
        return self.eps

    def results(
        self, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, state: State, bar: tqdm
    ) -> list[AttackResult]:
        """Return the flags under AutoAttack; images (N, C, H, W) in [0, 1], labels (N,).

        Raises:
            RuntimeError: adversarial images are classified otherwise when they are looked at again.
        """
        from pyautoattack import checks

        device = device_of(model)
        with torch.no_grad():
            num_classes = logits_of(model, x[:1].to(device)).shape[1]
        attacks = attacks_for(num_classes)
        adversary = self._adversary(model, num_classes, device)
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        flags = torch.cat([correct(model, a.to(device), b.to(device)).cpu() for a, b in batches]).numpy()
        left, seconds, warnings = {"clean": float(flags.mean())}, 0.0, []
        if "apgd-t" not in attacks:
            warnings.append(f"reduced AutoAttack ({', '.join(attacks)}), as the model has {num_classes} classes")
        with _listening(adversary.logger, warnings):
            for attack in attacks:
                adversary.attacks_to_run = [attack]
                rows = np.flatnonzero(flags)
                bar.reset(len(rows))
                for first in range(0, len(rows), batch_size):
                    key, batch = f"autoattack/{attack}/{first}", rows[first : first + batch_size]
                    if key not in state:
                        state[key] = self._piece(adversary, model, x[batch].to(device), y[batch].to(device), warnings)
                    flags[batch] = flags_from_text(state[key]["correct"])
                    seconds += state[key]["seconds"]
                    warnings += state[key]["warnings"]
                    bar.update(len(batch))
                    bar.set_description_str(f"{attack}, {flags.mean():.2%} left")
                left[attack] = float(flags.mean())
            checks.check_square_sr(left, logger=adversary.logger)
        version = "standard" if "apgd-t" in attacks else "reduced"
        settings = f"{version}, left after " + ", ".join(f"{name}: {share:.2%}" for name, share in left.items())
        warnings = list(dict.fromkeys(warnings))
        return [AttackResult("autoattack", flags, seconds, self.eps, self.eps, settings, warnings)]

    def _adversary(self, model: nn.Module, num_classes: int, device: torch.device) -> Any:
        from pyautoattack import AutoAttack as Adversary

        options = {"norm": "Linf", "eps": self.eps, "seed": self.seed, "version": "standard", "device": str(device)}
        adversary = Adversary(LogitsOnly(model), **options)
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, num_classes - 1)
        return adversary

    def _piece(self, adversary: Any, model: nn.Module, x: Tensor, y: Tensor, warnings: list[str]) -> dict[str, Any]:
        """Run one attack on one batch and move what it warned of from `warnings` to the piece."""
        began, known = time.perf_counter(), len(warnings)
        tracer = sys.gettrace()  # its check for dynamic defences switches tracing off

        def run(rows: slice) -> Tensor:
            images, labels = x[rows], y[rows]
            with seeded(self.seed, x.device), gradients_kept(model):  # FAB calls backward
                adv, classes = adversary.run_standard_evaluation(images, labels, batch_size=len(images))
            again = correct(model, adv.flip(0), labels.flip(0)).flip(0)
            if (again != (classes == labels)).float().mean() > 1e-3:
                raise RuntimeError(
                    "autoattack's images are classified otherwise when they are looked at again: the model's logits "
                    "depend on the batch or on chance"
                )
            return again

        try:
            flags = torch.cat(within_memory(run, len(x)))
        finally:
            sys.settrace(tracer)
        new, warnings[known:] = warnings[known:], []
        new = [warning for warning in new if not warning.startswith("with only")]  # few classes: taken care of
        seconds = time.perf_counter() - began
        return {"correct": flags_to_text(flags.cpu().numpy()), "seconds": seconds, "warnings": list(dict.fromkeys(new))}


@contextmanager
def _listening(logger: logging.Logger, messages: list[str]) -> Iterator[None]:
    """Keep AutoAttack's warnings instead of printing them."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener, propagate = Listener(logging.WARNING), logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
