"""Tables and figures of what `reproduce.py` and `ablation.py` have run, into RESULTS.md.

    python benchmarks/tables/report.py cpu --out reproduction --root data

Tables go between the marks `<!-- begin NAME -->` and `<!-- end NAME -->` of RESULTS.md, figures beside it into
figures/. Cells that have not run are left out, with a note.
"""

import argparse
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import ablation
import figures
import pandas as pd
from cells import METHODS, Cell, Scale, merged
from harness import parser, read
from matplotlib.figure import Figure
from reproduce import CHOSEN, SCALES, TABLES, adapted, add_changes, grid

FOLDER = Path(__file__).parents[1]  # where RESULTS.md is
# Tables 1, 5, 6 and 8 of the paper: CIFAR-10, ResNet-18; natural, PGD-20, MMA, AutoAttack. Of Figure 1 the authors'
# README has two networks, without the last two
PAPER = {
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
    "PART, top-left lowered, eps 12/255, eps_low 6/255": (78.00, 47.69),
    "PART, bottom-right lowered, eps 12/255, eps_low 6/255": (76.77, 46.75),
}
Drawing = Callable[[], Figure]
SHOWN = {"mask_every": "s = {}", "cam": "{}", "steps": "{} steps", "attack": "MMA"}  # others: name and value


def label(one: Cell) -> str:
    """Return what a row is called: the method, the budget, and every setting that is not the scale's own."""
    settings, usual = one.settings, one.scale.settings[one.settings.dataset]
    parts = [one.method, *[one.budget] * (one.budget != "aligned")]
    if one.method in METHODS[::2]:
        parts += [f"eps {_radius(one, 'eps')}"] * (settings.eps != usual.eps)
    elif (settings.eps, settings.eps_low) != (usual.eps, usual.eps_low):
        parts.append(f"eps {_radius(one, 'eps')}, eps_low {_radius(one, 'eps_low')}")
    for name in (field.name for field in dataclasses.fields(settings)):
        told = name in ("dataset", "objective", "seed", "eps", "eps_low")
        if not told and getattr(settings, name) != getattr(usual, name):
            value = _radius(one, name) if name == "alpha" else getattr(settings, name)
            parts.append(SHOWN.get(name, f"{name} {{}}").format(value))
    return ", ".join(parts)


def _radius(one: Cell, name: str) -> str:
    value = getattr(one.settings, name)
    return f"{value:g}" if one.settings.dataset == "digits" else f"{255 * value:g}/255"


def rows(cells: Sequence[Cell], records: dict[str, dict]) -> pd.DataFrame:
    """Return accuracies in %, a row for each finished cell; `row` tells cells apart that differ in more than seed."""
    found = [
        {"row": label(one), "method": one.method, "seed": one.settings.seed}
        | {name: 100 * value for name, value in records[one.id]["accuracy"].items()}
        for one in merged(cells)
        if one.id in records
    ]
    return pd.DataFrame(found)


def accuracy_table(frame: pd.DataFrame, paper: dict[str, tuple] = PAPER) -> str:
    """Return mean (and deviation over seeds) of every row, beside the paper's where there are any."""
    attacks = [name for name in figures.ATTACKS if name in frame]
    columns = ["method", "seeds", *(figures.ATTACKS[a] for a in attacks), *["the paper's"] * bool(paper)]
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
    attacks = [name for name in figures.ATTACKS if name in frame]
    means = frame[frame["row"].isin(METHODS)].groupby("row")[attacks].mean()
    lines = [
        f"| difference in points | {' | '.join(figures.ATTACKS[a] for a in attacks)} |",
        "|---" * (1 + len(attacks)) + "|",
    ]
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
    return [value for name, value in zip(figures.ATTACKS, values, strict=False) if name in attacks]


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
    return " ".join([f"python benchmarks/tables/{script}.py {options.scale}", *given])


def tables_and_figures(scale: Scale, options: argparse.Namespace) -> tuple[dict[str, str], dict[str, Drawing]]:
    """Return tables as text and figures to draw, by name."""
    records, tables, drawings = read(Path(options.out)), {}, {}
    datasets = list(scale.settings)[:1]
    chosen = options.tables or (*CHOSEN[options.scale], "ablation")
    for name in (name for name in TABLES if name in chosen):
        cells = merged(grid(scale, datasets, [name]))
        done = [one for one in cells if one.id in records]
        if done:
            frame, paper = rows(done, records), PAPER if datasets == ["cifar10"] else {}
            text = accuracy_table(frame, paper)
            text += "\n\n" + gains(frame, paper) if name == "methods" else ""
            left = f" {len(cells) - len(done)} cells have not run." if len(done) < len(cells) else ""
            used = [records[one.id] for one in done]
            tables[name] = f"{text}\n\n{provenance(used, command('reproduce', options))}{left}"
            drawings |= _drawings(name, frame, done, records, options)
    cells = ablation.grid(scale, options.budgets) if "ablation" in chosen else []
    used = [records[one.id] for one in cells if one.id in records]
    frame = ablation.table(cells, Path(options.out)) if used else pd.DataFrame()
    if len(frame):
        tables["ablation"] = f"{ablation.markdown(frame)}\n\n{provenance(used, command('ablation', options))}"
        if frame["seed"].nunique() > 1:
            drawings["ablation"] = lambda: figures.draw_ablation(frame)
    return tables, drawings


def _drawings(
    table: str, frame: pd.DataFrame, done: Sequence[Cell], records: dict[str, dict], options: argparse.Namespace
) -> dict[str, Drawing]:
    n = records[done[0].id]["test"]
    if table in ("quadrants", "radii"):
        return {table: lambda: figures.draw_bars(frame, n)}
    drawings = {}
    if table == "methods":
        drawings["tradeoff"] = lambda: figures.draw_tradeoff(frame, n)
        drawings["epochs"] = lambda: figures.draw_epochs(done, records)
        if {"AT", "PART"} <= set(frame["method"]):
            drawings["maps"] = lambda: figures.draw_maps(done, options)
    return drawings


def fill(text: str, name: str, table: str) -> str:
    """Return the text with the table between its marks."""
    pattern = re.compile(f"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def main() -> None:
    """Write tables and figures."""
    made = parser(__doc__)
    made.add_argument("scale", choices=list(SCALES))
    made.add_argument("--into", type=Path, default=FOLDER / "RESULTS.md")
    add_changes(made)
    ablation.add_budgets(made)
    made.add_argument("--tables", nargs="+", choices=[*TABLES, "ablation"], help="default: what fits the scale")
    options = made.parse_args()
    tables, drawings = tables_and_figures(adapted(SCALES[options.scale], options), options)
    text = options.into.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = fill(text, f"{options.scale} {name}", table)
        print(f"{name}\n\n{table}\n")
    options.into.write_text(text, encoding="utf-8")
    folder = options.into.parent / "figures"
    folder.mkdir(exist_ok=True)
    for name, draw in drawings.items():
        draw().savefig(folder / f"{options.scale}-{name}.png", dpi=120)
        print(f"wrote {folder.name}/{options.scale}-{name}.png")


if __name__ == "__main__":
    main()
