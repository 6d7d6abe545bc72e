"""The verdict on five behaviours, in words."""

import json

import pytest

from part_plugin.evaluation import GradientChecks
from part_plugin.evaluation.gradient_result import Check


@pytest.fixture
def checks():
    return GradientChecks(
        [Check("one step", "a", True), Check("black-box", "b", False), Check("unbounded", "c", False)], 0.125
    )


def test_one_that_fails_fails_all(checks):
    assert not checks.passed
    assert checks.verdict == ("obfuscated gradients: check 2 and 3 failed; robust accuracies are not to be trusted")
    honest = GradientChecks([Check("one step", "a", True)] * 5, 0.0)
    assert honest.passed
    assert honest.verdict == "no sign of obfuscated gradients"


def test_text(checks):
    assert str(checks) == (
        "gradient checks: obfuscated gradients: check 2 and 3 failed; robust accuracies are not to be trusted\n"
        "  1. pass  one step: a\n"
        "  2. FAIL  black-box: b\n"
        "  3. FAIL  unbounded: c\n"
        "  samples without gradient: 12.50%"
    )


def test_markdown(checks):
    assert checks.markdown() == (
        "| | expected | measured | |\n"
        "|---|---|---|---|\n"
        "| 1 | one step | a | pass |\n"
        "| 2 | black-box | b | FAIL |\n"
        "| 3 | unbounded | c | FAIL |\n\n"
        f"Samples without gradient: 12.50%. Verdict: {checks.verdict}."
    )


def test_as_plain_data_and_back(checks):
    content = json.loads(json.dumps(checks.to_dict()))
    assert content["checks"][1] == {"behaviour": "black-box", "measured": "b", "passed": False}
    assert content["zero_gradients"] == 0.125
    assert GradientChecks.from_dict(content) == checks
