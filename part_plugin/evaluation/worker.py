"""A process that makes pieces, seen from the one that asks it."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
from contextlib import suppress
from typing import Any

from torch import Tensor

from .travel import unpacked

logger = logging.getLogger(__name__)
ATTEMPTS = 3
_PROGRAM = "import sys; sys.path[:] = {path!r}; from {package}.worker_main import main; main()"


class Worker:
    """One process, which is started again when it dies.

    Args:
        start: what it is told at first.
        environment: what it has in its environment that this process has not.
        told: what was logged already, by whichever process.
    """

    def __init__(self, start: bytes, environment: dict[str, str], told: set[tuple[str, str]]):
        self.start, self.environment, self.told = start, environment, told
        self.closed = False
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> Tensor | str:
        """Start the process; return its logits of the first images, or why it has none."""
        path = [os.path.abspath(entry) for entry in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(path=path, package=__package__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | self.environment,
        )
        try:
            logits: Tensor | str = self._asked(self.start)[1]
        except (EOFError, OSError, pickle.UnpicklingError):
            return f"it ended with exit code {self._buried()}"
        return logits

    def make(self, task: bytes, name: str) -> dict[str, Any]:
        """Return a piece.

        Args:
            task: packed.
            name: of the piece, for messages.

        Raises:
            RuntimeError: it ended its process `ATTEMPTS` times, or no new one can be started.
            Exception: what it raised there.
        """
        code = None
        for _ in range(ATTEMPTS):
            if self.closed:
                break
            if self._process is None and isinstance(reason := self.begin(), str):
                raise RuntimeError(f"{name} cannot be made: a new process cannot be started ({reason})")
            try:
                kind, content = self._asked(pickle.dumps(task))
            except (EOFError, OSError, pickle.UnpicklingError):
                code = self._buried()
                if not self.closed:  # else whoever asks is not interested any more
                    logger.warning("the process that made %s ended with exit code %s; it is made again", name, code)
                continue
            if kind == "made":
                made: dict[str, Any] = content
                return made
            error: Exception = unpacked(content[0])
            raise error from RuntimeError(content[1])
        raise RuntimeError(
            f"{name} ended its process {ATTEMPTS} times, at last with exit code {code}; fewer processes or a smaller "
            "batch_size need less memory"
        )

    def close(self) -> None:
        """End the process, whatever it does."""
        self.closed = True
        if (process := self._process) is not None:
            process.kill()
            process.wait()

    def _asked(self, question: bytes) -> tuple[str, Any]:
        """Return the answer to a question, and log what was logged there."""
        process: Any = self._process
        process.stdin.write(question)
        process.stdin.flush()
        kind, content, records = pickle.load(process.stdout)
        for record in records:
            source, text = logging.getLogger(record.name), (record.name, record.getMessage())
            if text not in self.told and source.isEnabledFor(record.levelno):
                source.handle(record)
            self.told.add(text)
        return kind, content

    def _buried(self) -> int | None:
        """Return the exit code of the process, which has ended or hung up."""
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
        with suppress(OSError):
            process.communicate()
        return process.returncode
