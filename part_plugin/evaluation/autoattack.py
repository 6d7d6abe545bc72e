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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..network.batching import within_memory
from ..network.isolation import gradients_kept
from ..network.view import logits_of
from .attack_result import AttackResult, check_flags, flags_from_text, flags_to_text
from .common import correct, device_of, seeded
from .entries import Entry
from .pieces import Pieces, Task

_LOGGER = "auto-attack"


class LogitsOnly(nn.Module):
    """A network whose output is the logits, whatever else `model` returns."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of `images`."""
        return logits_of(self.model, images)


def attacks_for(num_classes: int) -> tuple[str, ...]:
    """Return the attacks that make sense: with `num_classes` of 2 there is no DLR loss, below 4 none with targets.

    Raises:
        ValueError: fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"autoattack needs at least 2 classes; the model has {num_classes}")
    dlr: dict[int, tuple[str, ...]] = {2: (), 3: ("apgd-dlr",)}
    return ("apgd-ce", *dlr.get(num_classes, ("apgd-t",)), "fab-t", "square")


class AutoAttack(Entry):
    """The entry "autoattack" of `evaluate`.

    Args:
        eps: radius, of images in [0, 1].
        seed: of its random starts.

    Raises:
        ImportError: pyautoattack is not installed.
    """

    names = ("autoattack",)
    eps = 0.0

    def __init__(self, eps: float, seed: int):
        if importlib.util.find_spec("pyautoattack") is None:
            raise ImportError("attacks holds 'autoattack', which is not installed: pip install pyautoattack")
        self.eps, self.seed = eps, seed

    def results(
        self, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, pieces: Pieces, bar: tqdm[Any]
    ) -> list[AttackResult]:
        """Return the result under AutoAttack."""
        from pyautoattack import checks

        device = device_of(model)
        with torch.no_grad():
            num_classes = logits_of(model, x[:1].to(device)).shape[1]
        attacks = attacks_for(num_classes)
        batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
        flags = torch.cat([correct(model, a.to(device), b.to(device)).cpu() for a, b in batches]).numpy()
        left, seconds, warnings = {"clean": float(flags.mean())}, 0.0, []
        if "apgd-t" not in attacks:
            warnings.append(f"reduced AutoAttack ({', '.join(attacks)}), as the model has {num_classes} classes")
        for attack in attacks:
            rows = np.flatnonzero(flags)
            bar.reset(len(rows))
            batches_left = {first: rows[first : first + batch_size] for first in range(0, len(rows), batch_size)}
            tasks = [
                Task(f"autoattack/{attack}/{first}", self, x[batch], y[batch], attack)
                for first, batch in batches_left.items()
            ]
            for batch, (_, piece) in zip(batches_left.values(), pieces.each(tasks), strict=True):
                flags[batch] = flags_from_text(piece["correct"])
                seconds += piece["seconds"]
                warnings += piece["warnings"]
                bar.update(len(batch))
                bar.set_description_str(f"{attack}, {flags.mean():.2%} left")
            left[attack] = float(flags.mean())
        with _listening(logging.getLogger(_LOGGER), warnings):
            checks.check_square_sr(left, logger=logging.getLogger(_LOGGER))
        version = "standard" if "apgd-t" in attacks else "reduced"
        settings = f"{version}, left after " + ", ".join(f"{name}: {share:.2%}" for name, share in left.items())
        return [AttackResult("autoattack", flags, seconds, self.eps, self.eps, settings, _unique(warnings))]

    def piece(self, model: nn.Module, images: Tensor, labels: Tensor, attack: str) -> dict[str, Any]:
        """Return flags of `model` on `images` and `labels` under one `attack`, its seconds and warnings, as data."""
        began, device, warnings = time.perf_counter(), device_of(model), list[str]()
        images, labels = images.to(device), labels.to(device)
        with torch.no_grad():
            num_classes = logits_of(model, images[:1]).shape[1]
        adversary = self._adversary(model, num_classes, device)
        adversary.attacks_to_run = [attack]
        tracer = sys.gettrace()  # its check for dynamic defences switches tracing off
        try:
            with _listening(adversary.logger, warnings):
                parts = within_memory(
                    lambda rows: self._flags(adversary, model, images[rows], labels[rows]), len(images)
                )
        finally:
            sys.settrace(tracer)
        if len(parts) > 1:
            warnings.append(f"memory ran out for {len(images)} images at once; the random draws of a part are its own")
        told = [warning for warning in warnings if not warning.startswith("with only")]  # few classes: taken care of
        flags, seconds = torch.cat(parts).cpu().numpy(), time.perf_counter() - began
        return {"correct": flags_to_text(flags), "seconds": seconds, "warnings": _unique(told)}

    def checked(self, piece: Any, rows: int) -> dict[str, Any]:
        """Return a `piece` of so many `rows` if it is what `piece` returns.

        Raises:
            ValueError: it is not.
        """
        check_flags(piece, rows)
        return {"warnings": [], **piece}

    def _adversary(self, model: nn.Module, num_classes: int, device: torch.device) -> Any:
        """Return pyautoattack's AutoAttack on a network."""
        from pyautoattack import AutoAttack as Adversary

        options = {"norm": "Linf", "eps": self.eps, "seed": self.seed, "version": "standard", "device": str(device)}
        adversary = Adversary(LogitsOnly(model), **options)
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, num_classes - 1)
        return adversary

    def _flags(self, adversary: Any, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Return which images survive the attacks that an adversary is to run.

        Raises:
            RuntimeError: adversarial images are classified otherwise when they are looked at again.
        """
        with seeded(self.seed, images.device), gradients_kept(model):  # FAB calls backward
            adv, classes = adversary.run_standard_evaluation(images, labels, batch_size=len(images))
        flags = correct(model, adv.flip(0), labels.flip(0)).flip(0)
        if (flags != (classes == labels)).float().mean() > 1e-3:
            raise RuntimeError(
                "autoattack's images are classified otherwise when they are looked at again: the model's logits "
                "depend on the batch or on chance"
            )
        return flags


def _unique(messages: list[str]) -> list[str]:
    return list(dict.fromkeys(messages))


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
