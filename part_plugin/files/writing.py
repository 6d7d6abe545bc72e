"""How a file of ours is written, whole or not at all, and how that is tried before the work.

A writer fills a temporary file beside its target and then renames it, so that killing it leaves the old file whole.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import platform
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

import torch

from .common import StrPath, load_archive, one_sentence, status_of, target_of, without_new_directories

_TOKEN = os.urandom(4).hex()  # tells this process from an earlier one with its pid, as a restarted container has
_COUNT = itertools.count()  # tells its threads apart


def check_writable(kind: str, path: StrPath) -> None:
    """Raise now what `write_bytes` would raise after the work; nothing is changed.

    A temporary file is made beside `path`, in directories that are made where they are missing, and all is removed.

    Args:
        kind: what the file is, for error messages.
        path: where it is to be written.

    Raises:
        OSError: see `write_bytes`.
    """
    name = f"{kind} {os.fspath(path)!r}"
    with without_new_directories(path), _temporary(name, path):
        pass


def check_appendable(kind: str, path: StrPath) -> None:
    """Raise now what `append_line` would raise after the work; nothing is changed.

    Args:
        kind: what the file is, for error messages.
        path: where lines are to be added.

    Raises:
        OSError: no line can be added there.
    """
    with without_new_directories(path), one_sentence(f"{kind} {os.fspath(path)!r}", "written"):
        target = target_of(path)
        new = not os.path.lexists(target)
        os.close(os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666))
        if new:
            os.unlink(target)


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
    with _temporary(f"{kind} {os.fspath(path)!r}", path) as (file, target):
        file.write(content)
        file.flush()
        # Else a crash of the machine may leave an empty file under the new name, and a file system over a network
        # tells of a full disk too late. It costs milliseconds.
        os.fsync(file.fileno())
        file.close()
        os.replace(file.name, target)


@contextmanager
def _temporary(name: str, path: StrPath) -> Iterator[tuple[BinaryIO, str]]:
    """Make a file beside the one that `path` leads to, to be renamed to that; it is removed unless it is.

    Raises:
        OSError: the file of this `name` cannot be written, or is a directory or device.
    """
    status = status_of(name, path, "written")
    with one_sentence(name, "written"):
        target = target_of(path)
        if status is not None:
            open(target, "r+b").close()  # a file that was made read-only is not replaced
        mode = 0o666 if status is None else stat.S_IMODE(status.st_mode)
        directory, base = os.path.split(target)
        _remove_leftovers(directory, base)
        temporary = os.path.join(directory, f"{_prefix(base)}{os.getpid()}.{_TOKEN}.{next(_COUNT)}.tmp")
        try:
            with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
                if status is not None and stat.S_IMODE(os.stat(temporary).st_mode) != mode:
                    os.chmod(temporary, mode)
                yield file, target
        finally:
            with suppress(OSError):  # it was renamed
                os.unlink(temporary)


def _prefix(base: str) -> str:
    return f".{base[:32]}.{platform.node()}."


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
        load_archive(buffer.getbuffer())
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
    with one_sentence(f"{kind} {os.fspath(path)!r}", "written"):
        file = os.open(target_of(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
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


def _remove_leftovers(directory: str, base: str) -> None:
    """Remove temporary files whose writers run no more, of this machine: of others' processes nothing is known."""
    with suppress(OSError):
        for file in os.listdir(directory):
            found = re.fullmatch(re.escape(_prefix(base)) + r"(\d+)\.([0-9a-f]+)\.\d+\.tmp", file)
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
