"""Entries go through the samples batch by batch and remember what they have done."""

import numpy as np
import torch
from evaluation.conftest import EPS, Terminal
from torch import nn

from part_plugin import evaluate
from part_plugin.evaluation.common import progress
from part_plugin.evaluation.entries import ByBatch, Natural
from part_plugin.evaluation.pieces import Alone, Pieces
from part_plugin.evaluation.state import State


class Count(ByBatch):
    """Right about every image whose label is even, in twice as many seconds as there are images."""

    names = ("even", "odd")
    eps = 0.25
    settings = "by label"

    def __init__(self):
        self.batches = []

    def run(self, model, images, labels):
        self.batches.append(labels.tolist())
        assert images.flatten().tolist() == labels.tolist()
        even = labels % 2 == 0
        return {"even": (even, 2.0 * len(images)), "odd": (~even, 1.0)}


def pieces(model, state):
    hands = Alone()
    hands.start(model, torch.zeros(7, 1, 1, 1), {"n": 7, "batch_size": 3})
    return Pieces(state, hands)


def run(entry, state, n=7, batch_size=3):
    y = torch.arange(n)
    with progress(False, n, "img") as bar:
        return entry.results(
            nn.Flatten(), y.float().reshape(n, 1, 1, 1), y, batch_size, pieces(nn.Flatten(), state), bar
        )


def test_batches_become_rows():
    entry = Count()
    even, odd = run(entry, State(None, {}))
    assert entry.batches == [[0, 1, 2], [3, 4, 5], [6]]
    assert (even.name, odd.name) == ("even", "odd")
    assert even.correct.tolist() == [True, False, True, False, True, False, True]
    assert odd.correct.tolist() == [not flag for flag in even.correct]
    assert (even.seconds, odd.seconds) == (14, 3)
    assert (even.eps, even.eps_low, even.settings) == (0.25, 0.25, "by label")


def test_finished_batches_are_not_run_again():
    state, entry = State(None, {}), Count()
    whole = run(entry, state)
    assert list(state.pieces) == [f"('even', 'odd')/by label/{first}" for first in (0, 3, 6)]
    del state.pieces["('even', 'odd')/by label/3"]
    again = Count()
    rest = run(again, state)
    assert again.batches == [[3, 4, 5]]
    assert [row.to_dict() for row in rest] == [row.to_dict() for row in whole]


def test_progress_counts_samples(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    y = torch.arange(7)
    with progress(True, 7, "img") as bar:
        Count().results(nn.Flatten(), y.float().reshape(7, 1, 1, 1), y, 3, pieces(nn.Flatten(), State(None, {})), bar)
        assert bar.n == 7


def test_the_natural_images(narrow_net, held_out):
    x, y = held_out
    with progress(False, len(x), "img") as bar:
        (natural,) = Natural().results(narrow_net, x, y, 25, pieces(narrow_net, State(None, {})), bar)
    with torch.no_grad():
        assert np.array_equal(natural.correct, (narrow_net(x).argmax(1) == y).numpy())
    assert 0.7 < natural.accuracy < 1
    assert (natural.name, natural.eps, natural.eps_low) == ("natural", 0, 0)
    assert natural.settings == "the images as they are"
    assert 0 < natural.seconds < 60


def test_a_batch_that_does_not_fit_is_halved(narrow_net, held_out):
    class Small(nn.Module):
        largest = 0

        def __init__(self):
            super().__init__()
            self.net = narrow_net

        def forward(self, x):
            if len(x) > 20:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            Small.largest = max(Small.largest, len(x))
            return self.net(x)

    names = ["natural", "pgd3", "mma3"]
    expected = evaluate(narrow_net, *held_out, EPS, names, verbose=False)
    result = evaluate(Small(), *held_out, EPS, names, batch_size=64, verbose=False)
    assert all(np.array_equal(result[name].correct, expected[name].correct) for name in names)
    assert 8 <= Small.largest <= 20
