"""What is asked for: suites, attacks by name or as instances, and what is no attack; checked, and as entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..budget import Budget
from ..checks import check_choice, shown
from ..pixel_budget import PixelBudget
from .attacks import KNOWN, check_evidence, parse

ATTACKS: Sequence[Any] = ("natural", "pgd20", "autoattack")
EXTRAS = ("gradients", "corruptions")  # which are no attacks
STEPS = (20, 40, 60, 80, 100)
SUITES = {
    "quick": ("natural", "pgd20"),
    "standard": ("natural", "pgd20", "mma", "autoattack"),
    "paper": (
        "natural",
        "pgd10",
        *(f"pgd{steps}" for steps in STEPS),
        "mma",
        "autoattack",
        *(f"adaptive_pgd{steps}" for steps in STEPS),
        *(f"adaptive_mma{steps}" for steps in STEPS),
        "gradients",
        "corruptions",
    ),
}
"""Attacks by the name of a suite; "paper" has every number of the paper's Tables 1 to 8 about one checkpoint."""


def row_names(attacks: Sequence[Any], suite: str | None, eps: float, seed: int) -> list[str]:
    """Return the names of the attacks of an evaluation as its card has them, after checking them.

    The arguments are those of `evaluate`.

    Args:
        attacks: see there.
        suite: likewise.
        eps: likewise, a number.
        seed: likewise.

    Raises:
        TypeError, ValueError: see `evaluate`.
    """
    chosen = chosen_attacks(attacks, suite)
    rows = parse((a for a in chosen if not is_extra(a)), eps, adaptive_budget(None, eps), seed)
    check_evidence(list(dict.fromkeys(rows.values())), eps)
    return [*rows, *filter(is_extra, chosen)]


def chosen_attacks(attacks: Sequence[Any], suite: str | None) -> tuple[Any, ...]:
    """Return the attacks asked for.

    Raises:
        TypeError: `attacks` is no list.
        ValueError: it is empty or holds one of `EXTRAS` twice, `suite` is unknown or not alone.
    """
    if suite is not None:
        if attacks not in (ATTACKS, ()):
            raise ValueError(f"suite={shown(suite)} does not go with attacks={shown(attacks)}; pass one of them")
        return SUITES[check_choice("suite", suite, list(SUITES))]
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        raise TypeError(
            f"attacks={shown(attacks)} is a {type(attacks).__name__}; a list is needed, such as ['natural', 'pgd20']"
        )
    attacks = tuple(attacks)
    if not attacks:
        raise ValueError(f"attacks is empty; choose from {KNOWN}")
    for extra in EXTRAS:
        if attacks.count(extra) > 1:
            raise ValueError(f"attacks holds {extra!r} twice")
    return attacks


def is_extra(attack: Any) -> bool:
    """Return whether an `attack` asked for is one of `EXTRAS`."""
    return isinstance(attack, str) and attack in EXTRAS


def adaptive_budget(adaptive: Budget | None, eps: float) -> Budget:
    """Return the budget of the adaptive attacks, 1.5 `eps` and `eps` unless `adaptive` is given.

    Raises:
        TypeError: `adaptive` is no budget.
    """
    if adaptive is None:
        return PixelBudget(1.5 * eps, eps)
    if not isinstance(adaptive, Budget):
        raise TypeError(f"adaptive={adaptive!r} is a {type(adaptive).__name__}; a Budget such as PixelBudget is needed")
    return adaptive
