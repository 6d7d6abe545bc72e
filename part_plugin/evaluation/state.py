"""Progress of an evaluation on disk, so that an interrupted one goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from ..files import StrPath, check_writable, locked, read_json, write_json
from ..stopping import telling_where

FORMAT = 1
Parsed = TypeVar("Parsed")
_ONWARDS = "evaluate again with the same arguments to go on from there"


@contextmanager
def reserved(path: StrPath | None) -> Iterator[None]:
    """Try a state file before the work, and keep it from others until the end of the block.

    Args:
        path: None for none.

    Raises:
        BlockingIOError: another evaluation is writing it.
        OSError: it cannot be written.
    """
    if path is None:
        yield
        return
    with locked("state", path):
        check_writable("state", path)
        yield


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

    def get(self, key: str, make: Callable[[], Any], parse: Callable[[Any], Parsed]) -> Parsed:
        """Return what a piece is; it is made and kept if it is not there yet.

        Args:
            key: name of the piece.
            make: makes it; plain data.
            parse: makes of it what is returned, or raises ValueError.

        Raises:
            ValueError: the piece in the file is damaged.
        """
        if key not in self.pieces:
            self.keep(key, make())
        try:
            return parse(self.pieces[key])
        except ValueError as error:
            if self.path is None:
                raise
            raise ValueError(f"state {os.fspath(self.path)!r} is damaged in {key!r}: {error}; delete it") from error

    def keep(self, key: str, piece: Any) -> None:
        """Keep a `piece`, plain data, as `key`."""
        self.pieces[key] = piece
        self._write()

    @contextmanager
    def stopping_in(self, where: str) -> Iterator[None]:
        """Let a KeyboardInterrupt that passes say `where` the evaluation was, and how to go on."""
        kept = "nothing is kept, as there is no state file"
        with telling_where(lambda: f"stopped in {where}; {kept if self.path is None else _ONWARDS}"):
            yield

    def _write(self) -> None:
        if self.path is not None:
            content = {"format": FORMAT, "sha256": _checksum(self.pieces), "bound_to": self.bound_to}
            write_json("state", self.path, content | {"pieces": self.pieces})


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
    if content.get("sha256", _checksum(pieces)) != _checksum(pieces):  # which was not always there
        raise ValueError(f"state {os.fspath(path)!r} is damaged: its checksum is wrong; delete it")
    return pieces


def _checksum(pieces: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pieces).encode()).hexdigest()
