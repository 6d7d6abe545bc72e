"""What an evaluation found: accuracies per attack, from the flags of single samples, to files and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..checks import radius_text
from ..files import read_json, write_json, write_text
from .corruptions import CorruptionResult
from .gradients import GradientChecks

FORMAT = 1
_KEYS = {
    "model": str,
    "eps": int | float,
    "seed": int,
    "card": dict,
    "warnings": list,
    "labels": list,
    "results": list,
    "gradients": dict | None,
    "corruptions": dict | None,
}


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
    correct: np.ndarray = field(repr=False)
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


@dataclass
class Evaluation:
    """The results of `evaluate`, in the order in which the attacks were asked for.

    Attributes:
        model: name of the model.
        eps: radius of the threat model, l_inf, in the images' units.
        seed: of the random starts.
        results: one entry per attack.
        labels: true classes, (N,).
        card: what was evaluated, plain data: hashes of weights and images, versions, batch size, norm.
        gradients: the checks for obfuscated gradients, if asked for.
        corruptions: the accuracies under common corruptions, if asked for.
        warnings: about the model itself.
    """

    model: str
    eps: float
    seed: int
    results: list[AttackResult]
    labels: np.ndarray = field(repr=False)
    card: dict[str, Any] = field(default_factory=dict, repr=False)
    gradients: GradientChecks | None = None
    corruptions: CorruptionResult | None = None
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> AttackResult:
        """Return the result of one attack, or of the "worst case", by its name."""
        for result in [*self.results, self.worst_case]:
            if result.name == name:
                return result
        raise KeyError(f"{name!r} was not evaluated; there are {[result.name for result in self.results]}")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def is_headline(self, result: AttackResult) -> bool:
        """Whether an accuracy may be quoted for this eps: natural, or all pixels free to move by eps and no further."""
        if result.name == "natural":
            return True
        return result.eps is not None and bool(np.isclose([result.eps, result.eps_low], self.eps, rtol=1e-6).all())

    @property
    def worst_case(self) -> AttackResult:
        """Samples that no attack of radius eps fooled, nor the natural image; Pixel-AG does not count."""
        counted = [result for result in self.results if self.is_headline(result)]
        correct = np.logical_and.reduce([result.correct for result in counted], initial=True) & np.ones(self.n, bool)
        runs = {result.settings: result.seconds for result in sorted(counted, key=lambda result: result.seconds)}
        names = ", ".join(result.name for result in counted)
        return AttackResult("worst case", correct, sum(runs.values()), self.eps, self.eps, names)

    def per_class(self) -> pd.DataFrame:
        """Return the accuracy for every true class (rows) under every attack (columns)."""
        return pd.DataFrame({result.name: result.correct for result in self.results}).groupby(self.labels).mean()

    def row(self) -> pd.Series:
        """Return everything as one row for a pandas.DataFrame."""
        values: dict[str, Any] = {"model": self.model, "eps": self.eps, "n": self.n}
        for result in self.results:
            low, high = result.interval
            values |= {
                result.name: result.accuracy,
                f"{result.name}_low": low,
                f"{result.name}_high": high,
                f"{result.name}_seconds": result.seconds,
            }
        return pd.Series(values)

    def frame(self) -> pd.DataFrame:
        """Return one row per attack, the worst case last: accuracy, interval, radii, seconds, whether it counts."""
        return pd.DataFrame(
            {
                "model": self.model,
                "attack": result.name,
                "accuracy": result.accuracy,
                "low": result.interval[0],
                "high": result.interval[1],
                "n": self.n,
                "eps": result.eps,
                "eps_low": result.eps_low,
                "headline": self.is_headline(result),
                "seconds": result.seconds,
                "settings": result.settings,
            }
            for result in [*self.results, self.worst_case]
        )

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.n} samples, l_inf eps = {radius_text(self.eps)}, seed {self.seed}"]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        for result in [*self.results, self.worst_case]:
            low, high = result.interval
            other = "" if self.is_headline(result) else f"   radius {radius_text(result.eps, result.eps_low)}"
            lines.append(
                f"  {result.name:<16} {result.accuracy:7.2%}   95 % interval {low:7.2%} to {high:7.2%}   "
                f"{result.seconds:6.1f} s{other}"
            )
            lines += [f"    warning: {warning}" for warning in result.warnings]
        return "\n".join([*lines, *(str(part) for part in (self.gradients, self.corruptions) if part is not None)])

    def markdown(self) -> str:
        """Return everything as Markdown: accuracies, accuracies per class, gradient checks, corruptions, the card."""
        rows = [
            f"| {result.name} | {100 * result.accuracy:.2f} | {100 * result.interval[0]:.2f} to "
            f"{100 * result.interval[1]:.2f} | {radius_text(result.eps, result.eps_low)} | {result.seconds:.1f} |"
            for result in [*self.results, self.worst_case]
        ]
        per_class = 100 * self.per_class()
        parts = [
            f"# {self.model}",
            f"Accuracy in % on {self.n} samples; threat model l_inf, eps = {radius_text(self.eps)}; seed {self.seed}.",
            *(f"Warning: {w}" for w in [*self.warnings, *(w for result in self.results for w in result.warnings)]),
            "\n".join(["| attack | accuracy | 95 % interval | radius | seconds |", "|---|---|---|---|---|", *rows]),
            "## Per class",
            "\n".join(
                [
                    "| class | " + " | ".join(per_class.columns) + " |",
                    "|---" * (1 + len(per_class.columns)) + "|",
                    *(f"| {c} | " + " | ".join(f"{v:.1f}" for v in row) + " |" for c, row in per_class.T.items()),
                ]
            ),
        ]
        if self.gradients is not None:
            parts += ["## Obfuscated gradients", self.gradients.markdown()]
        if self.corruptions is not None:
            parts += ["## Common corruptions", self.corruptions.to_markdown()]
        card = "\n".join(f"- {name}: {value}" for name, value in self.card.items())
        return "\n\n".join([*parts, "## What was evaluated", card, ""])

    def save(self, path: str | os.PathLike) -> None:
        """Write PATH.json, which `load` reads, PATH.md and PATH.csv.

        Raises:
            FileExistsError: PATH.json holds the evaluation of something else.
            OSError: a file cannot be written.
        """
        base = Path(path)
        target = base.with_name(base.name + ".json")
        if target.exists() and (other := Evaluation.load(target)).card != self.card:
            raise FileExistsError(
                f"result file {str(target)!r} holds another evaluation ({other.model}); choose another name"
            )
        write_json("result file", target, self.to_dict(), indent=1)
        write_text("report", base.with_name(base.name + ".md"), self.markdown())
        write_text("table", base.with_name(base.name + ".csv"), self.frame().to_csv(index=False))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "format": FORMAT,
            "model": self.model,
            "eps": self.eps,
            "eps_text": radius_text(self.eps),
            "seed": self.seed,
            "card": self.card,
            "warnings": self.warnings,
            "accuracies": {result.name: result.accuracy for result in [*self.results, self.worst_case]},
            "labels": self.labels.tolist(),
            "results": [vars(result) | {"correct": flags_to_text(result.correct)} for result in self.results],
            "gradients": None if self.gradients is None else self.gradients.to_dict(),
            "corruptions": None if self.corruptions is None else self.corruptions.to_dict(),
        }

    @classmethod
    def load(cls, path: str | os.PathLike) -> Evaluation:
        """Return the evaluation that `save` wrote to this JSON file.

        Raises:
            FileNotFoundError: no such file.
            OSError: a directory, or it cannot be read.
            ValueError: not a result file, a damaged one, or one of another version.
        """
        content = read_json("result file", path, FORMAT, _KEYS)
        try:
            return cls._from_dict(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"result file {os.fspath(path)!r} is damaged: {error!r}") from error

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> Evaluation:
        gradients, corruptions = content["gradients"], content["corruptions"]
        return cls(
            model=content["model"],
            eps=content["eps"],
            seed=content["seed"],
            results=[AttackResult(**row | {"correct": flags_from_text(row["correct"])}) for row in content["results"]],
            labels=np.asarray(content["labels"]),
            card=content["card"],
            gradients=None if gradients is None else GradientChecks.from_dict(gradients),
            corruptions=None if corruptions is None else CorruptionResult.from_dict(corruptions),
            warnings=content["warnings"],
        )

    @classmethod
    def merged(cls, shards: Sequence[Evaluation]) -> Evaluation:
        """Return the evaluation of all samples from evaluations of parts of them, in this order.

        Natural accuracy, PGD and MMA are then those of one run, since their random starts depend on
        image and seed alone. AutoAttack seeds itself per batch, so that its starts differ.

        Raises:
            ValueError: nothing to merge, other weights or settings, or a part that is there twice.
        """
        if not shards:
            raise ValueError("shards is empty; at least one evaluation is needed")
        first = shards[0]
        for other in shards[1:]:
            for what in ("weights", "eps", "seed", "norm", "attacks"):
                if other.card[what] != first.card[what]:
                    raise ValueError(f"shards differ in {what}: {first.card[what]} and {other.card[what]}")
        if len({shard.card["data"] for shard in shards}) < len(shards):
            raise ValueError("shards hold the same samples twice; each part may be given once")
        results = [
            AttackResult(
                **vars(rows[0])
                | {
                    "correct": np.concatenate([row.correct for row in rows]),
                    "seconds": sum(row.seconds for row in rows),
                    "warnings": list(dict.fromkeys(warning for row in rows for warning in row.warnings)),
                }
            )
            for rows in zip(*(shard.results for shard in shards), strict=True)
        ]
        labels = np.concatenate([shard.labels for shard in shards])
        card = first.card | {"data": "+".join(shard.card["data"] for shard in shards), "n": len(labels)}
        return cls(first.model, first.eps, first.seed, results, labels, card)


def compare(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """Return one row per evaluation and one column per attack that any of them ran: accuracies in [0, 1]."""
    rows = [{result.name: result.accuracy for result in [*e.results, e.worst_case]} for e in evaluations]
    table = pd.DataFrame(rows, index=pd.Index([e.model for e in evaluations], name="model"))
    return table[[name for name in table if name != "worst case"] + ["worst case"]]


def flags_to_text(flags: np.ndarray) -> str:
    """Return "1" and "0" for True and False, one character per sample."""
    return "".join("01"[int(flag)] for flag in flags)


def flags_from_text(text: str) -> np.ndarray:
    """Undo `flags_to_text`."""
    return np.frombuffer(text.encode(), dtype=np.uint8) == ord("1")
