"""Pieces of an evaluation: kept as they come, given out in their order, made once."""

import json

import pytest
import torch
from torch import nn

from part_plugin.evaluation.pieces import Alone, Pieces, Task
from part_plugin.evaluation.state import State


class Sums:
    """Makes of a batch the sum of its labels."""

    portable = True

    def __init__(self):
        self.made = []

    def piece(self, model, images, labels, attack):
        self.made.append(attack)
        return {"sum": int(model(labels).sum())}

    def checked(self, piece, rows):
        if set(piece) != {"sum"}:
            raise ValueError(f"no sum of {rows}")
        return piece


class Backwards(Alone):
    """Makes the last piece first."""

    def run(self, tasks):
        return super().run(tasks[::-1])


def started(hands):
    hands.start(nn.Identity(), torch.zeros(2, 1, 1, 1), {"n": 6, "batch_size": 2})
    return hands


def tasks_of(maker, numbers):
    return [Task(f"sum/{n}", maker, torch.zeros(2, 1, 1, 1), torch.tensor([n, n]), f"{n}") for n in numbers]


@pytest.mark.parametrize("hands", [Alone, Backwards])
def test_pieces_are_given_out_in_their_order_and_kept_as_they_come(tmp_path, hands):
    path, maker = tmp_path / "state.json", Sums()
    pieces = Pieces(State(path, {}), started(hands()))
    kept = []
    for number, (task, piece) in enumerate(pieces.each(tasks_of(maker, range(3)))):
        assert (task.key, piece) == (f"sum/{number}", {"sum": 2 * number})
        kept.append(sorted(json.loads(path.read_text())["pieces"]))
    whole = ["sum/0", "sum/1", "sum/2"]
    assert kept == ([whole[:1], whole[:2], whole] if hands is Alone else [whole] * 3)
    assert maker.made == (["0", "1", "2"] if hands is Alone else ["2", "1", "0"])
    again = Pieces(State(path, {}), started(hands()))
    assert [piece["sum"] for _, piece in again.each(tasks_of(maker, [1, 3, 0]))] == [2, 6, 0]
    assert maker.made[3:] == ["3"]


def test_what_was_made_before_an_error_is_kept(tmp_path):
    class Fails(Sums):
        def piece(self, model, images, labels, attack):
            if attack == "1":
                raise ArithmeticError
            return super().piece(model, images, labels, attack)

    path = tmp_path / "state.json"
    pieces = Pieces(State(path, {}), started(Backwards()))
    with pytest.raises(ArithmeticError):
        list(pieces.each(tasks_of(Fails(), range(4))))
    assert list(json.loads(path.read_text())["pieces"]) == ["sum/3", "sum/2"]


def test_a_damaged_piece_is_told(tmp_path):
    state = State(tmp_path / "state.json", {})
    state.keep("sum/0", {"product": 1})
    with pytest.raises(ValueError, match=r"^state '.*' is damaged in 'sum/0': no sum of 2; delete it$"):
        list(Pieces(state, started(Alone())).each(tasks_of(Sums(), [0])))


def test_what_is_no_attack_is_made_once():
    pieces = Pieces(State(None, {}), started(Alone()))
    made = []
    for _ in range(2):
        assert pieces.get("more", lambda: made.append(1) or len(made), float) == 1.0
    assert made == [1]
