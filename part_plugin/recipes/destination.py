"""The files of a training: tried before the work, and kept from another training that would write the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import StrPath, check_writable, locked


class Destination:
    """Where a training writes to.

    Args:
        path: its checkpoint.

    Attributes:
        checkpoint: PATH.
        resume: PATH.resume, which has what is needed to go on; it is removed when the checkpoint is there.
        log: PATH.jsonl, a line for each epoch.
    """

    def __init__(self, path: StrPath):
        self.checkpoint, self.resume, self.log = (Path(os.fspath(path) + end) for end in ("", ".resume", ".jsonl"))

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Try the files, and keep them from others until the end of the block.

        Raises:
            BlockingIOError: another training is writing them.
            FileExistsError: there is a checkpoint.
            OSError: one of them cannot be written.
        """
        with locked("checkpoint", self.checkpoint):
            check_writable("resume file", self.resume)
            check_writable("log", self.log)
            if not self.resume.exists():  # a training that was killed in its last moment has left both
                self.refuse_a_checkpoint()
            check_writable("checkpoint", self.checkpoint)
            yield

    def refuse_a_checkpoint(self) -> None:
        """Raise if there is one.

        Raises:
            FileExistsError: there is.
        """
        if self.checkpoint.exists():
            raise FileExistsError(
                f"checkpoint {str(self.checkpoint)!r} exists already; choose another name or remove it"
            )
