"""`evaluate`: one call, one model, accuracies with confidence intervals.

Accuracies that may be quoted come from attacks that let every pixel move by eps. Pixel-AG with a
smaller eps_low is weaker by construction: it can be looked at, but never stands alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checks import (
    check_choice,
    check_class_range,
    check_count,
    check_images,
    class_indices,
    parse_radius,
    warn_of_unusual,
)
from ..network.isolation import eval_mode
from ..network.view import logits_of
from ..pixel_budget import PixelBudget
from .attacks import KNOWN, Entry, ToolkitAttack, check_evidence, parse
from .common import device_of, digest, fingerprint
from .corruptions import CorruptionResult, check_pictures, corruption_accuracy
from .gradients import GradientChecks, gradient_checks
from .results import AttackResult, Evaluation
from .state import State

STEPS = (20, 40, 60, 80, 100)
SUITES = {
    "quick": ("natural", "pgd20"),
    "standard": ("natural", "pgd20", "mma", "autoattack"),
    "paper": (
        "natural",
        "pgd10",
        *(f"pgd{steps}" for steps in STEPS),
        "mma",
        "autoattack",
        *(f"adaptive_pgd{steps}" for steps in STEPS),
        *(f"adaptive_mma{steps}" for steps in STEPS),
        "gradients",
        "corruptions",
    ),
}
"""Attacks by the name of a suite; "paper" has every number of the paper's Tables 1 to 8 about one checkpoint."""


def evaluate(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    eps: float | str = 8 / 255,
    attacks: Sequence[Any] = ("natural", "pgd20", "autoattack"),
    batch_size: int = 128,
    seed: int = 0,
    name: str | None = None,
    verbose: bool = True,
    *,
    suite: str | None = None,
    state: str | os.PathLike | None = None,
    adaptive: PixelBudget | None = None,
    surrogate: nn.Module | None = None,
    corruptions_dir: str | os.PathLike | None = None,
    strict: bool = True,
) -> Evaluation:
    """Return the accuracy of a model on images as they are and under l_inf attacks of radius eps.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; evaluated on its own device
            in eval mode, and left as it was.
        x: images (N, C, H, W) in [0, 1].
        y: class indices (N,) or (N, 1), or one-hot (N, K).
        eps: radius of every pixel, a number or a string such as "8/255".
        attacks: any of
            "natural";
            "pgdS", PGD with S steps of size eps/4 (2/255 at 8/255) from a random start;
            "mma" or "mmaS", the minimum-margin attack with 20 or S steps for each of 3 targets;
            "autoattack", the standard version of Croce & Hein 2020, or what the number of classes allows;
            "adaptive_pgdS", "adaptive_mmaS", the same with Pixel-AG under the larger budget `adaptive`
            (PART, section 4.2); different S share one run;
            "gradients", the five checks for obfuscated gradients (Appendix H.3);
            "corruptions", the 19 common corruptions (Appendix H.2);
            an attack of torchattacks or ART, made on this model or on another one.
        batch_size: samples per forward pass; halved by itself where memory runs out.
        seed: seed of the random starts; the global random state is left alone.
        name: how to call the model in the result; default: its class.
        verbose: show a progress bar.
        suite: "quick", "standard" or "paper" instead of `attacks`; see `SUITES`.
        state: JSON file to keep finished batches in; a run that was interrupted goes on from there.
        adaptive: budget of the adaptive attacks. (Default: PixelBudget(1.5 * eps, eps): 12/255 and 8/255)
        surrogate: network on which "gradients" makes black-box examples; see `gradient_checks`.
        corruptions_dir: where CIFAR-10-C lies; default: "corruptions" are made from `x`.
        strict: refuse models whose logits change from call to call, depend on the batch, or are
            probabilities; False turns that into a warning in the result.

    Raises:
        TypeError, ValueError: wrong images or labels, eps < 0, an unknown attack, a Pixel-AG attack
            as the only evidence, a model that `strict` refuses, a state that belongs to another run.
    """
    eps = parse_radius("eps", eps)
    warn_of_unusual(eps)
    check_count("batch_size", batch_size)
    check_count("seed", seed, 0)
    attacks = SUITES[check_choice("suite", suite, list(SUITES))] if suite else tuple(attacks)
    x = torch.as_tensor(x)
    check_images(x)
    y = class_indices(y, len(x))
    entries = _entries(attacks, eps, adaptive or PixelBudget(1.5 * eps, eps), seed)
    if "corruptions" in attacks and corruptions_dir is None:
        check_pictures(x)
    with eval_mode(model):
        x, y = x.detach().cpu().clone(), y.cpu().clone()
        warnings = _examine(model, x[: min(batch_size, 8)].to(device_of(model)), y, strict)
        names = [_name(attack, entries) for attack in attacks]
        card = _card(model, x, y, names, eps, seed, batch_size)
        pieces = State(state, {key: card[key] for key in ("weights", "data", "eps", "norm", "seed", "batch_size")})
        options = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        gradients = corruptions = None
        if "corruptions" in attacks:  # first, because its files may be missing
            if "corruptions" not in pieces:
                data = {"x": x, "y": y} if corruptions_dir is None else {"data_dir": corruptions_dir}
                pieces["corruptions"] = corruption_accuracy(model, **data, **options).to_dict()
            corruptions = CorruptionResult.from_dict(pieces["corruptions"])
        results: dict[str, AttackResult] = {}
        for entry in entries:
            with tqdm(total=len(x), desc=entry.names[0], unit="img", leave=False, disable=not verbose) as bar:
                results |= {result.name: result for result in entry.results(model, x, y, batch_size, pieces, bar)}
        if "gradients" in attacks:
            if "gradients" not in pieces:
                pieces["gradients"] = gradient_checks(model, x, y, eps, surrogate=surrogate, **options).to_dict()
            gradients = GradientChecks.from_dict(pieces["gradients"])
    listed = [results[attack] for attack in names if attack in results]
    return Evaluation(
        name or type(model).__name__, eps, seed, listed, y.numpy(), card, gradients, corruptions, warnings
    )


def _entries(attacks: Sequence[Any], eps: float, adaptive: PixelBudget, seed: int) -> list[Entry]:
    """Return what is to run, each kind once, after everything about it has been checked."""
    if not attacks:
        raise ValueError(f"attacks is empty; choose from {KNOWN}")
    entries = parse(
        [a for a in attacks if not (isinstance(a, str) and a in ("gradients", "corruptions"))], eps, adaptive, seed
    )
    check_evidence(entries, eps)
    return entries


def _name(attack: Any, entries: Sequence[Entry]) -> str:
    """Return the name of the row of an attack given by name or as an instance."""
    if isinstance(attack, str):
        return attack
    return next(entry.name for entry in entries if isinstance(entry, ToolkitAttack) and entry.attack is attack)


def _examine(model: nn.Module, images: Tensor, y: Tensor, strict: bool) -> list[str]:
    """Look for what makes every accuracy meaningless; refuse such a model, or return what is wrong with it."""
    with torch.no_grad():
        logits, again = logits_of(model, images), logits_of(model, images)
        alone = logits_of(model, images[:1])
    check_class_range(y, logits.shape[1])
    if not logits.isfinite().all():
        raise ValueError("the model's logits are not finite on the first images")
    scale = 1e-3 * (1 + float(logits.abs().max()))
    wrong = []
    if (logits - again).abs().max() > scale:
        wrong.append("the model's logits change from call to call, as in a randomised defence")
    elif (logits[:1] - alone).abs().max() > scale:
        wrong.append("the model's logits of an image depend on the other images of the batch")
    if logits.min() >= 0 and ((logits.sum(1) - 1).abs() < 1e-5).all():
        wrong.append("the model's output is a probability distribution; attacks need the logits")
    if wrong and strict:
        raise ValueError(f"{wrong[0]} (strict=False evaluates it all the same)")
    return wrong


def _card(
    model: nn.Module, x: Tensor, y: Tensor, names: list[str], eps: float, seed: int, batch_size: int
) -> dict[str, Any]:
    """Return what was evaluated, as plain data that tells it from everything else."""
    packages = ("part_plugin", "torch", "pyautoattack", "torchattacks", "adversarial-robustness-toolbox")
    return {
        "weights": fingerprint(model),
        "data": digest([x, y]),
        "n": len(x),
        "eps": eps,
        "norm": "Linf",
        "seed": seed,
        "batch_size": batch_size,
        "attacks": names,
        "versions": {package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
