"""The other side of `Worker`: a process that makes pieces, one after the other, until nobody asks any more.

It is a new interpreter, never a fork, and does not run the caller's script again.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, BinaryIO

import torch

from ..network.view import logits_of
from .common import evaluated
from .travel import packed, unpacked

Answer = tuple[str, Any, list[logging.LogRecord]]
"""What became of it ("made" or "raised"), that, and what was logged meanwhile."""


@dataclass
class Settings:
    """What sums depend on, of the process that asks.

    Args:
        threads: of torch.
        dtype: torch's default.
        precision: of float32 products.
        tf32: whether a card's convolutions may use it.
        deterministic: whether torch's algorithms must be.
        benchmark: whether a card's are chosen by trial.
    """

    threads: int
    dtype: torch.dtype
    precision: str
    tf32: bool
    deterministic: bool
    benchmark: bool

    @classmethod
    def here(cls) -> Settings:
        """Return those of this process."""
        return cls(
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark,
        )

    def take(self) -> None:
        """Make them those of this process."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = self.benchmark


def main() -> None:
    """Answer what comes by standard input on standard output, whose place standard error takes for everybody else."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, questions), daemon=True).start()
    records: list[logging.LogRecord] = []
    _keep_logs(records)
    settings, network, images = questions.get()
    try:
        settings.take()
        model, images = unpacked(network), unpacked(images)
        with evaluated(model, images) as replica:
            with torch.no_grad():
                _answer(answers, "made", logits_of(replica, images).cpu(), records)
            while True:
                _make(answers, questions.get(), model, replica, records)
    except Exception as error:
        _answer(answers, "raised", f"{type(error).__name__}: {error}", records)


def _make(answers: BinaryIO, task: bytes, model: Any, replica: Any, records: list[logging.LogRecord]) -> None:
    """Make one piece, and answer with it or with what it raised."""
    try:
        made = unpacked(task, model).made(replica)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        try:
            unpacked(data := packed(error))
        except Exception:  # some errors cannot be made again
            data = packed(RuntimeError(f"{type(error).__name__}: {error}"))
        _answer(answers, "raised", (data, text), records)
    else:
        _answer(answers, "made", made, records)


def _listen(file: BinaryIO, questions: SimpleQueue[Any]) -> None:
    """Put on a queue what comes, and end the process, whatever it does, when whoever asks has ended or hung up."""
    try:
        while True:
            questions.put(pickle.load(file))
    finally:
        os._exit(0)


def _answer(answers: BinaryIO, kind: str, content: Any, records: list[logging.LogRecord]) -> None:
    answer: Answer = (kind, content, records.copy())
    records.clear()
    answers.write(pickle.dumps(answer))
    answers.flush()


def _keep_logs(records: list[logging.LogRecord]) -> None:
    """Keep what this package logs from now on instead of showing it here."""

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args, record.exc_info = record.getMessage(), None, None
            records.append(record)

    logger = logging.getLogger(__name__.partition(".")[0])
    logger.addHandler(Keeper())
    logger.propagate = False
