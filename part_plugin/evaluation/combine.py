"""Several evaluations: of models side by side, or of parts of the samples as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .attack_result import AttackResult
from .results import Evaluation


def compare(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return one row for each of `evaluations` and a column per attack that any of them ran: accuracies in [0, 1].

    Raises:
        TypeError: something else is among them.
        ValueError: there is none.
    """
    if not evaluations:
        raise ValueError("evaluations is empty; at least one is needed")
    _check_types("evaluations", evaluations)
    rows = [{result.name: result.accuracy for result in evaluation.rows} for evaluation in evaluations]
    table = pd.DataFrame(rows, index=pd.Index([evaluation.model for evaluation in evaluations], name="model"))
    return table[[name for name in table if name != "worst case"] + ["worst case"]]


def merged(shards: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation of all samples from evaluations of parts of them, in this order.

    Natural accuracy, PGD and MMA are then those of one run, since their random starts depend on
    image and seed alone. AutoAttack seeds itself per batch, so that its starts differ. Gradient
    checks and corruptions are left out, as they are no flags of single samples.

    Args:
        shards: evaluations with the same weights, eps, seed and attacks, on other samples.

    Raises:
        TypeError: something else is among them.
        ValueError: nothing to merge, other weights or settings, or a part that is there twice.
    """
    if not shards:
        raise ValueError("shards is empty; at least one evaluation is needed")
    _check_types("shards", shards)
    for shard in shards:
        for what in ("weights", "eps", "seed", "norm", "attacks", "data"):
            if what not in shard.card:
                raise ValueError(
                    f"shards holds {shard.model!r}, whose card has no {what!r}; one of evaluate() is needed"
                )
    first = shards[0]
    for other in shards[1:]:
        for what in ("weights", "eps", "seed", "norm", "attacks"):
            if other.card[what] != first.card[what]:
                raise ValueError(f"shards differ in {what}: {first.card[what]} and {other.card[what]}")
    if len({shard.card["data"] for shard in shards}) < len(shards):
        raise ValueError("shards hold the same samples twice; each part may be given once")
    if len({tuple(result.name for result in shard.results) for shard in shards}) > 1:
        raise ValueError("shards have results of other attacks than their cards say")
    results = [_joined(parts) for parts in zip(*(shard.results for shard in shards), strict=True)]
    labels = np.concatenate([shard.labels for shard in shards])
    card = first.card | {"data": "+".join(str(shard.card["data"]) for shard in shards), "n": len(labels)}
    warnings = list(dict.fromkeys(warning for shard in shards for warning in shard.warnings))
    return Evaluation(first.model, first.eps, first.seed, results, labels, card, warnings=warnings)


def _check_types(name: str, evaluations: Sequence[Evaluation]) -> None:
    """Raise unless all are evaluations.

    Raises:
        TypeError: one is something else.
    """
    for one in evaluations:
        if not isinstance(one, Evaluation):
            raise TypeError(f"{name} holds a {type(one).__name__}; an Evaluation is needed")


def _joined(parts: Sequence[AttackResult]) -> AttackResult:
    """Return the result of one attack on all samples from its results on parts of them."""
    return AttackResult(
        parts[0].name,
        np.concatenate([part.correct for part in parts]),
        sum(part.seconds for part in parts),
        parts[0].eps,
        parts[0].eps_low,
        " | ".join(dict.fromkeys(part.settings for part in parts)),
        list(dict.fromkeys(warning for part in parts for warning in part.warnings)),
    )
