"""The verdict on five behaviours, in words."""

import json

import pytest

from part_plugin.evaluation import GradientChecks
from part_plugin.evaluation.gradient_result import Check


@pytest.fixture
def checks():
    return GradientChecks(
        [Check("one step", "a", True, "run"), Check("black-box", "b", False, "look"), Check("unbounded", "c", False)],
        0.125,
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
        "  2. FAIL  black-box: b; look\n"
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
        "To do about 2: look.\n\n"
        f"Samples without gradient: 12.50%. Verdict: {checks.verdict}."
    )


def test_as_plain_data_and_back(checks):
    content = json.loads(json.dumps(checks.to_dict()))
    assert content["checks"][1] == {"behaviour": "black-box", "measured": "b", "passed": False, "remedy": "look"}
    assert content["zero_gradients"] == 0.125
    assert GradientChecks.from_dict(content) == checks
    weak = GradientChecks(checks.checks, 0.5, "why", True)
    assert GradientChecks.from_dict(json.loads(json.dumps(weak.to_dict()))) == weak
    earlier = {"checks": [{"behaviour": "one step", "measured": "a", "passed": True}], "zero_gradients": 0.0}
    assert GradientChecks.from_dict(earlier) == GradientChecks([Check("one step", "a", True)], 0.0)


def test_a_weak_model_is_not_accused(checks):
    checks.too_weak = "it is right about 10.00% of 40 images, a constant answer about 12.50%"
    assert not checks.passed
    assert checks.verdict == f"too weak to judge: {checks.too_weak}; train it longer, or check more images"
    lines = ["  1. pass  one step: a", "  2. weak  black-box: b", "  3. weak  unbounded: c"]
    assert str(checks).splitlines()[1:4] == lines
    assert "| 2 | black-box | b | weak |" in checks.markdown()
    for text in (str(checks), checks.markdown()):
        assert "look" not in text
        assert "FAIL" not in text


def test_logits_that_change_are_found_out_whatever_else_is_wrong(checks):
    changing = GradientChecks(checks.checks[:1], 0.0, "why", changes=True)
    assert not changing.passed
    assert changing.verdict == (
        "obfuscated gradients: the logits change from call to call; robust accuracies are not to be trusted unless the "
        "attack averages over many calls"
    )
    assert "2. FAIL  black-box: b; look" in str(GradientChecks(checks.checks, 0.0, "why", changes=True))
