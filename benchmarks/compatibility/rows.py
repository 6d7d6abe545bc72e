"""A row of a table of compatibility, and what comes of it when it is run."""

from __future__ import annotations

import logging
import random
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import NamedTuple

import numpy as np
import torch

STATUSES = ("works", "with arguments", "refused", "wrong")
"""What can come of a row, from best to worst."""

_NOT_THE_SAME_TWICE = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x..."),
    (re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+(?=[\w.+-]+)"), ""),  # the folders of an absolute path
)


class Row(NamedTuple):
    """One thing to try.

    Args:
        name: unique in its table.
        run: makes its checks and returns a short note, "" if there is none. AssertionError says what is silently wrong;
            any other exception is a refusal.
        arguments: what has to be passed for it to work, as the user writes it; "" if nothing.
    """

    name: str
    run: Callable[[], str]
    arguments: str = ""


def outcome(row: Row) -> dict[str, str]:
    """Run a row, seeded and on one thread; return its status, its arguments, and its note or the sentence against it.

    Args:
        row: what to run.
    """
    seed_everything()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            logging.disable()
            found = {"status": "with arguments" if row.arguments else "works", "note": row.run()}
    except AssertionError as error:
        found = {"status": "wrong", "sentence": first_line(error)}
    except Exception as error:
        found = {"status": "refused", "sentence": first_line(error)}
    finally:
        logging.disable(logging.NOTSET)
        torch.set_num_threads(threads)
    return found | {"arguments": row.arguments}


def seed_everything() -> None:
    """Seed every generator of random numbers that a toolkit may draw from."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without what differs from run to run or machine to machine."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    for pattern, instead in _NOT_THE_SAME_TWICE:
        line = pattern.sub(instead, line)
    return line


def check_names(rows: Sequence[Row]) -> None:
    """Raise unless every row has a name of its own.

    Args:
        rows: those of one table.

    Raises:
        ValueError: a name comes twice.
    """
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"rows of the same name: {', '.join(twice)}")
