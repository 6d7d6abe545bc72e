"""What a trainer has done so far, over all calls of its `fit`, and how a call goes on after it was stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier

from ...files import StrPath, read_lines
from .batches import ArrayBatches, GeneratorBatches
from .checkpoint import FitCheckpoint, settings_of
from .lifted import LiftedPART

Record = dict[str, float]


class Progress:
    """Epochs counted over all calls of `fit`, and the losses that are trained, with the masks that they remember.

    :param name: Of the method.
    :param attacks: The user's own.
    :param new_part: Makes the loss that belongs to the attack of a number, with a burn_in.

    Attributes:
        history: Record of every epoch.
        parts: Losses, one for each attack; none before the first fit.
        began: How many epochs there were before the present fit.
        stop: How many there are to be after it.
    """

    def __init__(self, name: str, attacks: Sequence[EvasionAttack], new_part: Callable[..., LiftedPART]) -> None:
        self.name = name
        self.attacks = attacks
        self.new_part = new_part
        self.history: list[Record] = []
        self.parts: list[LiftedPART] = []
        self.began = self.stop = 0
        self._settings: dict[str, Any] = {}
        self._data: int | None = None
        self._written: str | None = None
        self._resumed = False

    @property
    def epoch(self) -> int:
        """How many epochs there were so far."""
        return int(self.history[-1]["epoch"]) + 1 if self.history else 0

    def expect(self, data: int) -> None:
        """Forget masks that are of other images.

        :param data: Fingerprint of the data.
        """
        if self._data != data:
            for part in self.parts:
                part.masks.renew(None)
        self._data = data

    def begin(self, burn_in: int | None, nb_epochs: int) -> None:
        """Begin a fit; the first one that trains decides the burn-in.

        :param burn_in: Number of first epochs with eps everywhere; default a quarter of this fit.
        :param nb_epochs: Number of epochs of this fit.
        """
        burn_in = nb_epochs // 4 if burn_in is None else burn_in
        if not self.history:
            self.parts = [self.new_part(number, burn_in=burn_in) for number in range(len(self.attacks))]
            self._settings = {
                "method": f"{self.name} {self.parts[0].objective}",
                "burn_in": burn_in,
                "mask_every": self.parts[0].schedule.mask_every,
                "fast": list(self.parts[0].fast),
                "attacks": [[type(attack).__name__, settings_of(attack)] for attack in self.attacks],
                "eps_low": [part.budget.eps_low for part in self.parts],
            }
        for part in self.parts:
            part.refresh()
        self.began, self.stop = self.epoch, self.epoch + nb_epochs
        if nb_epochs > 1 and self.stop <= self.parts[0].schedule.burn_in:
            message = (
                f"burn_in={self.parts[0].schedule.burn_in} covers all of the {self.stop} epochs so far, which have eps "
                "everywhere, as plain adversarial training; PART begins where fit goes on after it"
            )
            warnings.warn(message, stacklevel=5)

    def resume(
        self,
        saving: tuple[StrPath, dict[str, Any]] | None,
        classifier: PyTorchClassifier,
        scheduler: Any,
        batches: ArrayBatches | GeneratorBatches,
    ) -> Callable[[], None]:
        """Go on from the file of a run that was stopped, if there is one, and return what writes the next.

        :param saving: Path of the file, and settings that must agree; None writes none.
        :param classifier: What is trained.
        :param scheduler: Of the learning rate, or None.
        :param batches: Of the data.

        Raises:
            OSError: The file cannot be read or written.
            TypeError: An optimizer or scheduler that cannot be saved.
            ValueError: The file is damaged, or belongs to another training.
        """
        if saving is None or not isinstance(batches, ArrayBatches):
            return lambda: None
        path, settings = saving
        if scheduler is not None and not hasattr(scheduler, "state_dict"):
            raise TypeError(
                f"scheduler is a {type(scheduler).__name__}; with a checkpoint one with state_dict is needed"
            )
        file = FitCheckpoint(path, self._settings | settings, classifier, scheduler, self.attacks, self.parts, batches)
        self._resumed = self._written != os.path.realpath(path) and self._read(file)

        def write() -> None:
            file.write(self.epoch, self.began, self.history)

        if self.epoch < self.stop:
            write()  # which tries the path before the work, and keeps the state of the random numbers
            self._written = os.path.realpath(path)
        return write

    def _read(self, file: FitCheckpoint) -> bool:
        state = file.read()
        if state is None:
            return False
        if state["epoch"] < self.began:
            raise ValueError(
                f"fit checkpoint {os.fspath(file.path)!r} ends at epoch {state['epoch']}, and this trainer has "
                f"trained {self.began}; give it to the first fit, or another path to this one"
            )
        file.restore(state, self.began)
        self.history[:] = [record for record in state["history"] if record["epoch"] < self.stop]
        for part in self.parts:
            part.refresh()
        return True

    def logged(self, path: StrPath, record: Record) -> bool:
        """Return whether a run that was stopped has logged this epoch already.

        :param path: Of the log.
        :param record: Of the epoch.
        """
        resumed, self._resumed = self._resumed, False  # none but its first epoch can be
        lines = read_lines("log", path)[-1:] if resumed and os.path.exists(path) else []
        return any(isinstance(line, dict) and _timeless(line) == _timeless(record) for line in lines)


def _timeless(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "seconds"}
