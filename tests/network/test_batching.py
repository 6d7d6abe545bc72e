"""How many rows go through the network at a time."""

from itertools import chain

import pytest
import torch
from conftest import assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from part_plugin.network import batching, fast
from part_plugin.network.batching import within_memory
from part_plugin.network.view import ModelView


class Scripted(nn.Module):
    """A network whose body is scripted, which takes no hooks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = torch.jit.script(nn.Sequential(nn.Conv2d(8, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))

    def forward(self, x):
        return self.body(self.stem(x))


@pytest.mark.parametrize("around", [ModelView, lambda net: fast._Autocast(ModelView(net), torch.bfloat16)])
def test_rows_at_once_follow_the_largest_activation(lived_in, batch, monkeypatch, around):
    """32 channels of 8x8 in `lived_in`, of which 4 may be attacked at a time, whatever stands around the network."""
    monkeypatch.setattr(batching, "VALUES_AT_ONCE", 4 * 32 * 64)
    before = snapshot(lived_in)
    assert [batching.rows_at_once(around(lived_in), batch[0]) for _ in range(2)] == [4, 4]
    assert_untouched(lived_in, before)
    images = torch.rand(16, 3, 8, 8)
    assert batching.rows_at_once(Scripted(), images) == 16
    assert batching.rows_at_once(lived_in, images.to("meta")) == 16  # not a CPU's memory


@settings(max_examples=300)
@given(st.integers(0, 400), st.integers(1, 500), st.sampled_from([torch.cuda.OutOfMemoryError, MemoryError]))
def test_every_row_is_run_once_and_in_order(rows, limit, error):
    tried = []

    def work(part):
        tried.append(part.stop - part.start)
        if tried[-1] > limit:
            raise error("full")
        return list(range(rows)[part])

    results = within_memory(work, rows)
    assert [*chain(*results)] == list(range(rows))
    assert all(0 < len(result) <= limit for result in results)
    assert len(tried) - len(results) <= 9  # halves, not one row less at a time
    assert len(results) == 1 or rows > limit or not rows


@settings(max_examples=200)
@given(st.integers(1, 60), st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_memory_that_others_use_too(rows, limits):
    """However much there is left at each try, every row is run once and in order."""
    left = iter(limits)

    def work(part):
        if part.stop - part.start > next(left, limits[-1]):
            raise torch.cuda.OutOfMemoryError("full")
        return list(range(rows)[part])

    assert [*chain(*within_memory(work, rows))] == list(range(rows))


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_an_error_that_smaller_parts_do_not_mend(rows):
    tried = []

    def full(part):
        tried.append(part.stop - part.start)
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        within_memory(full, rows)
    assert tried[0] == rows
    assert tried[-1] == 1

    def broken(part):
        tried.append(part)
        raise ArithmeticError("not about memory")

    tried.clear()
    with pytest.raises(ArithmeticError):
        within_memory(broken, rows)
    assert tried == [slice(0, rows)]
