"""A copy of an ART attack that works on a replica of its network, so that the user's attack and network rest."""

from __future__ import annotations

from types import MethodType
from typing import Any

from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import nn


class BoundAttack:
    """A copy of an attack, and of the attacks and classifiers inside it.

    :param attack: The attack, which stays as it is.
    :param model: The model that it attacks.
    :param network: What the copy attacks in its place.
    """

    def __init__(self, attack: EvasionAttack, model: nn.Module, network: nn.Module) -> None:
        self._model, self._network = model, network
        self._copies: dict[int, tuple[Any, Any, dict[str, Any]]] = {}
        self.attack: EvasionAttack = self._copied(attack)

    @property
    def classifiers(self) -> list[PyTorchClassifier]:
        """The classifiers that the copy works on."""
        return [copied for _, copied, _ in self._copies.values() if isinstance(copied, PyTorchClassifier)]

    def report(self) -> None:
        """Tell the user's attacks what the copies have noted, such as the noise of a universal perturbation."""
        for original, copied, before in self._copies.values():
            if isinstance(original, EvasionAttack):
                noted = {name: value for name, value in vars(copied).items() if before.get(name, before) is not value}
                vars(original).update(noted)

    def _copied(self, value: Any) -> Any:
        if isinstance(value, (EvasionAttack, PyTorchClassifier)):
            if id(value) not in self._copies:
                copied = object.__new__(type(value))  # copy.copy would pickle a classifier with its weights
                self._copies[id(value)] = value, copied, vars(copied)
                vars(copied).update((name, self._copied(each)) for name, each in vars(value).items())
                if isinstance(value, PyTorchClassifier):
                    own = value.model is self._model
                    vars(copied)["_model"] = _around(value._model, self._network if own else value.model)
                self._copies[id(value)] = value, copied, dict(vars(copied))
            return self._copies[id(value)][1]
        if isinstance(value, MethodType):  # as the loss of ART's SquareAttack is one of its own
            return MethodType(value.__func__, self._copied(value.__self__))
        if type(value) in (list, tuple):
            return type(value)(map(self._copied, value))
        return value


def _around(wrapper: nn.Module, network: nn.Module) -> nn.Module:
    """Return ART's wrapper of a model around another network."""
    copied = type(wrapper).__new__(type(wrapper))
    vars(copied).update(vars(wrapper), _modules=wrapper._modules | {"_model": network}, training=False)
    return copied
