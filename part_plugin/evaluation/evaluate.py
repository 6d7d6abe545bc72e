"""`evaluate`: one call, one model, accuracies with confidence intervals.

Every attack here has the same eps for all pixels. Pixel-AG is weaker by construction, so that an
accuracy under it would flatter the model.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..budget import FixedBudget
from ..checks import check_class_range, check_count, check_images, check_number, class_indices
from ..objectives import AT, ascent
from ..pixel_ag import pixel_ag, uniform_start
from ..surrogate import logits_of, undisturbed


@dataclass
class AttackResult:
    """How a model fared: which samples it still got right, and how long that took to find out."""

    name: str
    correct: np.ndarray = field(repr=False)
    seconds: float
    warnings: list[str] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Share of samples that are classified correctly, in [0, 1]."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson)."""
        low, high = binomtest(int(self.correct.sum()), len(self.correct)).proportion_ci(method="wilson")
        return float(low), float(high)


@dataclass
class Evaluation:
    """The results of `evaluate`, in the order in which the attacks were asked for."""

    model: str
    eps: float
    seed: int
    results: list[AttackResult]

    def __getitem__(self, name: str) -> AttackResult:
        """Return the result of one attack by its name."""
        for result in self.results:
            if result.name == name:
                return result
        raise KeyError(f"{name!r} was not evaluated; there are {[result.name for result in self.results]}")

    def row(self) -> pd.Series:
        """Return everything as one row for a pandas.DataFrame."""
        values: dict[str, Any] = {"model": self.model, "eps": self.eps, "n": len(self.results[0].correct)}
        for result in self.results:
            low, high = result.interval
            values |= {
                result.name: result.accuracy,
                f"{result.name}_low": low,
                f"{result.name}_high": high,
                f"{result.name}_seconds": result.seconds,
            }
        return pd.Series(values)

    def __str__(self) -> str:
        n = len(self.results[0].correct)
        lines = [f"{self.model}: {n} samples, l_inf eps = {self.eps:.5g} ({255 * self.eps:.4g}/255), seed {self.seed}"]
        for result in self.results:
            low, high = result.interval
            lines.append(
                f"  {result.name:<12} {result.accuracy:7.2%}   95 % interval {low:7.2%} to {high:7.2%}   "
                f"{result.seconds:6.1f} s"
            )
            lines += [f"    warning: {warning}" for warning in result.warnings]
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    eps: float = 8 / 255,
    attacks: Sequence[str] = ("natural", "pgd20", "autoattack"),
    batch_size: int = 128,
    seed: int = 0,
    name: str | None = None,
    verbose: bool = True,
) -> Evaluation:
    """Return the accuracy of a model on images as they are and under l_inf attacks of radius eps.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; evaluated on its own device
            in eval mode, and left as it was.
        x: images (N, C, H, W) in [0, 1].
        y: class indices (N,) or (N, 1), or one-hot (N, K).
        eps: radius of every pixel.
        attacks: "natural"; "pgdS" for PGD with S steps of size eps/4 from a random start (2/255
            at 8/255); "autoattack", the standard version of Croce & Hein 2020.
        batch_size: samples per forward pass.
        seed: seed of the random starts; the global random state is left alone.
        name: how to call the model in the result; default: its class.
        verbose: show a progress bar.

    Raises:
        TypeError, ValueError: wrong images or labels, eps < 0, an unknown attack, too few classes
            for AutoAttack's loss, or logits that are not.
    """
    check_number("eps", eps)
    check_count("batch_size", batch_size)
    runners = {attack: _runner(attack) for attack in attacks}
    if not runners:
        raise ValueError("attacks is empty; choose from 'natural', 'pgd20', 'autoattack'")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    x = torch.as_tensor(x)
    check_images(x)
    y = class_indices(y, len(x))
    results = []
    with undisturbed(model), _random_state_kept(device):
        x, y = x.detach().to(device).clone(), y.to(device).clone()
        with torch.no_grad():
            check_class_range(y, logits_of(model, x[:1]).shape[1])
        for attack, run in runners.items():
            with tqdm(total=len(x), desc=attack, unit="img", leave=False, disable=not verbose) as bar:
                began = time.perf_counter()
                correct, warned = run(model, x, y, eps, batch_size, seed, bar)
                results.append(AttackResult(attack, correct.cpu().numpy(), time.perf_counter() - began, warned))
    return Evaluation(name or type(model).__name__, eps, seed, results)


Runner = Callable[[nn.Module, Tensor, Tensor, float, int, int, tqdm], tuple[Tensor, list[str]]]


def _runner(attack: str) -> Runner:
    if attack == "natural":
        return lambda model, x, y, eps, batch_size, seed, bar: _pgd(0, model, x, y, eps, batch_size, seed, bar)
    if attack == "autoattack":
        if importlib.util.find_spec("pyautoattack") is None:
            raise ImportError("attacks holds 'autoattack', which is not installed: pip install pyautoattack")
        return _autoattack
    steps = re.fullmatch(r"pgd([1-9]\d*)", str(attack))
    if steps is None:
        raise ValueError(f"attacks holds {attack!r}; choose from 'natural', 'pgd' with a number of steps, 'autoattack'")
    return lambda *arguments: _pgd(int(steps[1]), *arguments)


def _pgd(
    steps: int, model: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int, seed: int, bar: tqdm
) -> tuple[Tensor, list[str]]:
    """Classify images after `steps` of PGD; none at all for 0 steps."""
    generator = torch.Generator(x.device).manual_seed(seed)
    correct = []
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        if steps:
            radii = FixedBudget(eps)(model, images)
            start = uniform_start(images, radii, eps, generator=generator)
            loss = ascent(model, AT(), labels)
            images = pixel_ag(loss, images, radii, max(eps / 4, torch.finfo(x.dtype).tiny), steps, start)
        with torch.no_grad():
            correct.append(logits_of(model, images).argmax(1) == labels)
        bar.update(len(images))
    return torch.cat(correct), []


def _autoattack(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, batch_size: int, seed: int, bar: tqdm
) -> tuple[Tensor, list[str]]:
    from pyautoattack import AutoAttack

    with torch.no_grad():
        num_classes = logits_of(model, x[:1]).shape[1]
    if num_classes < 4:
        raise ValueError(f"autoattack needs at least 4 classes for its DLR loss; the model has {num_classes}")
    logits_only = _LogitsOnly(model)
    adversary = AutoAttack(logits_only, norm="Linf", eps=eps, seed=seed, version="standard", device=x.device)
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(9, num_classes - 1)
    messages: list[str] = []
    bar.total = None  # it narrows down to the samples that still stand, so that no total is known
    tracer = sys.gettrace()  # its check for dynamic defences switches tracing off
    try:
        with _listening(adversary.logger, bar, messages):
            adv, _ = adversary.run_standard_evaluation(x, y, batch_size=batch_size)
    finally:
        sys.settrace(tracer)
    with torch.no_grad():
        correct = [
            logits_of(model, images).argmax(1) == labels
            for images, labels in zip(adv.split(batch_size), y.split(batch_size), strict=True)
        ]
    return torch.cat(correct), messages


class _LogitsOnly(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.model, images)


@contextmanager
def _listening(logger: logging.Logger, bar: tqdm, messages: list[str]) -> Iterator[None]:
    """Show AutoAttack's log on the progress bar and keep its warnings."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                messages.append(record.getMessage())
            else:
                bar.set_postfix_str(record.getMessage())

    listener, level, propagate = Listener(), logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """AutoAttack seeds torch's global generators; put them back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
