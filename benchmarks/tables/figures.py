"""The figures of RESULTS.md, made of what the cells have found."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import ablation
import pandas as pd
import torch
from cells import METHODS, Cell
from harness import tensors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from part_plugin import PixelBudget
from part_plugin.plots import plot_budgets
from part_plugin.recipes.checkpoints import load_checkpoint

ATTACKS = {"natural": "natural", "pgd20": "PGD-20", "mma": "MMA", "autoattack": "AutoAttack"}


def error(share: float, n: int) -> float:
    """Return the half width of the 95 % interval of an accuracy in %, measured on n images."""
    return 196 * (share / 100 * (1 - share / 100) / n) ** 0.5


def draw_tradeoff(frame: pd.DataFrame, n: int) -> Figure:
    """Return natural accuracy against that under the strongest attack, each pair of methods joined by an arrow."""
    attack = next(name for name in reversed(ATTACKS) if name in frame)
    means = frame.groupby("row")[["natural", attack]].mean()
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    ax = figure.subplots()
    for number, (plain, ours) in enumerate(zip(METHODS[::2], METHODS[1::2], strict=True)):
        if not {plain, ours} <= set(means.index):
            continue
        colour = f"C{number}"
        for name, marker in ((plain, "o"), (ours, "s")):
            x, y = means.loc[name]
            ax.errorbar(x, y, error(y, n), error(x, n), fmt=marker, color=colour, capsize=3, label=name, elinewidth=0.7)
        ax.annotate("", means.loc[ours], means.loc[plain], arrowprops={"arrowstyle": "->", "color": colour})
    ax.set_xlabel("natural accuracy (%)")
    ax.set_ylabel(f"accuracy under {ATTACKS[attack]} (%)")
    ax.set_title(f"{n} test images; bars: 95 % intervals over images", fontsize=9)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def draw_epochs(done: Sequence[Cell], records: dict[str, dict]) -> Figure:
    """Return natural and PGD-10 accuracy on validation images after every epoch, of AT, PART, TRADES and PART-T."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for number, method in enumerate(METHODS[:4]):
        curves = [pd.DataFrame(records[one.id]["epochs"]) for one in done if one.method == method]
        if not curves:
            continue
        means = 100 * pd.concat(curves).groupby("epoch").mean()
        for ax, column in zip(panels, ("natural", "pgd10"), strict=True):
            ax.plot(means[column], "-" if number % 2 else "--", color=f"C{number // 2}", label=method)
    for ax, title in zip(panels, ("natural", "PGD-10"), strict=True):
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{title} accuracy (%), {done[0].scale.validation} images")
        ax.grid(alpha=0.3)
    panels[0].legend()
    return figure


def draw_bars(frame: pd.DataFrame, n: int) -> Figure:
    """Return natural and PGD-20 accuracy of each row."""
    figure = Figure(figsize=(8, 0.42 * frame["row"].nunique() + 1.2), layout="constrained")
    for ax, attack in zip(figure.subplots(1, 2, sharey=True), ("natural", "pgd20"), strict=True):
        means = frame.groupby("row", sort=False)[attack].mean()[::-1]
        _points(ax, means, [error(value, n) for value in means])
        ax.set_xlabel(f"{ATTACKS[attack]} accuracy (%)\nbars: 95 % intervals over {n} images", fontsize=8)
    return figure


def draw_ablation(frame: pd.DataFrame) -> Figure:
    """Return paired differences to AT with their intervals over seeds."""
    attacks = [name for name in ATTACKS if name in frame]
    found = ablation.differences(frame, "AT")[::-1]
    figure = Figure(figsize=(2.6 * len(attacks) + 1.2, 3.4), layout="constrained")
    for ax, attack in zip(figure.subplots(1, len(attacks), sharey=True), attacks, strict=True):
        _points(ax, found[attack], [found[attack] - found[f"{attack} low"], found[f"{attack} high"] - found[attack]])
        ax.axvline(0, color="gray", linewidth=0.8)
        ax.set_xlabel(f"{ATTACKS[attack]}: difference to AT (points)", fontsize=8)
    figure.suptitle(f"95 % intervals over {frame['seed'].nunique()} seeds", fontsize=9)
    return figure


def _points(ax: Axes, values: pd.Series, errors: Sequence) -> None:
    """Draw a named point with its interval in each line."""
    ax.errorbar(values, range(len(values)), xerr=errors, fmt="o", capsize=3)
    ax.set_yticks(range(len(values)), values.index, fontsize=8)
    ax.grid(alpha=0.3)


def draw_maps(done: Sequence[Cell], options: argparse.Namespace) -> Figure:
    """Return images, maps, budgets and perturbations of AT beside PART, as in Appendix B."""
    chosen = {one.method: one for one in reversed(done) if one.method in ("AT", "PART")}  # the first of each
    chosen = {name: chosen[name] for name in ("AT", "PART")}
    models = {name: load_checkpoint(Path(options.out) / "cells" / f"{one.id}.pt")[0] for name, one in chosen.items()}
    x, y = (every[:500] for every in tensors(chosen["AT"], options, "test"))
    settings = chosen["PART"].settings
    with torch.no_grad():
        right = torch.stack([model(x).argmax(1) == y for model in models.values()]).all(0)
    of_each = [int(right.logical_and(y == label).nonzero()[0, 0]) for label in y[right].unique()][:6]
    return plot_budgets(models, x[of_each], y[of_each], PixelBudget(settings.eps, settings.eps_low))
