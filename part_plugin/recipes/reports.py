"""Results side by side as files: a table and a figure."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..evaluation import Evaluation, compare
from ..evaluation.report import markdown_table
from ..evaluation.result_files import check_same, result_files
from ..files import check_writable, locked, write_bytes, write_text
from ..plots import plot_tradeoff

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@contextmanager
def reserved_results(
    plan: Sequence[tuple[str, str, int]], out: Path, card: Mapping[str, Any], overwrite: bool
) -> Iterator[None]:
    """Try the files of results before the work, and keep them from others until the end of the block.

    A result that is there may be of the same evaluation, of which then the state is there, too: after a kill it may
    lack a file, or the evaluations after it.

    Args:
        plan: (name of the result, name of the checkpoint, seed) of every evaluation.
        out: directory of the results.
        card: what the cards of results that are there must hold, beside the seed.
        overwrite: whether they may be of something else.

    Raises:
        BlockingIOError: another evaluation is writing them.
        FileExistsError: there is a result of something else, or one without its state.
        OSError: a file cannot be written.
        ValueError: a result that is there is damaged.
    """
    with ExitStack() as stack:
        for run, _, seed in plan:
            files = [*result_files(out / run), ("state", state := out / f"{run}.state.json")]
            _, result = files[0]
            stack.enter_context(locked("result file", result))
            for kind, file in files:
                check_writable(kind, file)
            if not overwrite:
                if result.exists() and not state.exists():
                    raise FileExistsError(f"result file {str(result)!r} exists; pass --overwrite or another --out")
                check_same(result, {**card, "seed": seed})
        if len(plan) > 1:
            check_comparison(out / "comparison")
        yield


def check_results(plan: Sequence[tuple[str, str, int]], out: Path, card: Mapping[str, Any], overwrite: bool) -> None:
    """Raise if results that are there are of something else.

    The arguments `plan`, `out`, `card` and `overwrite` are those of `reserved_results`.

    Raises:
        FileExistsError: they are.
        ValueError: one is damaged.
    """
    for run, _, seed in plan if not overwrite else ():
        check_same(out / f"{run}.json", {**card, "seed": seed})


def check_comparison(path: Path) -> None:
    """Raise unless the files of a comparison can be written.

    Args:
        path: see `write_comparison`.

    Raises:
        OSError: one cannot be written.
    """
    for end in ("csv", "md", "png"):
        check_writable("figure" if end == "png" else "table", f"{path}.{end}")


def check_figure(path: Path) -> None:
    """Raise unless a figure can be written.

    Args:
        path: see `write_figure`.

    Raises:
        OSError: it cannot be written.
        ValueError: an ending that matplotlib does not know.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if (ending := path.suffix[1:].lower() or "png") not in known:
        raise ValueError(f"figure {str(path)!r} ends in .{ending}; choose from {', '.join(sorted(known))}")
    check_writable("figure", path)


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
    rows = [[name, *(f"{value:.2f}" for value in row)] for name, row in table.T.items()]
    lines = markdown_table(["model", *table.columns], rows)
    write_text("table", f"{path}.csv", table.to_csv())
    write_text("table", f"{path}.md", f"Accuracy in %.\n\n{lines}\n")
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
