"""Where adapters make themselves known to the core, so that the core need not know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

map_libraries: list[Callable[[], Any]] = []
"""Functions that import a library of maps, a module with `check_library_method`, `takes_layers` and `library_maps`.

They raise an ImportError that says what to install where the library is missing.
"""
