"""What an evaluation under common corruptions found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from .content import COUNT, SHARE, TEXT, Kind, check_entries

_is_share = SHARE[1]


def _is_table(value: Any) -> bool:
    """Return whether a value is a DataFrame's "tight" dictionary of accuracies by corruption and severity."""
    if not isinstance(value, dict) or set(value) != {"index", "columns", "data", "index_names", "column_names"}:
        return False
    index, columns, data = value["index"], value["columns"], value["data"]
    if (value["index_names"], value["column_names"]) != (["corruption"], ["severity"]):
        return False
    if not all(isinstance(one, list) and one for one in (index, columns, data)) or len(data) != len(index):
        return False
    names = all(type(name) is str for name in index) and all(type(name) is int for name in columns)
    if not names or len(set(index)) < len(index) or len(set(columns)) < len(columns):
        return False
    return all(isinstance(row, list) and len(row) == len(columns) and all(map(_is_share, row)) for row in data)


def _is_reference(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(type(name) is str and _is_share(error) and error > 0 for name, error in value.items())
    )


_TABLE: Kind = ("a table of accuracies", _is_table)
_REFERENCE: Kind = ("null or errors by corruption", _is_reference)


@dataclass(eq=False)
class CorruptionResult:
    """How a model fared under corruptions.

    Attributes:
        table: accuracy in [0, 1]; a row per corruption, a column per severity.
        source: where the corrupted images came from.
        n: images per corruption and severity.
        reference: errors in (0, 1] of the model that `mce` compares with, averaged over severities.
    """

    table: pd.DataFrame
    source: str
    n: int
    reference: dict[str, float] | None = None

    @property
    def by_corruption(self) -> pd.Series[float]:
        """Accuracy per corruption, averaged over severities, in [0, 1]: what Appendix H.2 reports."""
        return self.table.mean(axis=1).rename("accuracy")

    @property
    def mean(self) -> float:
        """Accuracy averaged over corruptions and severities, in [0, 1]."""
        return float(self.by_corruption.mean())

    @property
    def unnormalised(self) -> float:
        """Mean corruption error without a reference: 1 - `mean`."""
        return 1 - self.mean

    @property
    def mce(self) -> float | None:
        """Mean corruption error relative to `reference` (1 if equally good) as in RobustBench; None without one."""
        if self.reference is None:
            return None
        errors = 1 - self.by_corruption
        return float((errors / pd.Series(self.reference)[errors.index]).mean())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "table": self.table.to_dict(orient="tight"),
            "source": self.source,
            "n": self.n,
            "reference": self.reference,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CorruptionResult:
        """Return the result whose `to_dict` is `values`.

        Raises:
            ValueError: it is none.
        """
        check_entries(values, {"table": _TABLE, "source": TEXT, "n": COUNT, "reference": _REFERENCE})
        return cls(**(values | {"table": pd.DataFrame.from_dict(values["table"], orient="tight")}))

    def markdown(self) -> str:
        """Return the table of Appendix H.2 for this model, in percent, with the mean as its last row."""
        rows = [(_title(str(name)), accuracy) for name, accuracy in self.by_corruption.items()] + [("Mean", self.mean)]
        return "\n".join(["| Corruption | Accuracy |", "|---|---:|"] + [f"| {a} | {100 * b:.2f} |" for a, b in rows])

    def __str__(self) -> str:
        percent = 100 * self.table.assign(mean=self.by_corruption)
        percent.index = [_title(name) for name in self.table.index]
        relative = "" if self.mce is None else f", mCE {self.mce:.2%} of the reference's"
        return (
            f"accuracy in % by severity: {self.n} images, {self.source}\n"
            f"{percent.to_string(float_format='{:.2f}'.format)}\n"
            f"mean accuracy {self.mean:.2%}, mean corruption error {self.unnormalised:.2%}{relative}"
        )


def _title(corruption: str) -> str:
    return corruption.replace("_", " ").title().replace("Jpeg", "JPEG")
