"""What an evaluation found: accuracies per attack, in tables, in files and back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..files import StrPath, check_writable, write_json, write_text
from ..radius import radius_text
from .attack_result import AttackResult
from .corruption_result import CorruptionResult
from .gradient_result import GradientChecks
from .report import attack_lines, attack_table, class_table
from .result_files import FORMAT, check_same, read_result, result_files


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
        wall_seconds: from the first attack to the last, where several processes shared them, whose seconds are sums.
    """

    model: str
    eps: float
    seed: int
    results: list[AttackResult]
    labels: NDArray[np.int64] = field(repr=False)
    card: dict[str, Any] = field(default_factory=dict, repr=False)
    gradients: GradientChecks | None = None
    corruptions: CorruptionResult | None = None
    warnings: list[str] = field(default_factory=list)
    wall_seconds: float | None = None

    def __getitem__(self, name: str) -> AttackResult:
        """Return the result of one attack, or of the "worst case", by its `name`.

        Raises:
            KeyError: it was not evaluated.
        """
        for result in self.rows:
            if result.name == name:
                return result
        raise KeyError(f"{name!r} was not evaluated; there are {[result.name for result in self.results]}")

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def rows(self) -> list[AttackResult]:
        """The results and, last, the worst case."""
        return [*self.results, self.worst_case]

    def is_headline(self, result: AttackResult) -> bool:
        """Whether `result` may be quoted for this eps: natural, or all pixels free to move by eps and no further."""
        radii = (result.eps, result.eps_low)
        same = all(radius is not None and np.isclose(radius, self.eps, rtol=1e-6, atol=0) for radius in radii)
        return result.name == "natural" or same

    @property
    def worst_case(self) -> AttackResult:
        """Samples that no attack of radius eps fooled, nor the natural image; Pixel-AG does not count."""
        counted = [result for result in self.results if self.is_headline(result)]
        correct = np.logical_and.reduce([np.ones(self.n, bool), *(result.correct for result in counted)])
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
            for result in self.rows
        )

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.n} samples, l_inf eps = {radius_text(self.eps)}, seed {self.seed}"]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        for result in self.rows:
            lines += attack_lines(result, self.is_headline(result))
        if self.wall_seconds is not None:
            lines.append(f"  all in {self.wall_seconds:.1f} s; seconds of an attack are summed over its processes")
        return "\n".join([*lines, *(str(part) for part in (self.gradients, self.corruptions) if part is not None)])

    def markdown(self) -> str:
        """Return everything as Markdown: accuracies, accuracies per class, gradient checks, corruptions, the card."""
        warnings = [*self.warnings, *(warning for result in self.results for warning in result.warnings)]
        parts = [
            f"# {self.model}",
            f"Accuracy in % on {self.n} samples; threat model l_inf, eps = {radius_text(self.eps)}; seed {self.seed}.",
            *(f"Warning: {warning}" for warning in warnings),
            attack_table(self.rows),
            "## Per class",
            class_table(self.per_class()),
        ]
        if self.gradients is not None:
            parts += ["## Obfuscated gradients", self.gradients.markdown()]
        if self.corruptions is not None:
            parts += ["## Common corruptions", self.corruptions.markdown()]
        card = "\n".join(f"- {name}: {value}" for name, value in self.card.items())
        return "\n\n".join([*parts, "## What was evaluated", card]) + "\n"

    def save(self, path: StrPath, overwrite: bool = False) -> None:
        """Write PATH.json, which `load` reads, PATH.md and PATH.csv.

        Args:
            path: PATH, which has no ending of its own.
            overwrite: whether PATH.json may be replaced if it holds the evaluation of something else.

        Raises:
            FileExistsError: it may not, and does.
            OSError: a file cannot be written; this is tried with all three before one is.
            ValueError: PATH.json is damaged or not one of part_plugin's.
        """
        (result, report, table) = files = result_files(path)
        if not overwrite:
            check_same(result[1], self.card)
        for kind, file in files:
            check_writable(kind, file)
        write_json(*result, self.to_dict(), indent=1)
        write_text(*report, self.markdown())
        write_text(*table, self.frame().to_csv(index=False))

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
            "accuracies": self._accuracies(),
            "labels": self.labels.tolist(),
            "results": [result.to_dict() for result in self.results],
            "gradients": None if self.gradients is None else self.gradients.to_dict(),
            "corruptions": None if self.corruptions is None else self.corruptions.to_dict(),
            "wall_seconds": self.wall_seconds,
        }

    @classmethod
    def load(cls, path: StrPath) -> Evaluation:
        """Return the evaluation that `save` wrote to the JSON file `path`.

        Raises:
            FileNotFoundError: no such file.
            OSError: a directory, or it cannot be read.
            ValueError: not a result file, a damaged one, or one of another version.
        """
        content = read_result(path)
        try:
            return cls._from_dict(content)
        except ValueError as error:
            raise ValueError(f"result file {os.fspath(path)!r} is damaged: {error}") from error

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> Evaluation:
        """Return the evaluation whose `to_dict` is `content`.

        Raises:
            ValueError: it is none.
        """
        gradients, corruptions = content["gradients"], content["corruptions"]
        evaluation = cls(
            model=content["model"],
            eps=content["eps"],
            seed=content["seed"],
            results=[AttackResult.from_dict(row) for row in content["results"]],
            labels=np.asarray(content["labels"]),
            card=content["card"],
            gradients=None if gradients is None else GradientChecks.from_dict(gradients),
            corruptions=None if corruptions is None else CorruptionResult.from_dict(corruptions),
            warnings=content["warnings"],
            wall_seconds=content.get("wall_seconds"),
        )
        evaluation._check()
        if content.get("accuracies", told := evaluation._accuracies()) != told:
            raise ValueError("its accuracies are not those of its samples")
        return evaluation

    def _check(self) -> None:
        """Raise unless the results are of the samples, and each has a name of its own.

        Raises:
            ValueError: they are not.
        """
        names = ["worst case"]
        for row in self.results:
            if len(row.correct) != self.n:
                raise ValueError(f"{row.name!r} has {len(row.correct)} samples, and there are {self.n} labels")
            if row.name in names:
                raise ValueError(f"{row.name!r} is there twice")
            names.append(row.name)

    def _accuracies(self) -> dict[str, float]:
        return {result.name: result.accuracy for result in self.rows}
