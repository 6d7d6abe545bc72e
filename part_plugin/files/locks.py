"""A lock on a file that is to be written: of one process or thread, until it is done or dead."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .common import StrPath, one_sentence, target_of, without_new_directories

if sys.platform != "win32":
    import fcntl

_held: dict[str, tuple[int, int]] = {}  # lock file -> its descriptor, and the thread that has it


def _forget() -> None:
    for descriptor, _ in _held.values():
        os.close(descriptor)  # else a worker that outlives a killed process by seconds would keep its locks
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@contextmanager
def locked(kind: str, path: StrPath) -> Iterator[None]:
    """Let nobody else lock the same file until the end of the block, or the end of this process, however it ends.

    The lock is on a hidden file beside it, which is removed at the end, and with it the directories that had to be
    made and are still empty. The thread that has a lock may take it again. Where the file system has no locks, there
    is a warning.

    Args:
        kind: what the file is, for error messages.
        path: the file that is to be written; links are followed, so that two names of one file have one lock.

    Raises:
        BlockingIOError: another process or thread has the lock.
        OSError: nothing can be written there.
    """
    name = f"{kind} {os.fspath(path)!r}"
    with without_new_directories(path):
        with one_sentence(name, "written"):
            lock = _beside(os.path.realpath(path))
        if lock in _held and _held[lock][1] == threading.get_ident():
            yield
            return
        descriptor = _acquired(name, path, lock)
        _held[lock] = (descriptor, threading.get_ident())
        try:
            yield
        finally:
            if _held.pop(lock, None) is not None:  # in a child process it is not
                with suppress(OSError):
                    os.unlink(lock)  # before it is let go, so that nobody else's is removed
                os.close(descriptor)


def _beside(target: str) -> str:
    directory, base = os.path.split(target)
    if len(os.fsencode(base)) > 240:  # else the name would be too long
        base = hashlib.sha256(os.fsencode(base)).hexdigest()
    return os.path.join(directory, f".{base}.lock")


def _acquired(name: str, path: StrPath, lock: str) -> int:
    """Return the descriptor of a lock file that is ours.

    Raises:
        BlockingIOError: another has it.
        OSError: it cannot be made.
    """
    while True:
        descriptor = _opened(name, path, lock)
        try:
            _lock(name, descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(lock)):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was that of another, who removed it at its end


def _opened(name: str, path: StrPath, lock: str) -> int:
    """Return the descriptor of a lock file, which is made where there is none, with its directory.

    Raises:
        FileNotFoundError: there is no directory to make it in.
        OSError: it cannot be made.
    """
    flags, tries = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 100
    with one_sentence(name, "written"):
        while True:
            try:
                target_of(path)
                return os.open(lock, flags, 0o666)
            except FileNotFoundError:  # another may just have removed the directory, which it had made
                tries -= 1
                if not tries:
                    raise


def _lock(name: str, descriptor: int) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: another has.
    """
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        who = re.fullmatch(rb"(process \d+ on [\w.-]+)\n", os.pread(descriptor, 300, 0))
        whose = who[1].decode() if who else "another process"
        raise BlockingIOError(f"{name} is being written by {whose}; wait for its end or choose another name") from error
    except OSError as error:
        warnings.warn(f"{name} cannot be locked ({error.strerror}); do not write it twice at once", stacklevel=5)
