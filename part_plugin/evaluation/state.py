"""Progress of an evaluation on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import StrPath, read_json, write_json

FORMAT = 1


class State:
    """Finished pieces of an evaluation by their keys, written after each one.

    Args:
        path: JSON file; None keeps everything in memory only.
        bound_to: what the pieces are true of (weights, eps, norm, data, seed, ...), plain data.

    Raises:
        OSError: the file cannot be read or written, which is tried at once, or is a directory.
        ValueError: the file belongs to something else, has another format, or is damaged.
    """

    def __init__(self, path: StrPath | None, bound_to: dict[str, Any]):
        self.path, self.bound_to = path, bound_to
        self.pieces: dict[str, Any] = {}
        if path is not None and Path(path).exists():
            self.pieces = _pieces(path, bound_to)
        self._write()

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the piece called `key`; what `make` returns, plain data, if it is not there yet, and keep that."""
        if key not in self.pieces:
            self.pieces[key] = make()
            self._write()
        return self.pieces[key]

    def _write(self) -> None:
        if self.path is not None:
            content = {"format": FORMAT, "bound_to": self.bound_to, "pieces": self.pieces}
            write_json("state", self.path, content)


def _pieces(path: StrPath, bound_to: dict[str, Any]) -> dict[str, Any]:
    """Return the pieces in a file.

    Raises:
        ValueError: it belongs to another evaluation.
    """
    content = read_json("state", path, FORMAT, {"bound_to": dict, "pieces": dict}, "delete it")
    for name, value in bound_to.items():
        if (other := content["bound_to"].get(name)) != value:
            raise ValueError(
                f"state {os.fspath(path)!r} belongs to another evaluation: its {name} is {other!r}, not {value!r}; "
                "delete it or choose another file"
            )
    pieces: dict[str, Any] = content["pieces"]
    return pieces
