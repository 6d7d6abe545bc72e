"""The clock, and how variants take turns."""

import os
import time

import pytest
import timing
import torch
from timing_turns import turns

CPU = torch.device("cpu")


def test_the_clock_counts_all_of_a_call():
    assert 0.05 <= timing.seconds(lambda: time.sleep(0.05), CPU) < 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_clock_waits_for_the_card():
    """Work that was queued before does not count; that of the call does, to its end, also on another stream."""
    device, other = torch.device("cuda"), torch.cuda.Stream()
    a = torch.rand(4096, 4096, device=device)

    def queue():
        with torch.cuda.stream(other):
            for _ in range(50):
                a @ a

    timing.seconds(queue, device)
    long = timing.seconds(queue, device)
    assert other.query()
    began = time.perf_counter()
    queue()
    assert time.perf_counter() - began < long / 2
    assert timing.seconds(lambda: None, device) < long / 10


def test_a_turn_is_the_mean_of_its_calls_without_what_comes_before():
    calls = []

    def run():
        calls.append("run")
        time.sleep(0.02)

    def before():
        calls.append("before")
        time.sleep(0.2)

    assert 0.02 <= timing.turn(run, CPU, before) < 0.15
    assert calls == ["before", "run"]
    calls.clear()
    assert 0.02 <= timing.turn(run, CPU, at_least=0.2) < 0.15
    assert 2 <= len(calls) <= 10


def test_every_repetition_begins_with_another():
    order = []

    def named(name):
        def one_turn():
            order.append(name)
            return len(order)

        return one_turn

    times = timing.take_turns({name: named(name) for name in "abc"}, repeats=4, warm_up=2)
    assert "".join(order) == "bcacababcbcacababc"
    assert times == {"a": [7, 12, 14, 16], "b": [8, 10, 15, 17], "c": [9, 11, 13, 18]}


def test_medians_extremes_and_ratios():
    assert timing.ratios([1, 6, 3], [2, 3, 3]) == [0.5, 2, 1]
    assert timing.spread([0.5, 2, 1]) == {"median": 1, "smallest": 0.5, "largest": 2}
    with pytest.raises(ValueError, match="shorter"):
        timing.ratios([1, 2], [1])


def test_a_process_has_a_memory_of_its_own(capfd):
    small, large = (timing.Process(turns, [megabytes], CPU) for megabytes in (1, 300))
    assert len({small.turn("pid"), large.turn("pid"), os.getpid()}) == 3
    assert (small.turn("grow"), large.turn("grow"), small.turn("grow")) == (1, 1, 2)
    assert 250 < large.close() - small.turn("peak") < 400
    with pytest.raises(RuntimeError, match="a process ended before its turn of 'fail'; its error is above"):
        small.turn("fail")
    assert "ZeroDivisionError" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="ended before its turn of 'pid'"):
        small.turn("pid")
