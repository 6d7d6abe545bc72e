"""Ctrl-C and SIGTERM: work that is stopped says where it was and how to go on, a command in one sentence."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C, so that whatever ends well for the one ends well for the other."""


@contextmanager
def telling_where(sentence: Callable[[], str]) -> Iterator[None]:
    """Give a KeyboardInterrupt that passes its text, unless it has one.

    Args:
        sentence: called when it passes; where the work was stopped, and how to go on.

    Raises:
        KeyboardInterrupt: the same.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = stop.args or (sentence(),)
        raise


@contextmanager
def exiting_when_stopped() -> Iterator[None]:
    """End the process on a KeyboardInterrupt as a command should.

    Raises:
        SystemExit: with exit code 130, or 143 for SIGTERM, after one sentence on stderr.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        for number in (signal.SIGINT, signal.SIGTERM):  # whoever presses twice would see a traceback
            signal.signal(number, signal.SIG_IGN)
        text = stop.args[0] if stop.args else "stopped; nothing is lost, give the same command again"
        print(f"part-plugin: {text}", file=sys.stderr, flush=True)
        raise SystemExit(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)) from None


def raise_on_sigterm() -> None:
    """Raise `Terminated` on SIGTERM from now on, unless it is ignored or handled already."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated
