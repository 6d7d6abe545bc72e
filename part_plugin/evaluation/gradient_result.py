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
        remedy: what to do if they do not.
    """

    behaviour: str
    measured: str
    passed: bool
    remedy: str = ""

    def sentence(self, judged: bool) -> str:
        """Return what was expected and measured and, if it failed and is `judged`, what to do."""
        remedy = f"; {self.remedy}" if self.remedy and judged and not self.passed else ""
        return f"{self.behaviour}: {self.measured}{remedy}"

    def mark(self, judged: bool) -> str:
        """Return "pass" or "FAIL", or "weak" for one that failed but is not `judged`."""
        return "pass" if self.passed else "FAIL" if judged else "weak"


@dataclass
class GradientChecks:
    """The five behaviours; one that fails is a sign of obfuscated gradients, if there is a robustness to explain.

    Attributes:
        checks: one entry per behaviour.
        zero_gradients: share of samples whose image gave the attack no gradient at all.
        too_weak: why the model is not accurate enough for the checks to mean anything; "" if it is.
        changes: whether its logits change from call to call.
    """

    checks: list[Check]
    zero_gradients: float
    too_weak: str = ""
    changes: bool = False

    @property
    def passed(self) -> bool:
        """Whether all behaviours are those of a model that hides nothing."""
        return all(check.passed for check in self.checks) and not self.too_weak and not self.changes

    @property
    def judged(self) -> bool:
        """Whether a check that fails says anything."""
        return self.changes or not self.too_weak

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = [str(number) for number, check in enumerate(self.checks, 1) if not check.passed]
        if self.changes:
            return (
                "obfuscated gradients: the logits change from call to call; robust accuracies are not to be trusted "
                "unless the attack averages over many calls"
            )
        if self.too_weak:
            return f"too weak to judge: {self.too_weak}; train it longer, or check more images"
        if not failed:
            return "no sign of obfuscated gradients"
        return f"obfuscated gradients: check {' and '.join(failed)} failed; robust accuracies are not to be trusted"

    def __str__(self) -> str:
        lines = [
            f"  {number}. {check.mark(self.judged)}  {check.sentence(self.judged)}"
            for number, check in enumerate(self.checks, 1)
        ]
        zero = f"  samples without gradient: {self.zero_gradients:.2%}"
        return "\n".join([f"gradient checks: {self.verdict}", *lines, zero])

    def markdown(self) -> str:
        """Return the checks as a Markdown table with the verdict below."""
        rows = [
            f"| {number} | {check.behaviour} | {check.measured} | {check.mark(self.judged)} |"
            for number, check in enumerate(self.checks, 1)
        ]
        table = "\n".join(["| | expected | measured | |", "|---|---|---|---|", *rows])
        remedies = [
            f"To do about {number}: {check.remedy}."
            for number, check in enumerate(self.checks, 1)
            if check.remedy and self.judged and not check.passed
        ]
        zero = f"Samples without gradient: {self.zero_gradients:.2%}. Verdict: {self.verdict}."
        return "\n\n".join([table, *remedies, zero])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return vars(self) | {"checks": [vars(check) for check in self.checks]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> GradientChecks:
        """Return the checks whose `to_dict` is `content`, also as earlier releases wrote it.

        Raises:
            ValueError: it is none.
        """
        check_entries(content, {"checks": LIST, "zero_gradients": SHARE}, {"too_weak": TEXT, "changes": FLAG})
        for check in content["checks"]:
            check_entries(check, {"behaviour": TEXT, "measured": TEXT, "passed": FLAG}, {"remedy": TEXT})
        return cls(**content | {"checks": [Check(**check) for check in content["checks"]]})
