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


def test_other_errors_are_not_taken_for_full_memory():
    tried = []

    def broken(part):
        tried.append(part)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="^mat1 and mat2 shapes cannot be multiplied$"):
        within_memory(broken, 8)
    assert tried == [slice(0, 8)]


def test_a_cpu_without_memory_says_so_in_words():
    def work(part):
        if part.stop - part.start > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12345 bytes.")
        return part

    assert within_memory(work, 8) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]


@pytest.mark.parametrize(
    ("rows", "size", "expected"),
    [(5, 2, [2, 2, 1]), (4, 2, [2, 2]), (3, 10, [3]), (3, None, [3]), (0, 4, []), (2, 1, [1, 1])],
)
def test_parts_of_a_given_size(rows, size, expected):
    parts = within_memory(lambda part: part, rows, size)
    assert [part.stop - part.start for part in parts] == expected
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))


def test_in_parts_takes_what_suits_the_network(digits_net, batch, monkeypatch):
    """32 channels of 8x8 are 2,048 values an image; images at least one at a time."""
    for values, expected in ((5 * 2048, [5, 5, 5, 1]), (5 * 2048 - 1, [4, 4, 4, 4]), (1, [1] * 16), (10**9, [16])):
        monkeypatch.setattr(batching, "VALUES_AT_ONCE", values)
        parts = batching.in_parts(lambda part: part, digits_net, batch[0])
        assert [part.stop - part.start for part in parts] == expected


def test_the_largest_activation_is_that_of_the_image_size(digits_net, monkeypatch):
    monkeypatch.setattr(batching, "VALUES_AT_ONCE", 32 * 64 * 8)
    assert [batching.rows_at_once(digits_net, torch.rand(16, 1, size, size)) for size in (8, 16, 8)] == [8, 2, 8]


def test_the_image_itself_may_be_largest(monkeypatch):
    monkeypatch.setattr(batching, "VALUES_AT_ONCE", 3 * 64)
    assert batching.rows_at_once(nn.Sequential(nn.MaxPool2d(8), nn.Flatten()), torch.rand(16, 1, 8, 8)) == 3
