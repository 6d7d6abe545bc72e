"""Results side by side as files: a table and a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..evaluation import Evaluation, compare
from ..files import write_bytes, write_text
from ..plots import plot_tradeoff

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_comparison(evaluations: Sequence[Evaluation], path: Path, attack: str = "worst case") -> pd.DataFrame:
    """Write PATH.csv, PATH.md and PATH.png, a figure of natural against robust accuracy; return the table.

    Args:
        evaluations: a row each.
        path: where to write, without ending.
        attack: robust accuracy to show in the figure.

    Returns:
        Accuracies in %, a row per evaluation and a column per attack.

    Raises:
        OSError: a file cannot be written.
        KeyError: `attack` was not evaluated.
    """
    table = (100 * compare(evaluations)).round(2)
    figure = plot_tradeoff(evaluations, attack)
    lines = [f"| model | {' | '.join(table.columns)} |", "|---" * (1 + len(table.columns)) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for name, row in table.T.items()]
    write_text("table", f"{path}.csv", table.to_csv())
    write_text("table", f"{path}.md", "\n".join(["Accuracy in %.", "", *lines, ""]))
    write_figure(Path(f"{path}.png"), figure)
    return table


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure in the format that the ending of its file says.

    Args:
        path: file to write; PNG if it has no ending.
        figure: of matplotlib.

    Raises:
        OSError: it cannot be written.
        ValueError: an ending that matplotlib does not know.
    """
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=path.suffix[1:] or "png")
    write_bytes("figure", path, content.getvalue())
