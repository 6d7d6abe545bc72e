"""What one attack found: a flag per sample, and the accuracy and its interval that follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from .content import FLAGS, NAME, NUMBER, OPTIONAL_NUMBER, TEXT, TEXTS, check_entries

_NEEDED = {"name": NAME, "correct": FLAGS, "seconds": NUMBER}
_OPTIONAL = {"eps": OPTIONAL_NUMBER, "eps_low": OPTIONAL_NUMBER, "settings": TEXT, "warnings": TEXTS}
Flags = NDArray[np.bool_]
"""Whether the model is right about each sample, (N,)."""


@dataclass
class AttackResult:
    """How a model fared under one attack: which samples it still got right, and how long that took to find out.

    Attributes:
        name: of the attack; "natural" for none.
        correct: whether each sample is classified correctly, bool (N,).
        seconds: time until these flags were known; of 20 steps out of 100, those up to the 20th.
        eps, eps_low: radius of important and of other pixels, equal but for Pixel-AG; None if not l_inf.
        settings: of the attack, to read.
        warnings: what its toolkit warned of.
    """

    name: str
    correct: Flags = field(repr=False)
    seconds: float
    eps: float | None = 0.0
    eps_low: float | None = 0.0
    settings: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Share of samples that are classified correctly, in [0, 1]."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy (Wilson)."""
        low, high = binomtest(int(self.correct.sum()), len(self.correct)).proportion_ci(method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return vars(self) | {"correct": flags_to_text(self.correct)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> AttackResult:
        """Return the result whose `to_dict` is `content`.

        Raises:
            ValueError: it is none.
        """
        check_entries(content, _NEEDED, _OPTIONAL)
        return cls(**content | {"correct": flags_from_text(content["correct"])})


def check_flags(piece: Any, rows: int) -> None:
    """Raise unless a piece of a result has the flags of so many rows.

    Args:
        piece: {"correct": flags as text, "seconds": that it took, "warnings": if there are any}.
        rows: how many.

    Raises:
        ValueError: it has not.
    """
    check_entries(piece, {"correct": FLAGS, "seconds": NUMBER}, {"warnings": TEXTS})
    if len(piece["correct"]) != rows:
        raise ValueError(f"it has flags of {len(piece['correct'])} samples, not of {rows}")


def flags_to_text(flags: Flags) -> str:
    """Return `flags` as text, "1" for True and "0" for False."""
    return "".join("01"[int(flag)] for flag in flags)


def flags_from_text(text: str) -> Flags:
    """Return the flags whose `flags_to_text` is `text`."""
    return np.array([character == "1" for character in text], dtype=bool)
