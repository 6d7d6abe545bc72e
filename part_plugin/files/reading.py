"""How a file of ours is read, or told missing, damaged, foreign or of another version."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import UnionType
from typing import Any, BinaryIO, get_args

from .common import StrPath, load_archive, one_sentence, status_of

Keys = Mapping[str, type | UnionType]
"""Keys that a file needs, with their types: {"eps": int | float, "card": dict}."""


def read_json(kind: str, path: StrPath, version: int, keys: Keys, remedy: str = "") -> dict[str, Any]:
    """Return what `write_json` wrote.

    Args:
        kind: what the file is, for error messages.
        path: where it is.
        version: the "format" that can be read.
        keys: keys that are needed, with their types.
        remedy: what to do about a damaged or foreign file, in the imperative.

    Raises:
        FileNotFoundError: no such file.
        OSError: a directory (IsADirectoryError), or it cannot be read.
        ValueError: it is damaged, foreign, of another version, or lacks a key.
    """
    return _read_checked(kind, path, json.loads, "not one of part_plugin's", version, keys, remedy)


def read_tensors(kind: str, path: StrPath, version: int, keys: Keys, remedy: str = "") -> dict[str, Any]:
    """Return what `write_tensors` wrote, on the CPU.

    The arguments `kind`, `path`, `version`, `keys` and `remedy`, and the errors, are those of `read_json`.
    """
    return _read_checked(kind, path, load_archive, "holds more than plain data and tensors", version, keys, remedy)


def read_lines(kind: str, path: StrPath) -> list[Any]:
    """Return the records that `append_line` wrote.

    Args:
        kind: what the file is, for error messages.
        path: where it is.

    Raises:
        FileNotFoundError: no such file.
        OSError: a directory (IsADirectoryError), or it cannot be read.
        ValueError: a line is not JSON.
    """
    records = []
    for number, line in enumerate(_read(kind, path).splitlines(), 1):
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{kind} {os.fspath(path)!r} is damaged: line {number} is not JSON") from error
    return records


@contextmanager
def opened(kind: str, path: StrPath) -> Iterator[BinaryIO]:
    """Open a regular file to read its bytes; a pipe is not waited for, and a device not touched.

    Args:
        kind: what the file is, for error messages.
        path: the file; links are followed.

    Raises:
        FileNotFoundError: no such file.
        OSError: a directory (IsADirectoryError), something else that is no regular file, or it cannot be read.
    """
    name = f"{kind} {os.fspath(path)!r}"
    if status_of(name, path, "read") is None:
        raise FileNotFoundError(f"{name} does not exist")
    with one_sentence(name, "read"), open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced since
            raise OSError(errno.EINVAL, "it is not a regular file")
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _read(kind: str, path: StrPath) -> bytes:
    with opened(kind, path) as file:
        return file.read()


def _read_checked(
    kind: str, path: StrPath, parse: Callable[[bytes], Any], otherwise: str, version: int, keys: Keys, remedy: str
) -> dict[str, Any]:
    """Return a file's content if it is ours, of this version, and has these keys.

    Raises:
        ValueError: it is not.
    """
    data, name, remedy = _read(kind, path), f"{kind} {os.fspath(path)!r}", f"; {remedy}" if remedy else ""
    try:
        content = parse(data)
    except Exception as error:
        raise ValueError(f"{name} is damaged or {otherwise}{remedy}") from error
    if not isinstance(content, dict) or type(found := content.get("format")) is not int:
        raise ValueError(f"{name} is not one of part_plugin's{remedy}")
    if found != version:
        raise ValueError(f"{name} has format {found}; this version of part_plugin reads {version}")
    for key, types in keys.items():
        if key not in content:
            raise ValueError(f"{name} is damaged or of another kind: {key!r} is missing{remedy}")
        value, allowed = content[key], get_args(types) or (types,)
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            got, needed = type(value).__name__, " or ".join(one.__name__.removesuffix("Type") for one in allowed)
            raise ValueError(f"{name} is damaged or of another kind: {key!r} is a {got}; {needed} is needed{remedy}")
    return content
