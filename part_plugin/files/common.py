"""What reading, writing and locking share: where a path leads, and what the system refuses in one sentence."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ..archives import check_archive

StrPath = str | os.PathLike[str]


@contextmanager
def one_sentence(name: str, done: str) -> Iterator[None]:
    """Tell what the operating system refused, without the name of a temporary file.

    Args:
        name: of the file, with its kind.
        done: what it cannot be, such as "written".

    Raises:
        OSError: of the same type, in a sentence.
    """
    try:
        yield
    except OSError as error:
        raise type(error)(f"{name} cannot be {done}: {error.strerror or error}") from error


def status_of(name: str, path: StrPath, done: str) -> os.stat_result | None:
    """Return the status of the regular file that `path` leads to, or None if there is none.

    Args:
        name: of the file, with its kind.
        path: links are followed.
        done: what is to be done with it, such as "written".

    Raises:
        IsADirectoryError: it is a directory.
        OSError: it is a device or a pipe, or cannot be looked at.
    """
    with one_sentence(name, done):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{name} is a directory; a file is needed")
    if not stat.S_ISREG(status.st_mode):  # a file renamed to /dev/null would end it
        raise OSError(f"{name} is not a regular file; one is needed")
    return status


def target_of(path: StrPath) -> str:
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


@contextmanager
def without_new_directories(path: StrPath) -> Iterator[None]:
    """Remove the directories of `path` that are made in the block, unless there is something in them after it."""
    missing = [parent for parent in Path(path).parents if not os.path.lexists(parent)]
    try:
        yield
    finally:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()


def load_archive(data: bytes | memoryview) -> Any:
    """Return what torch.save wrote, if it is plain data and tensors; on the CPU.

    Args:
        data: the whole file.

    Raises:
        ValueError: it holds something else, or is damaged; torch has other errors for that, too.
    """
    check_archive(data)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
