"""A training on two ranks: stopped and gone on with, and one of them dying."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from part_plugin import load_checkpoint

COMMAND = [str(Path(sys.executable).with_name("part-plugin")), "train", "a.pt", "--preset", "digits", "--n", "64"]
COMMAND += ["--devices", "2", "--keep-every", "1", "--augment", "--held-out", "0.1"]
for setting in ("epochs=2", "burn_in=0", "milestones=[1]", "steps=2", "mask_every=2", "batch_size=16"):
    COMMAND += ["--set", setting]
ALONE = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}


def start(folder):
    folder.mkdir(exist_ok=True)
    options = {"cwd": folder, "env": ALONE | {"OMP_NUM_THREADS": "1"}, "text": True}
    return subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def ended(process):
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output, errors) == (0, "wrote a.pt\n", "")


def weights(path):
    return load_checkpoint(path)[0].state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks") / "whole"
    ended(start(folder))
    return folder


def test_a_rank_dies(tmp_path, whole):
    """One sentence, and the same command goes on, to the same weights, log and best checkpoint."""
    process = start(tmp_path)
    while not (tmp_path / "a.pt.run" / "resume.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    (other,) = psutil.Process(process.pid).children()
    other.kill()
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert re.search(r"rank died|Child process with PID \d+ terminated", errors)
    assert "Traceback" not in errors
    assert not (tmp_path / "a.pt").exists()
    ended(start(tmp_path))
    for name in ("a.pt", "a.best.pt"):
        found, expected = weights(tmp_path / name), weights(whole / name)
        assert all(torch.equal(value, expected[key]) for key, value in found.items())
    logs = [
        [line.rpartition(",")[0] for line in (folder / "a.pt.run" / "log.csv").read_text().splitlines()]
        for folder in (tmp_path, whole)
    ]
    assert logs[0] == logs[1]
