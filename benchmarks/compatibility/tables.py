"""The tables of compatibility: run every row, write what came of it, or compare it with what was written.

python benchmarks/compatibility/tables.py --jobs 2               # all tables, written to docs/COMPATIBILITY.md
python benchmarks/compatibility/tables.py --table attacks --only "torchattacks FGSM"
python benchmarks/compatibility/tables.py --check                # compared with what is written, nothing written

The exit code is 1 if a row got worse, or, of those that are written, is wrong.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import results
from rows import Row, check_names, outcome

TABLES = tuple(name for name in results.TITLES if (Path(__file__).parent / f"{name}.py").exists())
NEEDED = ("art", "captum", "pytorch_grad_cam", "timm", "torchattacks", "torchcam", "torchvision", "transformers")

Task = tuple[str, str]
"""Table and name of a row."""


def rows_of(table: str) -> dict[str, Row]:
    """Return the rows of a table by name.

    Args:
        table: name of its module.
    """
    made: list[Row] = importlib.import_module(table).rows()
    check_names(made)
    return {row.name: row for row in made}


def run_row(task: Task) -> tuple[Task, dict[str, str], float]:
    """Run one row; return it with what came of it and the seconds that it took.

    Args:
        task: table and name.
    """
    table, name = task
    row = rows_of(table)[name]
    began = time.perf_counter()
    return task, outcome(row), time.perf_counter() - began


def _in_a_process(task: Task) -> tuple[Task, dict[str, str], float]:
    gc.collect()  # of the rows before: networks refer to themselves, and a process runs many of them
    return run_row(task)


def run_rows(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, dict[str, str], float]]:
    """Yield what comes of each row, as they finish.

    Args:
        tasks: tables and names.
        jobs: processes; 1, or one row: this one.
    """
    if min(jobs, len(tasks)) <= 1:
        yield from map(run_row, tasks)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for finished in as_completed([pool.submit(_in_a_process, task) for task in tasks]):
            yield finished.result()


def run(tables: Sequence[str], only: Sequence[str], jobs: int) -> results.Results:
    """Run rows, print each with its time, and return what came of them.

    Args:
        tables: names of the tables.
        only: names of the rows, all if empty.
        jobs: processes.

    Raises:
        ValueError: a name that no row has.
    """
    tasks = [(table, name) for table in tables for name in rows_of(table) if not only or name in only]
    unknown = sorted(set(only) - {name for _, name in tasks})
    if unknown:
        raise ValueError(f"no row is named {unknown[0]!r}; the tables are {', '.join(tables)}")
    found: results.Results = {table: {} for table, _ in tasks}
    for (table, name), row, seconds in run_rows(tasks, jobs):
        found[table][name] = row
        print(f"{table:9} {name:50} {row['status']:14} {seconds:6.1f} s  {row.get('sentence', '')}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None, tables: Sequence[str] = TABLES) -> int:
    """Do what the command line asks for, and return the exit code.

    Args:
        arguments: of the command line.
        tables: that there are.

    Raises:
        SystemExit: the command line is wrong.
        ValueError: a name that no row has.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=tables, action="append", help="run this table (default: all)")
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="run this row")
    parser.add_argument("--jobs", type=int, default=1, help="rows to run at a time, each in a process of its own")
    parser.add_argument("--check", action="store_true", help="compare with what was written, and write nothing")
    parser.add_argument("--json", type=Path, default=results.RESULTS, help="file of the results")
    parser.add_argument("--page", type=Path, default=results.PAGE, help="page that is made of them")
    options = parser.parse_args(arguments)
    found = run(options.table or tables, options.only, options.jobs)
    written = results.read(options.json)
    if options.check:
        sentences = results.worse(written, found)
        print(*sentences or ["no row got worse"], sep="\n")
        return 1 if sentences else 0
    for table, rows in found.items():
        written[table] = (written.get(table, {}) | rows) if options.only else rows
    results.write(written, options.json, options.page)
    return int(any(row["status"] == "wrong" for rows in found.values() for row in rows.values()))


def check_installed() -> None:
    """Exit if a package is missing, which would be a refusal in every row that needs it.

    Raises:
        SystemExit: one is.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(f"{missing[0]} is not installed: pip install '.[compatibility]'")


if __name__ == "__main__":
    check_installed()
    raise SystemExit(main())
