"""Tables and figures of what `reproduce.py` and `ablation.py` have run, into RESULTS.md.

    python benchmarks/report.py cpu --out reproduction --root data

Tables go between the marks `<!-- begin NAME -->` and `<!-- end NAME -->` of RESULTS.md, figures beside it into
figures/. Cells that have not run are left out, with a note.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import ablation
import pandas as pd
import torch
from harness import METHODS, Cell, Scale, merged, parser, read, tensors
from matplotlib.figure import Figure
from reproduce import CHOSEN, SCALES, TABLES, adapted, add_changes, grid

from part_plugin import PixelBudget
from part_plugin.adapters.robustbench import load_checkpoint
from part_plugin.plots import plot_budgets

HERE = Path(__file__).parent
ATTACKS = {"natural": "natural", "pgd20": "PGD-20", "mma": "MMA", "autoattack": "AutoAttack"}
PAPER = {  # Tables 1, 5, 6 and 8 of the paper: CIFAR-10, ResNet-18; natural, PGD-20, MMA, AutoAttack
    "AT": (82.58, 43.69, 41.80, 41.63),
    "PART": (83.42, 43.65, 41.98, 41.74),
    "TRADES": (78.16, 48.28, 45.00, 45.05),
    "PART-T": (79.36, 48.90, 45.90, 45.97),
    "MART": (76.82, 49.86, 45.42, 45.10),
    "PART-M": (78.67, 50.26, 45.53, 45.19),
    "PART, s = 10": (83.77, 43.36, 41.83, 41.41),
    "PART-T, s = 10": (80.13, 48.72, 45.59, 45.60),
    "PART-M, s = 10": (80.00, 49.71, 45.14, 44.61),
    "PART, xgradcam": (83.34, 43.53, 41.97, 41.74),
    "PART, layercam": (83.38, 43.67, 42.07, 42.03),
    "PART, 20 steps": (83.44, 43.64, 42.02, 41.82),
    "PART, 40 steps": (83.36, 43.82, 42.09, 41.86),
    "PART, 60 steps": (83.30, 44.02, 42.18, 41.91),
    "AT, MMA": (81.76, 44.76, 42.31, 42.04),
    "PART, MMA": (83.55, 44.99, 42.50, 42.09),
}


def label(one: Cell, scale: Scale) -> str:
    """Return what a row is called: the method, and where it is not the scale's own."""
    settings, usual = one.settings, scale.settings[one.settings.dataset]
    parts = [one.method]
    parts += [one.budget] * (one.budget != "aligned")
    if settings.eps != usual.eps or settings.eps_low not in (usual.eps, usual.eps_low):
        unit = "" if settings.dataset == "digits" else "/255"
        radii = (f"{radius * (255 if unit else 1):g}{unit}" for radius in (settings.eps, settings.eps_low))
        parts.append("eps {}, eps_low {}".format(*radii))
    parts += [f"s = {settings.mask_every}"] * (settings.mask_every != usual.mask_every)
    parts += [settings.cam] * (settings.cam != usual.cam)
    parts += [f"{settings.steps} steps"] * (settings.steps != usual.steps)
    parts += ["MMA"] * (settings.attack != usual.attack)
    return ", ".join(parts)


def rows(cells: Sequence[Cell], records: dict[str, dict], scale: Scale) -> pd.DataFrame:
    """Return accuracies in %, a row for each finished cell; `row` tells cells apart that differ in more than seed."""
    found = [
        {"row": label(one, scale), "method": one.method, "seed": one.settings.seed}
        | {name: 100 * value for name, value in records[one.id]["accuracy"].items()}
        for one in merged(cells)
        if one.id in records
    ]
    return pd.DataFrame(found)


def accuracy_table(frame: pd.DataFrame, paper: dict[str, tuple] = PAPER) -> str:
    """Return mean (and deviation over seeds) of every row, beside the paper's where there are any."""
    attacks = [name for name in ATTACKS if name in frame]
    columns = ["method", "seeds", *(ATTACKS[a] for a in attacks), *["the paper's"] * bool(paper)]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row, group in frame.groupby("row", sort=False):
        shown = [row, str(len(group))]
        for attack in attacks:
            values = group[attack].dropna()
            spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
            shown.append(f"{values.mean():.2f}{spread}" if len(values) else "")
        if paper:
            shown.append(" / ".join(f"{value:.2f}" for value in _of_attacks(paper.get(row, ()), attacks)))
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def gains(frame: pd.DataFrame, paper: dict[str, tuple] = PAPER) -> str:
    """Return by how much each PART method differs from its plain one, here and in the paper."""
    attacks = [name for name in ATTACKS if name in frame]
    means = frame[frame["row"].isin(METHODS)].groupby("row")[attacks].mean()
    lines = [f"| difference in points | {' | '.join(ATTACKS[a] for a in attacks)} |", "|---" * (1 + len(attacks)) + "|"]
    for plain, ours in zip(METHODS[::2], METHODS[1::2], strict=True):
        if not {plain, ours} <= set(means.index):
            continue
        found = {"here": means.loc[ours] - means.loc[plain]}
        if paper:
            pairs = zip(*(_of_attacks(paper[name], attacks) for name in (ours, plain)), strict=True)
            found["paper"] = [a - b for a, b in pairs]
        for where, values in found.items():
            lines.append(f"| {ours} - {plain}, {where} | " + " | ".join(f"{value:+.2f}" for value in values) + " |")
    return "\n".join(lines)


def _of_attacks(values: Sequence[float], attacks: Sequence[str]) -> list[float]:
    return [value for name, value in zip(ATTACKS, values, strict=False) if name in attacks]


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


def draw_epochs(cells: Sequence[Cell], records: dict[str, dict]) -> Figure:
    """Return natural and PGD-10 accuracy on held-out images after every epoch, of AT and PART."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    watched = 0
    for number, method in enumerate(METHODS):
        found = [records[one.id] for one in merged(cells) if one.id in records and one.method == method]
        if not found or method not in ("AT", "PART", "TRADES", "PART-T"):
            continue
        watched = next(one.watched for one in cells)
        curves = [pd.DataFrame(record["epochs"]).set_index("epoch") for record in found]
        mean = sum(curves) / len(curves)
        for ax, column in zip(panels, ("natural", "pgd10"), strict=True):
            style = {"color": f"C{number // 2}", "linestyle": "-" if number % 2 else "--"}
            ax.plot(mean.index, 100 * mean[column], label=method, **style)
    for ax, title in zip(panels, ("natural", "PGD-10"), strict=True):
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"{title} accuracy (%), {watched} images")
        ax.grid(alpha=0.3)
    panels[0].legend()
    return figure


def draw_bars(frame: pd.DataFrame, n: int) -> Figure:
    """Return natural and PGD-20 accuracy of each row."""
    figure = Figure(figsize=(8, 0.42 * frame["row"].nunique() + 1.2), layout="constrained")
    for ax, attack in zip(figure.subplots(1, 2, sharey=True), ("natural", "pgd20"), strict=True):
        means = frame.groupby("row", sort=False)[attack].mean()[::-1]
        errors = [error(value, n) for value in means]
        ax.errorbar(means, range(len(means)), xerr=errors, fmt="o", capsize=3)
        ax.set_yticks(range(len(means)), means.index, fontsize=8)
        ax.set_xlabel(f"{ATTACKS[attack]} accuracy (%)\nbars: 95 % intervals over {n} images", fontsize=8)
        ax.grid(alpha=0.3)
    return figure


def draw_ablation(frame: pd.DataFrame) -> Figure:
    """Return paired differences to AT with their intervals over seeds."""
    attacks = [name for name in ATTACKS if name in frame]
    found = ablation.differences(frame, "AT")[::-1]
    figure = Figure(figsize=(2.6 * len(attacks) + 1.2, 3.4), layout="constrained")
    for ax, attack in zip(figure.subplots(1, len(attacks), sharey=True), attacks, strict=True):
        low, high = found[attack] - found[f"{attack} low"], found[f"{attack} high"] - found[attack]
        ax.errorbar(found[attack], range(len(found)), xerr=[low, high], fmt="o", capsize=3)
        ax.axvline(0, color="gray", linewidth=0.8)
        ax.set_yticks(range(len(found)), found.index, fontsize=8)
        ax.set_xlabel(f"{ATTACKS[attack]}: difference to AT (points)", fontsize=8)
        ax.grid(alpha=0.3)
    figure.suptitle(f"95 % intervals over {frame['seed'].nunique()} seeds", fontsize=9)
    return figure


def draw_maps(cells: Sequence[Cell], records: dict[str, dict], options: argparse.Namespace) -> Figure:
    """Return images, maps, budgets and perturbations of AT beside PART, as in Appendix B."""
    chosen = {}
    for one in cells:
        if one.method in ("AT", "PART") and one.id in records and one.method not in chosen:
            chosen[one.method] = one
    models = {name: load_checkpoint(Path(options.out) / "cells" / f"{one.id}.pt")[0] for name, one in chosen.items()}
    first = next(iter(chosen.values()))
    x, y = tensors(first, options, "test")
    eps, eps_low = chosen["PART"].settings.eps, chosen["PART"].settings.eps_low
    with torch.no_grad():
        right = torch.stack([model(x[:500]).argmax(1) == y[:500] for model in models.values()]).all(0)
    of_each = [int(right.logical_and(y[:500] == label).nonzero()[0, 0]) for label in y[:500][right].unique()][:6]
    return plot_budgets(models, x[of_each], y[of_each], PixelBudget(eps, eps_low))


def provenance(records: Sequence[dict], command: str) -> str:
    """Return the line that says where a table's numbers come from."""
    first = records[0]
    commits = ", ".join(sorted({record["commit"] for record in records}))
    images = f"{first['samples'] or 'all'} training and {first['test']} test images of {first['settings']['dataset']}"
    images += ", read from image files" if first["source"] == "imagefolder" else ""
    return (
        f"`{command}`; {images}; {first['hardware']}, {first['threads']} thread(s) per cell, torch {first['torch']}, "
        f"commit {commits}, {len(records)} cells."
    )


def command(script: str, options: argparse.Namespace) -> str:
    """Return the command that runs the cells of a table."""
    changes = {name: getattr(options, name) for name in ("seeds", "samples", "width")}
    if script == "ablation" and tuple(options.budgets) != ablation.COMPARED:
        changes["budgets"] = options.budgets
    given = [
        f"--{name} {value if isinstance(value, int) else ' '.join(map(str, value))}"
        for name, value in changes.items()
        if value
    ]
    return " ".join([f"python benchmarks/{script}.py {options.scale}", *given])


def tables_and_figures(scale: Scale, options: argparse.Namespace) -> tuple[dict[str, str], dict[str, Callable]]:
    """Return tables as text and figures to draw, by name."""
    records, tables, figures = read(Path(options.out)), {}, {}
    datasets = list(scale.settings)[:1]
    paper = PAPER if datasets == ["cifar10"] else {}
    chosen = options.tables or (*CHOSEN[options.scale], "ablation")
    for table in (name for name in TABLES if name in chosen):
        cells = grid(scale, datasets, [table])
        frame = rows(cells, records, scale)
        if frame.empty:
            continue
        used = [records[one.id] for one in cells if one.id in records]
        text = accuracy_table(frame, paper)
        if table == "methods":
            text += "\n\n" + gains(frame, paper)
            figures["tradeoff"] = lambda frame=frame, n=used[0]["test"]: draw_tradeoff(frame, n)
            figures["epochs"] = lambda cells=cells: draw_epochs(cells, records)
            figures["maps"] = lambda cells=cells: draw_maps(cells, records, options)
        elif table in ("quadrants", "radii"):
            figures[table] = lambda frame=frame, n=used[0]["test"]: draw_bars(frame, n)
        left = len(merged(cells)) - len(used)
        note = f" {left} cells have not run." if left else ""
        tables[table] = f"{text}\n\n{provenance(used, command('reproduce', options))}{note}"
    cells = ablation.grid(scale, options.budgets) if "ablation" in chosen else []
    used = [records[one.id] for one in cells if one.id in records]
    frame = ablation.table(cells, Path(options.out)) if used else pd.DataFrame()
    if len(frame):
        tables["ablation"] = f"{ablation.markdown(frame)}\n\n{provenance(used, command('ablation', options))}"
        if frame["seed"].nunique() > 1:
            figures["ablation"] = lambda: draw_ablation(frame)
    return tables, figures


def fill(text: str, name: str, table: str) -> str:
    """Return the text with the table between its marks."""
    pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def main() -> None:
    """Write tables and figures."""
    made = parser(__doc__)
    made.add_argument("scale", choices=list(SCALES))
    made.add_argument("--into", type=Path, default=HERE / "RESULTS.md")
    add_changes(made)
    ablation.add_budgets(made)
    made.add_argument("--tables", nargs="+", choices=[*TABLES, "ablation"], help="default: what fits the scale")
    options = made.parse_args()
    tables, figures = tables_and_figures(adapted(SCALES[options.scale], options), options)
    text = options.into.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = fill(text, f"{options.scale} {name}", table)
        print(f"{name}\n\n{table}\n")
    options.into.write_text(text, encoding="utf-8")
    folder = options.into.parent / "figures"
    folder.mkdir(exist_ok=True)
    for name, draw in figures.items():
        draw().savefig(folder / f"{options.scale}-{name}.png", dpi=120)
        print(f"wrote {folder.name}/{options.scale}-{name}.png")


if __name__ == "__main__":
    main()
