"""Anything in one short line."""

import pytest
import torch

from part_plugin.short import short


@pytest.mark.parametrize("value", [None, True, 5, -0.5, "x", [1, "a"], (2,), {"b": [None], "a": 1}, 2**128 - 1, [], {}])
def test_plain_data_are_their_repr(value):
    assert short(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**100, "an integer of 333 bits"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ({n: n for n in range(9)}, "{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, ...}"),
        (torch.ones(2), "a Tensor"),
        ({"a": torch.ones(2)}, "{'a': a Tensor}"),
        (b"x" * 1000, "a bytes"),
        ("a\n\ud800", "'a\\n\\ud800'"),
    ],
)
def test_what_is_long_or_no_data(value, text):
    assert short(value) == text


def test_it_is_never_long():
    deep = value = []
    for _ in range(10_000):
        value.append(["x" * 1000] * 1000)
        value.append(value := [])
    assert len(short(deep)) < 20_000
    assert len(short("x" * 10**6)) == 80
    assert short(10**5000) == "an integer of 16610 bits"  # whose repr is an error
