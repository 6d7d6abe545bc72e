"""Flags of single samples, and what follows from them."""

import json

import numpy as np
import pytest

from part_plugin.evaluation import AttackResult
from part_plugin.evaluation.attack_result import flags_from_text, flags_to_text


@pytest.mark.parametrize("right", [0, 1, 9, 20, 32, 63, 64])
def test_accuracy_and_wilsons_interval(right):
    n, z = 64, 1.959964
    result = AttackResult("pgd20", np.arange(n) < right, 1.0)
    p = right / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert result.accuracy == p
    low, high = result.interval
    assert low == pytest.approx(centre - half, abs=1e-6)
    assert high == pytest.approx(centre + half, abs=1e-6)
    assert type(low) is type(high) is type(result.accuracy) is float


def test_flags_as_text():
    assert flags_to_text(np.array([True, False, False, True])) == "1001"
    assert flags_from_text("1001").tolist() == [True, False, False, True]
    assert flags_from_text("1001").dtype == bool
    assert flags_from_text("").dtype == bool
    assert flags_to_text(np.array([], bool)) == ""


def test_as_plain_data_and_back():
    result = AttackResult("pgd", np.array([True, False]), 2.5, 0.1, 0.05, "20 steps", ["careful"])
    content = json.loads(json.dumps(result.to_dict()))
    assert content == {
        "name": "pgd",
        "correct": "10",
        "seconds": 2.5,
        "eps": 0.1,
        "eps_low": 0.05,
        "settings": "20 steps",
        "warnings": ["careful"],
    }
    back = AttackResult.from_dict(content)
    assert np.array_equal(back.correct, result.correct)
    assert back.to_dict() == content


def test_it_is_no_attack_unless_said_otherwise():
    natural = AttackResult("natural", np.array([True]), 0.0)
    assert (natural.eps, natural.eps_low, natural.settings, natural.warnings) == (0.0, 0.0, "", [])
    assert repr(natural) == "AttackResult(name='natural', seconds=0.0, eps=0.0, eps_low=0.0, settings='', warnings=[])"
