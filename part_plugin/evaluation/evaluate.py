"""`evaluate`: one call, one model, accuracies with confidence intervals.

Accuracies that may be quoted come from attacks that let every pixel move by eps. Pixel-AG with a
smaller eps_low is weaker by construction: it can be looked at, but never stands alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..budget import Budget
from ..checks import check_count, check_images, check_number, check_seed, class_indices
from ..files import StrPath
from ..mismatch import check_model, explained
from ..radius import parse_radius, warn_of_unusual
from .attack_result import AttackResult
from .attacks import check_evidence, parse
from .common import check_name, device_of, evaluated, fingerprint, progress
from .corrupted_images import check_pictures, severities_of
from .corruption_result import CorruptionResult
from .corruptions import corruption_accuracy
from .examine import card_of, examine, guessing
from .gradient_result import GradientChecks
from .gradients import gradient_checks
from .pieces import Pieces
from .results import Evaluation
from .sharing import shared
from .state import State
from .suites import ATTACKS, adaptive_budget, chosen_attacks, is_extra


def evaluate(
    model: nn.Module,
    x: Tensor | NDArray[Any],
    y: Tensor | NDArray[Any] | None = None,
    eps: float | str = 8 / 255,
    attacks: Sequence[Any] = ATTACKS,
    batch_size: int = 128,
    seed: int = 0,
    name: str | None = None,
    verbose: bool = True,
    *,
    suite: str | None = None,
    state: StrPath | None = None,
    adaptive: Budget | None = None,
    surrogate: nn.Module | None = None,
    corruptions_dir: StrPath | None = None,
    strict: bool = True,
    jobs: int = 1,
    devices: int = 1,
    ranks: bool = False,
) -> Evaluation:
    """Return the accuracy of a model on images as they are and under l_inf attacks of radius eps.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; evaluated on its own device
            in eval mode, and left as it was.
        x: images (N, C, H, W) in [0, 1], all of them: no loader.
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
        jobs: processes that share the batches of each attack of a model on the CPU, with the flags of one; see
            `Workers`.
        devices: cards, from the model's on, that share them, with a process each.
        ranks: whether the ranks of torch.distributed share them; each calls `evaluate` with the same arguments and
            gets the result, rank 0 writes the `state`. Cards and machines must be of one kind.

    Raises:
        TypeError, ValueError: a model that is no network, wrong images or labels, eps < 0 (for "gradients" 0),
            an unknown attack, a Pixel-AG attack as the only evidence, a model that `strict` refuses, a
            state that belongs to another run, more than one of `jobs`, `devices` and `ranks`, or one that does not go
            with the model's device.
        RuntimeError: `ranks` without torch.distributed; an error of another rank.
        OSError: `state` cannot be written, which is tried before the work, or another evaluation is writing it.
        FileNotFoundError: `corruptions_dir` lacks a file.
    """
    check_model("model", model)
    name = check_name(name or type(model).__name__)
    eps = parse_radius("eps", eps)
    warn_of_unusual(eps)
    batch_size, seed = check_count("batch_size", batch_size), check_seed("seed", seed)
    attacks = chosen_attacks(attacks, suite)
    rows = parse((a for a in attacks if not is_extra(a)), eps, adaptive_budget(adaptive, eps), seed)
    entries = list(dict.fromkeys(rows.values()))
    check_evidence(entries, eps)
    with_gradients, with_corruptions = "gradients" in attacks, "corruptions" in attacks
    if with_gradients:
        check_number("eps", eps, above=True)
    if surrogate is not None:
        check_model("surrogate", surrogate)
    x = _images(x)
    y = class_indices(y, len(x))
    if with_corruptions and corruptions_dir is None:
        check_pictures(x)
    first = x[: min(batch_size, 8)].detach().to(device_of(model))
    with (
        explained(model, first),
        shared(model, jobs, devices, ranks) as hands,
        hands.reserved(state) as state,
        evaluated(model, first) as model,
    ):
        x, y = x.detach().cpu().clone(), y.cpu().clone()
        warnings = examine(model, first.clone(), y, strict)
        card = card_of(model, x, y, [*rows, *filter(is_extra, attacks)], eps, seed, batch_size)
        hands.start(model, first, card)
        kept = State(state, {key: card[key] for key in ("weights", "data", "eps", "norm", "seed", "batch_size")})
        pieces = Pieces(kept, hands)
        verbose = verbose and hands.writes
        options: Any = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
        corruptions = gradients = None
        if with_corruptions:  # first, because its files may be missing
            data = (x, y) if corruptions_dir is None else (None, None)
            measure = partial(corruption_accuracy, model, *data, data_dir=corruptions_dir, **options)
            source = severities_of(x) if corruptions_dir is None else os.path.abspath(corruptions_dir)
            with kept.stopping_in(f"corruptions of {name}"):
                key = f"corruptions/{source}"
                corruptions = pieces.get(key, lambda: measure().to_dict(), CorruptionResult.from_dict)
        results: dict[str, AttackResult] = {}
        began = time.perf_counter()
        for entry in entries:
            with (
                progress(verbose, len(x), "img", entry.names[0]) as bar,
                kept.stopping_in(f"{entry.names[0]} of {name}"),
            ):
                results |= {result.name: result for result in entry.results(model, x, y, batch_size, pieces, bar)}
        warnings += guessing(model, first.clone(), results.get("natural"))
        wall = time.perf_counter() - began if hands.processes > 1 else None
        if with_gradients:
            check = partial(gradient_checks, model, x, y, eps, surrogate=surrogate, **options)
            source = "" if surrogate is None else fingerprint(surrogate)
            with kept.stopping_in(f"gradients of {name}"):
                key = f"gradients/{source}"
                gradients = pieces.get(key, lambda: check().to_dict(), GradientChecks.from_dict)
    listed = [results[row] for row in rows]
    return Evaluation(name, eps, seed, listed, y.numpy(), card, gradients, corruptions, warnings, wall)


def _images(x: Any) -> Tensor:
    """Return the images as a tensor.

    Raises:
        TypeError: something that is none, such as a loader.
    """
    kind = type(x).__name__
    if isinstance(x, DataLoader):
        raise TypeError(f"x is a {kind}; images and labels are needed: x, y = map(torch.cat, zip(*loader))")
    if isinstance(x, Dataset):
        whole = "next(iter(DataLoader(dataset, len(dataset))))"
        raise TypeError(f"x is a {kind}; images and labels are needed: x, y = {whole}")
    try:
        images: Tensor = torch.as_tensor(x)
    except (TypeError, ValueError, RuntimeError):
        remedy = " (torch.stack makes one of a list)" if isinstance(x, (list, tuple)) else ""
        raise TypeError(f"x is a {kind}; images as a tensor or an array (N, C, H, W) are needed{remedy}") from None
    check_images(images, hint="; move their normalisation into the model: nn.Sequential(Normalize(mean, std), model)")
    return images
