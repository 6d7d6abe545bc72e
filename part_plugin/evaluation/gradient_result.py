"""What the checks for obfuscated gradients found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .content import FLAG, LIST, SHARE, TEXT, check_entries


@dataclass
class Check:
    """One of the behaviours.

    Attributes:
        behaviour: what was expected.
        measured: accuracies, to read.
        passed: whether they agree.
    """

    behaviour: str
    measured: str
    passed: bool


@dataclass
class GradientChecks:
    """The five behaviours; one that fails is a sign of obfuscated gradients.

    Attributes:
        checks: one entry per behaviour.
        zero_gradients: share of samples whose image gave the attack no gradient at all.
    """

    checks: list[Check]
    zero_gradients: float

    @property
    def passed(self) -> bool:
        """Whether all behaviours are those of a model that hides nothing."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = [str(number) for number, check in enumerate(self.checks, 1) if not check.passed]
        if not failed:
            return "no sign of obfuscated gradients"
        return f"obfuscated gradients: check {' and '.join(failed)} failed; robust accuracies are not to be trusted"

    def __str__(self) -> str:
        lines = [
            f"  {number}. {'pass' if check.passed else 'FAIL'}  {check.behaviour}: {check.measured}"
            for number, check in enumerate(self.checks, 1)
        ]
        zero = f"  samples without gradient: {self.zero_gradients:.2%}"
        return "\n".join([f"gradient checks: {self.verdict}", *lines, zero])

    def markdown(self) -> str:
        """Return the checks as a Markdown table with the verdict below."""
        rows = [
            f"| {number} | {check.behaviour} | {check.measured} | {'pass' if check.passed else 'FAIL'} |"
            for number, check in enumerate(self.checks, 1)
        ]
        table = "\n".join(["| | expected | measured | |", "|---|---|---|---|", *rows])
        return f"{table}\n\nSamples without gradient: {self.zero_gradients:.2%}. Verdict: {self.verdict}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"checks": [vars(check) for check in self.checks], "zero_gradients": self.zero_gradients}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> GradientChecks:
        """Return the checks whose `to_dict` is `content`.

        Raises:
            ValueError: it is none.
        """
        check_entries(content, {"checks": LIST, "zero_gradients": SHARE})
        for check in content["checks"]:
            check_entries(check, {"behaviour": TEXT, "measured": TEXT, "passed": FLAG})
        return cls([Check(**check) for check in content["checks"]], content["zero_gradients"])
