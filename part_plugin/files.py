"""How a file of ours is written, whole or not at all, and how it is read or told missing, damaged or foreign.

A writer fills a temporary file beside its target and then renames it, so that killing it leaves the old file whole.
`kind`, such as "checkpoint" or "result file", begins the one sentence of every error.
"""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, get_args

import torch

from .archives import check_archive

StrPath = str | os.PathLike[str]
Keys = Mapping[str, type | UnionType]
"""Keys that a file needs, with their types: {"eps": int | float, "card": dict}."""

_TOKEN = os.urandom(4).hex()  # tells this process from an earlier one with its pid, as a restarted container has
_COUNT = itertools.count()  # tells its threads apart


def write_bytes(kind: str, path: StrPath, content: bytes) -> None:
    """Write a file in one step that cannot be half done.

    Missing directories are made. A link is followed and stays. A file that is there keeps its mode, a new one gets
    what the umask leaves. What a killed writer of the same file left beside it is removed.

    Args:
        kind: what the file is, for error messages.
        path: where to write it.
        content: all of it.

    Raises:
        OSError: it cannot be written, or is a directory or device; a file that was there is as it was.
    """
    name = f"{kind} {os.fspath(path)!r}"
    status = _status(name, path, "written")
    with _one_sentence(name, "written"):
        target = _target(path)
        if status is not None:
            open(target, "r+b").close()  # a file that was made read-only is not replaced
        mode = 0o666 if status is None else stat.S_IMODE(status.st_mode)
        directory, base = os.path.split(target)
        prefix = f".{base[:32]}.{platform.node()}."
        _remove_leftovers(directory, prefix)
        temporary = os.path.join(directory, f"{prefix}{os.getpid()}.{_TOKEN}.{next(_COUNT)}.tmp")
        try:
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
                file.write(content)
                file.flush()
                # Else a crash of the machine may leave an empty file under the new name, and a file system over a
                # network tells of a full disk too late. It costs milliseconds.
                os.fsync(file.fileno())
            if status is not None and stat.S_IMODE(os.stat(temporary).st_mode) != mode:
                os.chmod(temporary, mode)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise


def write_text(kind: str, path: StrPath, content: str) -> None:
    """Write text `content` as UTF-8 to `path`; `kind` and the errors are those of `write_bytes`."""
    write_bytes(kind, path, content.encode())


def write_json(kind: str, path: StrPath, content: Mapping[str, Any], indent: int | None = None) -> None:
    """Write plain data as JSON, for `read_json`.

    Args:
        kind: see `write_bytes`.
        path: likewise.
        content: {"format": version, ...}.
        indent: spaces per level; default: everything in one line.

    Raises:
        TypeError: `content` holds something else; nothing is written.
        OSError: see `write_bytes`.
    """
    write_text(kind, path, _json(kind, path, content, indent))


def write_tensors(kind: str, path: StrPath, content: Mapping[str, Any]) -> None:
    """Write plain data and tensors, for `read_tensors`, after reading them back as it does.

    Args:
        kind: see `write_bytes`.
        path: likewise.
        content: {"format": version, ...}.

    Raises:
        TypeError: `content` holds something else; nothing is written.
        OSError: see `write_bytes`.
    """
    buffer = io.BytesIO()  # not a file, as torch has its own error for a full disk, which does not say so
    try:
        torch.save(content, buffer)
        _load(buffer.getbuffer())
    except Exception as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        what = culprit[1] if culprit else str(error).partition("\n")[0]
        raise TypeError(f"{kind} {os.fspath(path)!r} can hold plain data and tensors only: {what}") from error
    write_bytes(kind, path, buffer.getvalue())


def append_line(kind: str, path: StrPath, record: Any) -> None:
    """Add a line of JSON, for `read_lines`, in one step, so that those of several processes do not mix.

    Args:
        kind: what the file is, for error messages.
        path: where it is.
        record: plain data.

    Raises:
        TypeError: `record` holds something else; nothing is written.
        OSError: the line cannot be written; no part of it is.
    """
    line = (_json(kind, path, record) + "\n").encode()
    with _one_sentence(f"{kind} {os.fspath(path)!r}", "written"):
        file = os.open(_target(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        written = 0
        try:
            while written < len(line):  # once; on a disk that has space for a part of it, the second call says so
                written += os.write(file, line[written:])
        except OSError:
            if written and os.fstat(file).st_size == (end := os.lseek(file, 0, os.SEEK_CUR)):
                os.ftruncate(file, end - written)
            raise
        finally:
            os.close(file)


def check_appendable(kind: str, path: StrPath) -> None:
    """Raise unless `append_line` can write to a file; nothing is left behind.

    Args:
        kind: what the file is, for error messages.
        path: where it is.

    Raises:
        OSError: it cannot be written, or is a directory or device.
    """
    name = f"{kind} {os.fspath(path)!r}"
    new = _status(name, path, "written") is None
    with _one_sentence(name, "written"):
        target = _target(path)
        os.close(os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
        if new:
            os.unlink(target)


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
    return _read_checked(kind, path, _load, "holds more than plain data and tensors", version, keys, remedy)


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
    if _status(name, path, "read") is None:
        raise FileNotFoundError(f"{name} does not exist")
    with _one_sentence(name, "read"), open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced since
            raise OSError(errno.EINVAL, "it is not a regular file")
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def _one_sentence(name: str, done: str) -> Iterator[None]:
    """Tell what the operating system refused, without the name of a temporary file."""
    try:
        yield
    except OSError as error:
        raise type(error)(f"{name} cannot be {done}: {error.strerror or error}") from error


def _status(name: str, path: StrPath, done: str) -> os.stat_result | None:
    """Return the status of a file, or None if there is none.

    Raises:
        IsADirectoryError: it is a directory.
        OSError: it is a device or a pipe.
    """
    with _one_sentence(name, done):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{name} is a directory; a file is needed")
    if not stat.S_ISREG(status.st_mode):  # a file renamed to /dev/null would end it
        raise OSError(f"{name} is not a regular file; one is needed")
    return status


def _target(path: StrPath) -> str:
    """Return the file that `path` means, links followed, after making its directory.

    Raises:
        NotADirectoryError: a file is where a directory is needed.
        FileNotFoundError: a link to a directory that does not exist.
    """
    parent = Path(path).parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(errno.ENOTDIR, f"{str(parent)!r} is not a directory") from None
    target = os.path.realpath(path)
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(errno.ENOENT, f"it is a link to {target!r}, whose directory does not exist")
    return target


def _remove_leftovers(directory: str, prefix: str) -> None:
    """Remove temporary files whose writers run no more, of this machine: of others' processes nothing is known."""
    with suppress(OSError):
        for file in os.listdir(directory):
            found = re.fullmatch(re.escape(prefix) + r"(\d+)\.([0-9a-f]+)\.\d+\.tmp", file)
            if found and not _runs(int(found[1]), found[2]):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, file))


def _runs(pid: int, token: str) -> bool:
    if pid == os.getpid():
        return token == _TOKEN
    try:
        if os.name != "nt":  # where it would end that process
            os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return not isinstance(error, ProcessLookupError)
    return True


def _json(kind: str, path: StrPath, content: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(content, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"{kind} {os.fspath(path)!r} can hold plain data only: {error}") from error


def _load(data: bytes | memoryview) -> Any:
    check_archive(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


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
