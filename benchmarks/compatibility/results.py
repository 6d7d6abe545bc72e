"""The results of the tables: their file, what got worse since it was written, and the page that it makes."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path

from rows import STATUSES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "compatibility.json"
PAGE = ROOT / "docs" / "COMPATIBILITY.md"

TITLES = {
    "networks": "Networks",
    "sources": "Sources of maps",
    "attacks": "Attacks of torchattacks and ART",
    "recipes": "Recipes of adversarial training",
}
_INTRODUCTIONS = {
    "sources": "Each as `cam=`, on a small network of convolutions in the middle of a training, or on a small ViT.",
    "attacks": "Each in `PixelAttack(attack)` or `PixelEvasionAttack(attack)`, or as the argument of `PARTTrainer`. "
    "Beside equal radii, what a wrapped attack finds is what it finds, plain, on a network behind a change of "
    "variable that is written out.",
    "recipes": "Two steps or epochs each, with two radii, and where there is a plain recipe with equal ones.",
}
_SHOWN = {"works": "works by itself", "with arguments": "with arguments", "refused": "refused", "wrong": "**wrong**"}

Results = dict[str, dict[str, dict[str, str]]]
"""Table -> name of the row -> status, arguments, and note or sentence."""


def read(path: Path) -> Results:
    """Return the results in a file; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write(results: Results, path: Path, page_path: Path) -> None:
    """Write the results, and the page that they make.

    Args:
        results: of all tables.
        path: of the JSON file.
        page_path: of the page.
    """
    path.write_text(json.dumps(results, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    page_path.write_text(page(results), encoding="utf-8")


def worse(before: Results, now: Results) -> list[str]:
    """Return a sentence for each row that got worse; one that was not there before must not be wrong.

    Args:
        before: what was written.
        now: rows that were run again.
    """
    sentences = []
    for table, rows in now.items():
        for name, row in rows.items():
            was = before.get(table, {}).get(name, {"status": "refused"})["status"]
            if STATUSES.index(row["status"]) > STATUSES.index(was):
                sentences.append(f"{table}: {name} was {was!r} and is {row['status']!r}: {_said(row)}")
    return sentences


def page(results: Results) -> str:
    """Return the page, in Markdown.

    Args:
        results: of all tables.
    """
    lines = [
        "# What works together",
        "",
        "Every row was run, on a small input: budgets were kept to the last place, networks left as they were, equal",
        "radii gave the plain method. `make compatibility` runs all of them again and writes this page.",
        "",
        "| table | rows | " + " | ".join(_SHOWN[status] for status in STATUSES) + " |",
        "|---|" + "---|" * (1 + len(STATUSES)),
    ]
    ordered = [table for table in TITLES if table in results]
    for table in ordered:
        counts = [sum(row["status"] == status for row in results[table].values()) for status in STATUSES]
        lines.append(f"| [{table}](#{table}) | {len(results[table])} | " + " | ".join(map(str, counts)) + " |")
    for table in ordered:
        lines += ["", f'<a id="{table}"></a>', "", f"## {TITLES[table]}", ""]
        lines += [*textwrap.wrap(_INTRODUCTIONS[table], 120), ""] if table in _INTRODUCTIONS else []
        lines += ["| | result | |", "|---|---|---|"]
        lines += [_line(name, row) for name, row in sorted(results[table].items(), key=_alphabetical)]
    return "\n".join(lines) + "\n"


def _alphabetical(item: tuple[str, Mapping[str, str]]) -> tuple[str, str]:
    return item[0].lower(), item[0]


def _line(name: str, row: Mapping[str, str]) -> str:
    return f"| {_cell(name)} | {_SHOWN[row['status']]} | {_cell(_said(row))} |"


def _said(row: Mapping[str, str]) -> str:
    """Return what is to be said of a row: the arguments that it needs, and its note or sentence."""
    if row["status"] not in ("works", "with arguments"):
        return row["sentence"]
    return "; ".join(filter(None, [row["arguments"] and f"`{row['arguments']}`", row["note"]]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
