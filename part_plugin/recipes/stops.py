"""What Lightning says and does when a training begins, is stopped or loses a rank, as it is done elsewhere here."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..stopping import Terminated, telling_where

if TYPE_CHECKING:
    from .keeping import Keeper


@contextmanager
def stopping(keeper: Keeper, epochs: int) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a training as they end everything else, where Lightning ends the process.

    Args:
        keeper: knows how far it came.
        epochs: number of them.

    Raises:
        KeyboardInterrupt: it was stopped; the text says where, and how to go on.
        Terminated: likewise, by SIGTERM.
        ConnectionError: another rank died.
        SystemExit: another exit.
        RuntimeError: another error.
    """
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    with telling_where(lambda: _where(keeper, epochs)):
        try:
            yield
        except SystemExit as end:
            if isinstance(keeper.stopped, KeyboardInterrupt):
                raise keeper.stopped from None
            if isinstance(end, SIGTERMException):
                raise Terminated from None
            raise
        except RuntimeError as error:
            if "gloo" not in str(error) and "Dist" not in type(error).__name__:
                raise
            raise ConnectionError(f"another rank died; {_where(keeper, epochs)}") from error
        finally:
            if in_main:
                signal.signal(signal.SIGINT, handler)


def _where(keeper: Keeper, epochs: int) -> str:
    (epoch, _), (kept, batch) = keeper.at, keeper.kept
    onwards = f"to go on after epoch {kept}" if kept else "to begin again"
    if batch:
        onwards = f"to go on after batch {batch} of epoch {kept + 1}"
    return f"stopped in epoch {min(epoch + 1, epochs)} of {epochs}; train again with the same settings {onwards}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what hardware and ranks there are, and from advice that is not for these loaders.

    That a rank died is told.
    """
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric.utilities")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
