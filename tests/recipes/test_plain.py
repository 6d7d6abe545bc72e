"""Plain data, as JSON knows them."""

import json

import numpy as np
import pytest
import torch

from part_plugin.recipes.plain import plain

DATA = {"a": [1, 2.5, None, True, "x"], "b": {"c": (1, (2,))}, "d": np.float64(0.5)}


def test_it_is_what_json_gives_back():
    assert plain(DATA) == json.loads(json.dumps(DATA))


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1}}, [b"x"], torch.ones(1), np.float32(1), [[{"a": print}]], 1j])
def test_everything_else_is_refused(value):
    with pytest.raises(TypeError, match="is none$"):
        plain(value)
