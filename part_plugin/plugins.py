"""Where adapters make themselves known to the core, so that the core need not know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

map_libraries: list[Callable[[], Any]] = []
"""Functions that import a library of maps, a module with `library_methods` and `library_maps`; see `part_plugin.cam`.

They raise an ImportError that says what to install where the library is missing.
"""
