"""The file from which a `fit` that was stopped goes on, to the same weights, bit for bit."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier

from ...files import StrPath, read_tensors, write_tensors
from .batches import ArrayBatches
from .lifted import LiftedPART
from .settings import plain

FORMAT = 1
_REMEDY = "remove it to begin anew"
_KEYS: dict[str, type] = {
    "settings": dict,
    "attacks": list,
    "model": dict,
    "optimizer": dict,
    "scheduler": dict,
    "parts": list,
    "epoch": int,
    "began": int,
    "order": torch.Tensor,
    "random": dict,
    "history": list,
}


@dataclass
class FitCheckpoint:
    """What a `fit` needs to go on, written at the end of every epoch.

    Attributes:
        path: of the file.
        settings: those of the training, plain data, which must agree.
        classifier: what is trained.
        scheduler: of the learning rate, or None.
        attacks: the user's own, whose settings may change as training goes on.
        parts: losses, which remember masks.
        batches: of the data.
    """

    path: StrPath
    settings: dict[str, Any]
    classifier: PyTorchClassifier
    scheduler: Any
    attacks: Sequence[EvasionAttack]
    parts: Sequence[LiftedPART]
    batches: ArrayBatches

    def write(self, epoch: int, began: int, history: list[dict[str, float]]) -> None:
        """Write everything as it is.

        Args:
            epoch: how many epochs the trainer has trained.
            began: how many of them before this fit.
            history: their records.

        Raises:
            TypeError: an optimizer or scheduler whose state is more than plain data and tensors.
            OSError: it cannot be written; a file that was there is as it was.
        """
        write_tensors("fit checkpoint", self.path, self._content(epoch, began, history))

    def _content(self, epoch: int, began: int, history: list[dict[str, float]]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "settings": self.settings,
            "attacks": [settings_of(attack) for attack in self.attacks],
            "model": self.classifier.model.state_dict(),
            "optimizer": self.classifier.optimizer.state_dict(),
            "scheduler": {} if self.scheduler is None else self.scheduler.state_dict(),
            "parts": [part.state_dict() for part in self.parts],
            "epoch": epoch,
            "began": began,
            "order": torch.from_numpy(self.batches.order),
            "random": random_state(),
            "history": history,
        }

    def read(self) -> dict[str, Any] | None:
        """Return the state in the file, which fits this training; None if there is no file.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged, or belongs to another training.
        """
        if not os.path.lexists(self.path):
            return None
        state = read_tensors("fit checkpoint", self.path, FORMAT, _KEYS, _REMEDY)
        name = f"fit checkpoint {os.fspath(self.path)!r}"
        for key, value in self.settings.items():
            if (was := state["settings"].get(key)) != value:
                raise ValueError(f"{name} belongs to another training, whose {key} was {was} and is {value}; {_REMEDY}")
        if _shapes(state["model"]) != _shapes(self.classifier.model.state_dict()):
            raise ValueError(f"{name} belongs to another network, with other weights; {_REMEDY}")
        if not _fits(state["optimizer"], self.classifier.optimizer):
            raise ValueError(f"{name} belongs to another optimizer, of other parameters; {_REMEDY}")
        epochs = [record.get("epoch") if isinstance(record, dict) else None for record in state["history"]]
        fresh = self._content(0, 0, [])
        same = [_keys(state[key]) == _keys(fresh[key]) for key in ("random", "parts", "attacks", "scheduler")]
        if not all(same) or epochs != list(range(state["epoch"])) or len(state["order"]) != len(fresh["order"]):
            raise ValueError(f"{name} is damaged: its parts do not fit each other; {_REMEDY}")
        return state

    def restore(self, state: dict[str, Any], began: int) -> None:
        """Go on from `state`, what `read` returned.

        Args:
            state: what was read.
            began: how many epochs there were before this fit; the order of another fit's samples is not taken over.
        """
        self.classifier.model.load_state_dict(state["model"])
        self.classifier.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        for attack, settings in zip(self.attacks, state["attacks"], strict=True):
            changed = {name: value for name, value in settings.items() if getattr(attack, name) != value}
            if changed:
                attack.set_params(**changed)
        for part, remembered in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(remembered)
        if state["began"] == began:
            self.batches.order[:] = state["order"].numpy()
        set_random_state(state["random"])


def settings_of(attack: EvasionAttack) -> dict[str, Any]:
    """Return the settings of an attack that curricula change."""
    found = {name: plain(getattr(attack, name, None)) for name in ("eps", "eps_step", "max_iter")}
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def random_state() -> dict[str, Any]:
    """Return the state of every global generator, as tensors and plain data."""
    numpy = np.random.get_state(legacy=False)
    numpy["state"]["key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "numpy": numpy,
        "python": list(map(_as_list, random.getstate())),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from `state`, what `random_state` returned."""
    numpy = state["numpy"]
    numpy["state"]["key"] = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state(numpy)
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _keys(value: Any) -> Any:
    """Return the keys of a dictionary, or of those in a list."""
    return [_keys(item) for item in value] if isinstance(value, list) else sorted(value)


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _fits(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer's state is of as many parameters, in such groups, of such shapes."""
    groups = [group["params"] for group in optimizer.param_groups]
    if [len(group.get("params", ())) for group in state.get("param_groups", ())] != [len(group) for group in groups]:
        return False
    parameters = [parameter for group in groups for parameter in group]
    found = [
        (parameters[number].shape, value.shape)
        for number, values in state.get("state", {}).items()
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.dim() > 0
    ]
    return all(ours == theirs for ours, theirs in found)
