"""Evaluations side by side and as one."""

import dataclasses
import re

import numpy as np
import pytest
from evaluation.conftest import CARD, EPS, result

from part_plugin.evaluation import Evaluation, compare, merged


def evaluation(model, results, labels=(0, 1, 2), warnings=(), **card):
    return Evaluation(model, EPS, 3, results, np.array(labels), CARD | card, warnings=list(warnings))


def test_compared():
    robust = evaluation("robust", [result("natural", "110", 0.0), result("pgd5", "100")])
    plain = evaluation("plain", [result("natural", "111", 0.0), result("mma5", "001")])
    table = compare([robust, plain])
    assert table.index.tolist() == ["robust", "plain"]
    assert table.index.name == "model"
    assert table.columns.tolist() == ["natural", "pgd5", "mma5", "worst case"]
    assert table.loc["robust"].tolist()[:2] == pytest.approx([2 / 3, 1 / 3])
    assert np.isnan(table.loc["robust", "mma5"])
    assert np.isnan(table.loc["plain", "pgd5"])
    assert table["worst case"].tolist() == pytest.approx([1 / 3, 1 / 3])
    with pytest.raises(ValueError, match="^evaluations is empty; at least one is needed$"):
        compare([])


@pytest.fixture
def shards():
    first = evaluation(
        "mine",
        [result("natural", "110", 0.0, seconds=1.0), result("pgd5", "100", 0.1, 0.05, 2.0, "left 1", ["a", "b"])],
        (7, 1, 2),
        ["w", "v"],
        data="d1",
        n=3,
    )
    second = evaluation(
        "yours",
        [result("natural", "01", 0.0, seconds=4.0), result("pgd5", "00", 0.1, 0.05, 8.0, "left 0", ["b", "c"])],
        (3, 0),
        ["v", "u"],
        data="d2",
        n=2,
    )
    return first, second


def test_parts_as_one(shards):
    whole = merged(shards)
    assert whole["natural"].correct.tolist() == [True, True, False, False, True]
    assert whole["pgd5"].correct.tolist() == [True, False, False, False, False]
    assert whole.labels.tolist() == [7, 1, 2, 3, 0]
    assert whole.per_class()["natural"].to_dict() == {0: 1, 1: 1, 2: 0, 3: 0, 7: 1}
    assert whole.n == whole.card["n"] == 5
    assert (whole.model, whole.eps, whole.seed) == ("mine", EPS, 3)
    assert whole.card == CARD | {"data": "d1+d2", "n": 5}
    assert whole.warnings == ["w", "v", "u"]
    pgd = whole["pgd5"]
    assert (pgd.seconds, pgd.eps, pgd.eps_low, pgd.settings) == (10, 0.1, 0.05, "left 1 | left 0")
    assert pgd.warnings == ["a", "b", "c"]
    assert whole["natural"].settings == "natural"
    back = merged(shards[::-1])
    assert back.labels.tolist() == [3, 0, 7, 1, 2]
    assert back["natural"].correct.tolist() == [False, True, True, True, False]
    assert merged(shards[:1]).to_dict() == shards[0].to_dict()


@pytest.mark.parametrize(
    ("what", "value"), [("weights", "x"), ("eps", 0.2), ("seed", 4), ("norm", "L2"), ("attacks", ["pgd5"])]
)
def test_parts_of_different_evaluations_are_refused(shards, what, value):
    message = f"shards differ in {what}: {shards[0].card[what]} and {value}"
    shards[1].card[what] = value
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        merged(shards)


def test_wrong_parts(shards):
    with pytest.raises(TypeError, match="^shards holds a str; an Evaluation is needed$"):
        merged([shards[0], "x"])
    with pytest.raises(TypeError, match="^evaluations holds a str; an Evaluation is needed$"):
        compare([shards[0], "x"])
    short = dataclasses.replace(shards[1], results=shards[1].results[:1])
    with pytest.raises(ValueError, match="^shards have results of other attacks than their cards say$"):
        merged([shards[0], short])
    del short.card["norm"]
    with pytest.raises(ValueError, match="whose card has no 'norm'; one of evaluate\\(\\) is needed$"):
        merged([shards[0], short])
    short.card["norm"] = shards[0].card["norm"]
    with pytest.raises(ValueError, match="^shards is empty; at least one evaluation is needed$"):
        merged([])
    with pytest.raises(ValueError, match="^shards hold the same samples twice; each part may be given once$"):
        merged([*shards, shards[0]])
