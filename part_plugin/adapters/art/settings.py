"""Settings that are changed as one, or not at all, and followed where the user changes them on the host's object."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from art.attacks.attack import EvasionAttack

FOLLOWED = ("norm", "eps", "eps_step", "max_iter", "targeted", "num_random_init", "batch_size", "decay", "random_eps")
"""Settings of ART's PGD that are taken over where they are changed."""


@contextmanager
def all_or_nothing(*objects: Any) -> Iterator[None]:
    """Put the attributes of the objects back if an exception passes.

    :param objects: What is being changed.
    """
    saved = [(each, dict(vars(each))) for each in objects if hasattr(each, "__dict__")]
    try:
        yield
    except BaseException:
        for each, attributes in saved:
            vars(each).clear()
            vars(each).update(attributes)
        raise


def parts_of(attack: EvasionAttack) -> list[EvasionAttack]:
    """Return an attack and those inside it that do its work, as in ART's `ProjectedGradientDescent` and `AutoAttack`.

    :param attack: The attack.
    """
    inside = [getattr(attack, "_attack", None), *(getattr(attack, "attacks", None) or ())]
    return [attack, *(part for each in inside if isinstance(each, EvasionAttack) for part in parts_of(each))]


class Watched:
    """Notices which settings of an attack were changed since it last looked.

    :param attack: The attack, the user's own object.
    :param names: Of its settings; those that it lacks are left out.
    """

    def __init__(self, attack: EvasionAttack, names: Sequence[str]) -> None:
        self.attack = attack
        self.names = names
        self._seen = self.read()

    def read(self) -> dict[str, Any]:
        """Return the settings as they are."""
        holders = [self.attack, getattr(self.attack, "_attack", None)]
        found = {}
        for name in self.names:
            holder = next((each for each in holders if hasattr(each, name)), None)
            if holder is not None:
                found[name] = getattr(holder, name)
        return found

    def follow(self, change: Callable[..., None]) -> None:
        """Pass on the settings that were changed; where they are refused, they still count as changed.

        :param change: Takes them by keyword.
        """
        now = self.read()
        changed = {name: value for name, value in now.items() if not _same(value, self._seen.get(name))}
        if changed:
            change(**changed)
            self._seen = now


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and np.array_equal(one, other))


def plain(value: Any) -> Any:
    """Return a `value` that is a scalar of numpy as a number of Python, as ART asks for, and any other as it is."""
    return value.item() if isinstance(value, np.generic) else value
