"""How results are written down to be read: lines of text, tables in Markdown."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import pandas as pd

from ..radius import radius_text
from .attack_result import AttackResult


def attack_lines(result: AttackResult, headline: bool) -> list[str]:
    """Return accuracy, interval and seconds in a line, and a line for each warning.

    Args:
        result: of one attack.
        headline: whether its radius is that of the threat model, which then goes without saying.
    """
    low, high = result.interval
    radius = "" if headline else f"   radius {radius_text(result.eps, result.eps_low)}"
    accuracy = f"  {result.name:<16} {result.accuracy:7.2%}   95 % interval {low:7.2%} to {high:7.2%}"
    return [f"{accuracy}   {result.seconds:6.1f} s{radius}", *(f"    warning: {text}" for text in result.warnings)]


def attack_table(results: Iterable[AttackResult]) -> str:
    """Return accuracy in %, interval, radius and seconds of every one of `results` as a Markdown table."""
    rows = []
    for result in results:
        low, high = (f"{100 * bound:.2f}" for bound in result.interval)
        radius = radius_text(result.eps, result.eps_low)
        rows.append([result.name, f"{100 * result.accuracy:.2f}", f"{low} to {high}", radius, f"{result.seconds:.1f}"])
    return markdown_table(["attack", "accuracy", "95 % interval", "radius", "seconds"], rows)


def class_table(accuracies: pd.DataFrame) -> str:
    """Return `accuracies`, in [0, 1], of every class (rows) under every attack (columns) as a Markdown table in %."""
    rows = [[label, *(f"{100 * value:.1f}" for value in row)] for label, row in accuracies.T.items()]
    return markdown_table(["class", *map(str, accuracies.columns)], rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Hashable]]) -> str:
    """Return a Markdown table.

    Args:
        header: names of the columns.
        rows: of cells.
    """
    lines = [[str(cell).replace("|", r"\|") for cell in line] for line in (header, ["---"] * len(header), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
