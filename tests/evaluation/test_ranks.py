"""Ranks of torch.distributed that share an evaluation."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from evaluation.conftest import EPS

from part_plugin import evaluate

OPTIONS = {"eps": EPS, "attacks": ["natural", "pgd3", "mma2"], "batch_size": 20, "verbose": False}
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def told(_narrow_net, held_out, tmp_path_factory):
    """What each of two ranks says of its evaluations."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save((_narrow_net, *held_out, OPTIONS | {"ranks": True}), folder / "given.pt")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    path = os.pathsep.join([str(TESTS), *filter(None, sys.path)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    script = str(TESTS / "evaluation" / "one_rank.py")
    done = subprocess.run(
        [*torchrun, script, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return [
        dict(ast.literal_eval(line) for line in (folder / f"rank{rank}.txt").read_text().splitlines())
        for rank in range(2)
    ]


def test_all_ranks_have_the_flags_of_one_process(told, narrow_net, held_out):
    alone = {row.name: row.correct.tolist() for row in evaluate(narrow_net, *held_out, **OPTIONS).results}
    for rank in range(2):
        assert told[rank]["whole"] == alone
        assert told[rank]["again"] == alone  # from the state, and also after the errors of the evaluations before


def test_an_error_of_one_is_heard_of_by_all(told):
    assert told[1]["an error of one"] == "ArithmeticError: not a third time"
    assert told[0]["an error of one"] == "RuntimeError: rank 1 failed: ArithmeticError: not a third time"
    state = "a state that cannot be written"
    assert told[0][state].startswith("NotADirectoryError: state '")
    assert told[1][state] == f"RuntimeError: rank 0 failed: {told[0][state]}"


def test_ranks_that_evaluate_something_else_are_refused(told):
    for rank in range(2):
        assert told[rank]["other images"].startswith(f"ValueError: rank {1 - rank} evaluates with data='")
        assert told[rank]["other images"].endswith(
            "'; all ranks must call evaluate with the same, on devices of one kind"
        )
