"""Ctrl-C and SIGTERM: work that is stopped says where it was and how to go on, a command in one sentence."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_received: list[int] = []  # the signals that a command was sent
_AGAIN = 5.0  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C, so that whatever ends well for the one ends well for the other."""


@contextmanager
def telling_where(sentence: Callable[[], str]) -> Iterator[None]:
    """Give a KeyboardInterrupt that passes its text, unless it has one.

    Args:
        sentence: called when it passes; where the work was stopped, and how to go on.

    Raises:
        KeyboardInterrupt: the same, or in the place of an error that came of it, as that of a worker that was stopped.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = stop.args or (sentence(),)
        raise
    except Exception as error:
        if not _received:
            raise
        raise KeyboardInterrupt(sentence()) from error


@contextmanager
def exiting_when_stopped() -> Iterator[None]:
    """End the process on a KeyboardInterrupt as a command should.

    Raises:
        SystemExit: with exit code 130, or 143 for SIGTERM, after one sentence on stderr.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        _exit(stop)
    except Exception:
        if not _received:
            raise
        _exit(KeyboardInterrupt())


def _exit(stop: KeyboardInterrupt) -> NoReturn:
    """Say where a command was stopped, and end it.

    Raises:
        SystemExit: with the exit code.
    """
    for number in _numbers():  # whoever presses twice would see a traceback
        signal.signal(number, signal.SIG_IGN)
    told = stop.args[0] if stop.args else "stopped; nothing is lost, give the same command again"
    print(f"part-plugin: {told}", file=sys.stderr)
    terminated = isinstance(stop, Terminated) or signal.SIGTERM in _received[:1]
    raise SystemExit(128 + (signal.SIGTERM if terminated else signal.SIGINT)) from None


def stop_on_signals() -> None:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM from now on, unless they are ignored, until it gets through.

    Python drops what is raised in a destructor, and prints it: then it is raised again, and nothing is printed. Workers
    of this process, which a terminal sends Ctrl-C too, leave it to the process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _stop)
        os.register_at_fork(after_in_child=_leave_to_the_parent)


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    sys.unraisablehook = lambda unraisable: None
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
    raise Terminated if _received[0] == signal.SIGTERM else KeyboardInterrupt


def _leave_to_the_parent() -> None:
    for number in _numbers():
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)


def _numbers() -> list[int]:
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])]
