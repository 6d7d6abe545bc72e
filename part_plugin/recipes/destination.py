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
        checkpoint: PATH, of the last epoch.
        best: PATH, with ".best" before its ending, of the epoch that did best in the validation.
        folder: PATH.run, with all of the following.
        resume: what is needed to go on.
        log: a line for each epoch.
        settings: those of the training, for `--config`.
        curves: the log as a figure.
    """

    def __init__(self, path: StrPath):
        self.checkpoint = Path(os.fspath(path))
        self.best = self.checkpoint.with_suffix(f".best{self.checkpoint.suffix}")
        self.folder = Path(f"{os.fspath(path)}.run")
        self.resume, self.log = self.folder / "resume.ckpt", self.folder / "log.csv"
        self.settings, self.curves = self.folder / "settings.yaml", self.folder / "curves.png"

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Try the files, and keep them from others until the end of the block.

        Raises:
            BlockingIOError: another training is writing them.
            FileExistsError: there is a checkpoint, and nothing to go on from.
            OSError: one of them cannot be written.
        """
        with locked("checkpoint", self.checkpoint):
            for kind in ("resume", "log", "settings", "curves"):
                check_writable(f"{kind} file", getattr(self, kind))
            if not self.resume.exists():
                self.refuse_a_checkpoint()
            for path in (self.best, self.checkpoint):
                check_writable("checkpoint", path)
            yield

    def refuse_a_checkpoint(self, remedy: str = "choose another name or remove it") -> None:
        """Raise if there is one.

        Args:
            remedy: what to do about it, in the imperative.

        Raises:
            FileExistsError: there is.
        """
        if self.checkpoint.exists():
            raise FileExistsError(f"checkpoint {str(self.checkpoint)!r} exists already; {remedy}")
