"""Which attacks are to run: names and instances, checked, as entries; names of one kind share a run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..budget import Budget, FixedBudget
from .autoattack import AutoAttack
from .entries import Entry, Natural
from .iterative import IterativeAttack
from .toolkits import toolkit_attack

_NAME = re.compile(r"(adaptive_)?(?:pgd([1-9]\d*)|mma([1-9]\d*)?)")
KNOWN = (
    "'natural', 'pgd20', 'mma', 'adaptive_pgd20', 'adaptive_mma20' (any number of steps), 'autoattack', 'gradients', "
    "'corruptions', or an attack of torchattacks or ART"
)


def parse(attacks: Iterable[Any], eps: float, adaptive: Budget, seed: int) -> dict[str, Entry]:
    """Return the entry of every row, by the row's name and in the order of `attacks`.

    Args:
        attacks: names and instances, without "gradients" and "corruptions", which are no attacks.
        eps: radius of the threat model; steps are eps / 4.
        adaptive: budget of the adaptive attacks.
        seed: of the random starts.

    Raises:
        ValueError: an unknown name, an attack that is there twice.
        TypeError: neither a name nor an attack.
    """
    rows: dict[str, Entry] = {}
    kinds: dict[tuple[bool, bool], IterativeAttack] = {}
    instances: list[Any] = []
    for attack in attacks:
        if not isinstance(attack, str):
            if any(attack is other for other in instances):
                raise ValueError(f"attacks holds the same {type(attack).__name__} twice")
            instances.append(attack)
            _add_instance(rows, attack, seed)
        elif attack in rows:
            raise ValueError(f"attacks holds {attack!r} twice")
        elif attack in ("natural", "autoattack"):
            rows[attack] = Natural() if attack == "natural" else AutoAttack(eps, seed)
        elif found := _NAME.fullmatch(attack):
            kind = margin, is_adaptive = "mma" in attack, bool(found[1])
            budget = adaptive if is_adaptive else FixedBudget(eps)
            rows[attack] = entry = kinds.setdefault(kind, IterativeAttack({}, margin, budget, eps / 4, seed))
            entry.steps[attack] = int(found[2] or found[3] or 20)
        else:
            raise ValueError(f"attacks holds {attack!r}; choose from {KNOWN}")
    return rows


def _add_instance(rows: dict[str, Entry], attack: Any, seed: int) -> None:
    """Add the row of a toolkit's attack; of several with one name, the second is "PGD 2".

    Raises:
        TypeError: it is no attack.
    """
    if isinstance(attack, type):
        raise TypeError(f"attacks holds the class {attack.__name__}; an attack is needed: {attack.__name__}(model)")
    entry = toolkit_attack(attack, seed)
    if entry is None:
        raise TypeError(f"attacks holds a {type(attack).__name__}; choose from {KNOWN}")
    name, number = entry.name, 1
    while entry.name in rows:
        number += 1
        entry.name = f"{name} {number}"
    rows[entry.name] = entry


def check_evidence(entries: Sequence[Entry], eps: float) -> None:
    """Raise if every one of `entries` is weaker than the threat model of radius `eps` by construction, as Pixel-AG is.

    Raises:
        ValueError: it is so.
    """
    attacks = [entry for entry in entries if not isinstance(entry, Natural)]
    if attacks and all(_is_weaker(entry, eps) for entry in attacks):
        raise ValueError(
            f"attacks holds {attacks[0].names[0]} with eps_low < eps={eps:.4g} as the only evidence; add an attack "
            "that lets every pixel move by eps, such as 'pgd20' or 'autoattack'"
        )


def _is_weaker(entry: Entry, eps: float) -> bool:
    """Return whether some pixels may move by less than eps and others by more than they."""
    if entry.eps is None or entry.eps_low is None:
        return False
    return entry.eps_low < entry.eps and entry.eps_low < eps * (1 - 1e-6)
