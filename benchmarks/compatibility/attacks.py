"""The table of attacks: those of torchattacks and ART, and ours."""

from __future__ import annotations

import art_rows
import torchattacks_rows
from rows import Row


def rows() -> list[Row]:
    """Return the rows of both toolkits."""
    return [*torchattacks_rows.rows(), *art_rows.rows()]
