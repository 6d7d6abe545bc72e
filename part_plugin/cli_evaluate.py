"""What the command `evaluate` does with networks and images: results, their files, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from .cli_networks import Loaded, say, warn
from .evaluation import Evaluation, compare, evaluate
from .recipes.reports import write_comparison


def evaluate_all(
    plan: Sequence[tuple[str, str, int]],
    loaded: Loaded,
    x: Tensor,
    y: Tensor,
    eps: float,
    out: Path,
    options: dict[str, Any],
    overwrite: bool,
    quiet: bool,
    writes: bool = True,
) -> None:
    """Evaluate networks one after the other, and write and print what was found.

    Args:
        plan: (name of the result, name of the network, seed) of every evaluation.
        loaded: the networks, see `load_networks`.
        x: images (N, C, H, W) in [0, 1].
        y: class indices (N,).
        eps: radius of the threat model.
        out: directory of the results.
        options: more arguments of `evaluate`.
        overwrite: whether results that are there may be replaced.
        quiet: whether to print nothing but warnings.
        writes: whether this process writes and prints; of several ranks the first does.
    """
    evaluations: dict[str, list[Evaluation]] = {name: [] for name in loaded}
    for run, name, seed in plan:
        state = out / f"{run}.state.json"
        evaluation = evaluate(loaded[name][0], x, y, eps, seed=seed, name=run, state=state, **options)
        if not writes:
            continue
        evaluation.save(out / run, overwrite)
        say(f"{evaluation}\n", quiet)
        for warning in evaluation.warnings if quiet else ():
            warn(f"{run}: {warning}")
        evaluations[name].append(evaluation)
    for name, several in evaluations.items():
        if len(several) > 1:
            table = 100 * compare(several)
            say(f"{name}, mean and standard deviation over {len(several)} seeds, in %", quiet)
            say(f"{table.agg(['mean', 'std']).T.round(2).to_string()}\n", quiet)
    if len(plan) > 1 and writes:
        everything = [evaluation for group in evaluations.values() for evaluation in group]
        say_comparison(everything, out / "comparison", quiet)


def say_comparison(evaluations: Sequence[Evaluation], path: Path, quiet: bool, attack: str = "worst case") -> None:
    """Write a comparison, and print it.

    Args:
        evaluations: see `write_comparison`.
        path: likewise.
        quiet: whether to print nothing.
        attack: see `write_comparison`.
    """
    table = write_comparison(evaluations, path, attack)
    say(table.T.to_string(), quiet)
    say(f"wrote {path}.md, .csv and .png", quiet)
