"""Progress of an evaluation on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..files import read_json, write_json

FORMAT = 1


class State:
    """Finished pieces of an evaluation by their keys, written after each one.

    Args:
        path: JSON file; None keeps everything in memory only.
        bound_to: what the pieces are true of (weights, eps, norm, data, seed, ...), plain data.

    Raises:
        ValueError: the file belongs to something else, has another format, or is damaged.
    """

    def __init__(self, path: str | os.PathLike | None, bound_to: dict[str, Any]):
        self.path = None if path is None else Path(path)
        self.bound_to = bound_to
        self.pieces: dict[str, Any] = {}
        if self.path is not None and self.path.exists():
            self._restore()

    def _restore(self) -> None:
        content = read_json("state", self.path, FORMAT, {"bound_to": dict, "pieces": dict}, "delete it")
        for name, value in self.bound_to.items():
            if (other := content["bound_to"].get(name)) != value:
                raise ValueError(
                    f"state {str(self.path)!r} belongs to another evaluation: its {name} is {other!r}, "
                    f"not {value!r}; delete it or choose another file"
                )
        self.pieces = content["pieces"]

    def __contains__(self, key: str) -> bool:
        return key in self.pieces

    def __getitem__(self, key: str) -> Any:
        return self.pieces[key]

    def __setitem__(self, key: str, piece: Any) -> None:
        self.pieces[key] = piece
        if self.path is not None:
            content = {"format": FORMAT, "bound_to": self.bound_to, "pieces": self.pieces}
            write_json("state", self.path, content)
