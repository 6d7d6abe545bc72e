"""Progress of an evaluation on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FORMAT = 1


def write_atomically(path: Path, text: str) -> None:
    """Write a file in one step that cannot be half done."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            version, bound_to, pieces = content["format"], content["bound_to"], content["pieces"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"state {str(self.path)!r} is damaged or not one of part_plugin's; delete it") from error
        if version != FORMAT:
            raise ValueError(f"state {str(self.path)!r} has format {version}; this version of part_plugin has {FORMAT}")
        for name, value in self.bound_to.items():
            if bound_to.get(name) != value:
                raise ValueError(
                    f"state {str(self.path)!r} belongs to another evaluation: its {name} is {bound_to.get(name)!r}, "
                    f"not {value!r}; delete it or choose another file"
                )
        self.pieces = pieces

    def __contains__(self, key: str) -> bool:
        return key in self.pieces

    def __getitem__(self, key: str) -> Any:
        return self.pieces[key]

    def __setitem__(self, key: str, piece: Any) -> None:
        self.pieces[key] = piece
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {"format": FORMAT, "bound_to": self.bound_to, "pieces": self.pieces}
            write_atomically(self.path, json.dumps(content))
