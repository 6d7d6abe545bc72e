"""The plain data of result and state files, checked entry by entry: what each must be, in words and as a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ..short import short

Kind = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words, and whether it is."""


def _is_number(value: Any, high: float = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= high


NAME: Kind = ("a line of text", lambda value: type(value) is str and value.isprintable() and value != "")
TEXT: Kind = ("text", lambda value: type(value) is str)
TEXTS: Kind = ("a list of texts", lambda value: isinstance(value, list) and all(type(one) is str for one in value))
FLAG: Kind = ("true or false", lambda value: type(value) is bool)
FLAGS: Kind = ("a text of 0s and 1s", lambda value: type(value) is str and value != "" and not value.strip("01"))
COUNT: Kind = ("a whole number >= 0", lambda value: type(value) is int and value >= 0)
NUMBER: Kind = ("a number >= 0", _is_number)
OPTIONAL_NUMBER: Kind = ("a number >= 0 or null", lambda value: value is None or _is_number(value))
SHARE: Kind = ("a number from 0 to 1", lambda value: _is_number(value, 1))
LIST: Kind = ("a list", lambda value: isinstance(value, list))
LABELS: Kind = (
    "a list of classes",
    lambda value: (
        isinstance(value, list) and value != [] and all(type(one) is int and 0 <= one < 2**63 for one in value)
    ),
)


def check_entries(
    values: Any, needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None
) -> dict[str, Any]:
    """Return `values` if it is a dictionary with these entries and no others.

    Args:
        values: anything.
        needed: entries that must be there.
        optional: entries that may be there.

    Raises:
        ValueError: it is not; the sentence says why.
    """
    kinds = {**needed, **(optional or {})}
    if not isinstance(values, dict):
        raise ValueError(f"{short(values)} is where entries are needed")
    for name in values:
        if name not in kinds:
            raise ValueError(f"entry {short(name)} is not known")
    for name, (what, fits) in kinds.items():
        if name not in values:
            if name in needed:
                raise ValueError(f"entry {name!r} is missing")
        elif not fits(values[name]):
            raise ValueError(f"{name}={short(values[name])} is not {what}")
    return values
