"""Plain data, as JSON knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..short import short


def plain(value: Any) -> Any:
    """Return plain data as JSON gives them back, with lists for tuples.

    Args:
        value: None, True, False, a number, text, or a list, tuple or dict with text as keys of these.

    Raises:
        TypeError: it is something else, or holds it.
    """
    if isinstance(value, Mapping) and all(type(name) is str for name in value):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{short(value)} is none")
