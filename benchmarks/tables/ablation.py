"""Where does PART's gain come from: from where the radius is lowered, or from lowering it at all?

    python benchmarks/tables/ablation.py digits --jobs 2
    python benchmarks/tables/ablation.py cpu --root data --jobs 2 --seeds 0 1 2 --budgets aligned mean random

Under equal training: plain adversarial training, PART, and PART's radii in other places (`budgets.BUDGETS`). Networks
of one seed share their first weights, batches and random starts, so differences are taken seed by seed. The same
command again goes on where it was stopped, and cells that `reproduce.py` has finished in the same OUT are taken over.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from cells import Cell, Scale, cell, merged, over_seeds
from harness import parser, read, run_grid
from reproduce import SCALES, adapted, add_changes
from scipy.stats import ttest_rel

COMPARED = ("aligned", "mean", "random", "inverted", "published", "published misaligned")


def grid(scale: Scale, budgets: Sequence[str] = COMPARED) -> list[Cell]:
    """Return AT, and PART with every budget, for every seed."""
    dataset = next(iter(scale.settings))
    return over_seeds(
        scale, [cell(scale, dataset, "AT"), *(cell(scale, dataset, "PART", budget) for budget in budgets)]
    )


def table(cells: list[Cell], out: Path) -> pd.DataFrame:
    """Return the accuracies in %, a row for each seed and budget ("AT" for none), of seeds that are complete."""
    records = read(out)
    rows = [
        {"seed": one.settings.seed, "budget": "AT" if one.method == "AT" else one.budget}
        | {name: 100 * value for name, value in records[one.id]["accuracy"].items() if name in one.attacks}
        for one in merged(cells)
        if one.id in records
    ]
    frame = pd.DataFrame(rows)
    complete = len(cells) // len({one.settings.seed for one in cells})
    return frame[frame.groupby("seed")["budget"].transform("size") == complete]


def budgets_of(frame: pd.DataFrame) -> list[str]:
    """Return what is compared, AT first."""
    return [name for name in ("AT", *COMPARED) if name in set(frame["budget"])]


def differences(frame: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return the mean paired differences to `baseline` in points, with 95 % t-intervals over seeds."""
    wide = frame.set_index(["seed", "budget"]).unstack("budget")
    rows = []
    for budget in budgets_of(frame):
        if budget == baseline:
            continue
        row = {"budget": budget}
        for attack in frame.columns.drop(["seed", "budget"]):
            ours, theirs = wide[attack, budget], wide[attack, baseline]
            interval = ttest_rel(ours, theirs).confidence_interval()
            row |= {attack: (ours - theirs).mean(), f"{attack} low": interval.low, f"{attack} high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows).set_index("budget")


def markdown(frame: pd.DataFrame) -> str:
    """Return three tables: means, differences to AT, differences to PART."""
    attacks = list(frame.columns.drop(["seed", "budget"]))
    seeds = frame["seed"].nunique()
    lines = [f"Mean accuracy in % over {seeds} seeds.", "", _header(attacks)]
    means = frame.groupby("budget")[attacks].mean()
    for budget in budgets_of(frame):
        lines.append(f"| {budget} | " + " | ".join(f"{value:.2f}" for value in means.loc[budget]) + " |")
    for baseline, name in (("AT", "AT"), ("aligned", "PART (aligned)")):
        lines += ["", f"Paired difference to {name} in points, 95 % interval over seeds.", "", _header(attacks)]
        for budget, row in differences(frame, baseline).iterrows():
            shown = [f"{row[a]:+.2f} ({row[f'{a} low']:+.2f} to {row[f'{a} high']:+.2f})" for a in attacks]
            lines.append(f"| {budget} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _header(attacks: list[str]) -> str:
    return "| budget | " + " | ".join(attacks) + " |\n" + "|---" * (1 + len(attacks)) + "|"


def add_budgets(made: argparse.ArgumentParser) -> None:
    """Add the option that says what is compared."""
    made.add_argument(
        "--budgets", nargs="+", choices=COMPARED, default=COMPARED, help="compared with AT (default: all)"
    )


def main() -> None:
    """Run what is missing, print the tables."""
    made = parser(__doc__)
    made.add_argument("scale", choices=list(SCALES))
    add_changes(made)
    add_budgets(made)
    options: argparse.Namespace = made.parse_args()
    cells = grid(adapted(SCALES[options.scale], options), options.budgets)
    run_grid(cells, options)
    if not options.list:
        print(markdown(table(cells, Path(options.out))))


if __name__ == "__main__":
    main()
