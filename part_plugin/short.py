"""Anything in one short line, for sentences about what a file holds."""

from __future__ import annotations

import itertools
import reprlib
from typing import Any


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxlist = self.maxtuple = 8
        self.maxstring = 80

    def repr_int(self, value: int, level: int) -> str:
        return f"an integer of {value.bit_length()} bits" if value.bit_length() > 128 else repr(value)

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:  # in its own order, not sorted
        if level <= 0:
            return "{...}"
        first = itertools.islice(value.items(), self.maxdict)
        pieces = [f"{self.repr1(key, level - 1)}: {self.repr1(one, level - 1)}" for key, one in first]
        return f"{{{', '.join(pieces + ['...'] * (len(value) > self.maxdict))}}}"

    def repr_instance(self, value: Any, level: int) -> str:
        return repr(value) if value is None or type(value) in (bool, float) else f"a {type(value).__name__}"


def short(value: Any) -> str:
    """Return the `repr` of plain data, cut where it is long, and of everything else its type.

    Args:
        value: anything, of any size.
    """
    return _Short().repr(value)
