"""Means, errors relative to a reference, text, plain data."""

import json
import re

import pandas as pd
import pytest

from part_plugin.evaluation import CorruptionResult


@pytest.fixture
def result():
    table = pd.DataFrame(
        [[0.9, 0.7], [0.5, 0.25]],
        pd.Index(["fog", "jpeg_compression"], name="corruption"),
        pd.Index([1, 5], name="severity"),
    )
    return CorruptionResult(table, "CIFAR-10-C files", 20)


def test_means_and_mce_by_hand(result):
    assert result.by_corruption.to_dict() == pytest.approx({"fog": 0.8, "jpeg_compression": 0.375})
    assert result.mean == pytest.approx(0.5875)
    assert result.unnormalised == pytest.approx(0.4125)
    assert result.mce is None
    result.reference = {"jpeg_compression": 0.5, "fog": 0.4}
    assert result.mce == pytest.approx((0.2 / 0.4 + 0.625 / 0.5) / 2)


@pytest.mark.parametrize("reference", [None, {"fog": 0.4, "jpeg_compression": 0.5}])
def test_round_trip_through_json(result, reference):
    result.reference = reference
    again = CorruptionResult.from_dict(json.loads(json.dumps(result.to_dict(), sort_keys=True)))
    pd.testing.assert_frame_equal(again.table, result.table)
    assert (again.source, again.n, again.reference) == (result.source, result.n, reference)
    assert str(again) == str(result)


def test_wrong_plain_data(result):
    message = "table={} is not a table of accuracies"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CorruptionResult.from_dict({"table": {}, "n": 1})


def test_text_forms(result):
    assert result.markdown() == (
        "| Corruption | Accuracy |\n|---|---:|\n| Fog | 80.00 |\n| JPEG Compression | 37.50 |\n| Mean | 58.75 |"
    )
    text = str(result)
    assert "accuracy in % by severity: 20 images, CIFAR-10-C files" in text
    assert text.endswith("mean accuracy 58.75%, mean corruption error 41.25%")
    assert text.splitlines()[-2].split() == ["JPEG", "Compression", "50.00", "25.00", "37.50"]
    result.reference = {"fog": 0.4, "jpeg_compression": 0.5}
    assert str(result).endswith("mean corruption error 41.25%, mCE 87.50% of the reference's")
