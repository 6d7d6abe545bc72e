"""An attack of ART made Pixel-AG: a plain PGD as `PixelProjectedGradientDescent`, another in a `PixelEvasionAttack`."""

from __future__ import annotations

from typing import Any

from art.attacks.attack import EvasionAttack
from art.attacks.evasion import BasicIterativeMethod, ProjectedGradientDescent, ProjectedGradientDescentPyTorch

from .base import PixelEvasionBase
from .pgd import PixelProjectedGradientDescent
from .settings import FOLLOWED, Watched
from .wrapper import PixelEvasionAttack, kind_of, linf_radius

_PLAIN = (ProjectedGradientDescent, ProjectedGradientDescentPyTorch, BasicIterativeMethod)


def lift(attack: Any, **options: Any) -> PixelEvasionBase:
    """Return the Pixel-AG form of an ART attack; one that has a budget already is returned as it is.

    A plain PGD becomes `PixelProjectedGradientDescent` with its settings, also where they are changed later; another
    l_inf attack is wrapped in `PixelEvasionAttack`, and what can be neither is refused by name.

    :param attack: The attack.
    :param options: eps_low, budget, clip, cam, target_layers, reshape_transform, rule, target.

    Raises:
        TypeError: `attack` is no EvasionAttack.
        ValueError: One that cannot be given a budget per pixel, or options for one that has a budget already.
    """
    if isinstance(attack, PixelEvasionBase):
        given = [f"{name}={value}" for name, value in options.items() if value is not None and name != "clip"]
        if given:
            raise ValueError(f"{given[0]} does not go with {type(attack).__name__}, which has a budget already")
        return attack
    if not isinstance(attack, EvasionAttack):
        raise TypeError(f"attacks holds {kind_of(attack)}; ART EvasionAttack instances are needed")
    linf_radius(attack)  # by the name that the user knows it under
    watched = Watched(attack, FOLLOWED)
    settings = watched.read()
    if type(attack) not in _PLAIN or settings["decay"] is not None or settings["random_eps"]:
        return PixelEvasionAttack(attack, **options)
    lifted = PixelProjectedGradientDescent(attack.estimator, verbose=attack.verbose, **settings, **options)
    lifted.watched = watched
    return lifted
