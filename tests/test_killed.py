"""Commands that are killed before any of their file operations, and given again: all is as if they had not been."""

import json
import os
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout

import matplotlib.figure  # noqa: F401 (imported once, not in each child)
import pytest
import torch

from part_plugin import commands
from part_plugin.evaluation import Evaluation

TRAIN = ["train", "a.pt", "--preset", "digits", "--n", "40", "--set", "steps=1"]
for setting in ("epochs=2", "burn_in=0", "milestones=[1]", "mask_every=2"):
    TRAIN += ["--set", setting]
EVALUATE = ["evaluate", "a.pt", "--attacks", "natural,pgd1", "--eps", "0.1", "--n", "20", "--batch-size", "20"]
EVALUATE += ["--seeds", "2", "--out", "deep/results"]
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def in_a_child(folder, arguments, at=None):
    """Run a command in a fork of this process, killed before its file operation number `at`; return its status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.chdir(folder)
        left = [at]

        def hook(event, given):
            writes = event == "open" and given[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in EVENTS or writes) and not str(given[0]).startswith(("/dev", "/proc", "/sys")):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            if at is not None:
                sys.addaudithook(hook)
            try:
                commands.app(arguments, standalone_mode=False)
            except FileExistsError:
                os._exit(17)
        os._exit(0)
    finally:
        os._exit(99)


def content(folder):
    """All files, without the seconds in them; the tables must be those of their result."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if name.endswith((".json", ".jsonl")):
            files[name] = (
                [without_seconds(json.loads(line)) for line in path.read_text().splitlines() if line]
                if (name.endswith("l"))
                else without_seconds(json.loads(path.read_text()))
            )
        elif name.endswith("log.csv"):
            files[name] = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        elif name.endswith("resume.ckpt"):
            files[name] = without_seconds(plain(torch.load(path, weights_only=True)))
        elif path.with_suffix(".json").exists():
            one = Evaluation.load(path.with_suffix(".json"))
            files[name] = path.read_text() == (
                one.markdown() if name.endswith("md") else one.frame().to_csv(index=False)
            )
        else:
            files[name] = path.read_bytes()
    return files


def plain(values):
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain(value) for value in values]
    return values.tolist() if isinstance(values, torch.Tensor) else values


def without_seconds(values):
    if isinstance(values, dict):
        pieces = {name: one for name, one in values.items() if name not in ("seconds", "sha256")}
        return {name: without_seconds(one) for name, one in pieces.items()}
    if isinstance(values, list):
        if len(values) == 2 and isinstance(values[1], float):  # a piece: flags and seconds
            return values[0]
        return [without_seconds(one) for one in values]
    return values


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    assert in_a_child(folder, TRAIN) == 0
    return folder


@pytest.mark.parametrize(("arguments", "step"), [(TRAIN, 11), (EVALUATE, 17)], ids=["train", "evaluate"])
def test_killed_before_any_file_operation_and_given_again(tmp_path, trained, arguments, step):
    """Before every so many operations; before all of them with step = 1."""
    start = tmp_path / "start"
    start.mkdir()
    if arguments is EVALUATE:
        shutil.copy(trained / "a.pt", start)
    shutil.copytree(start, tmp_path / "whole")
    assert in_a_child(tmp_path / "whole", arguments) == 0
    expected = content(tmp_path / "whole")
    at, kills = 0, 0
    while True:
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(start, folder)
        status = in_a_child(folder, arguments, at)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        status = in_a_child(folder, arguments)
        assert status == 0 or (status == 17 and arguments is TRAIN and (folder / "a.pt").exists())
        assert content(folder) == expected, f"killed before operation {at}"
        at, kills = at + step, kills + 1
    assert kills > 5
