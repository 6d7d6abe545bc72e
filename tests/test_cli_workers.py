"""`part-plugin evaluate` by several processes, its own and those of torchrun: the results of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from part_plugin import save_checkpoint
from part_plugin.adapters.robustbench import build_model
from part_plugin.evaluation import Evaluation

OPTIONS = ["--dataset", "digits", "--attacks", "natural,pgd3", "--eps", "0.1", "--n", "60", "--batch-size", "20"]
SMALL = {"channel_configs": [8, 8, 16, 32], "depth_configs": [1, 1, 1]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model("robust_wide_resnet.RobustWideResNet", SMALL)
    path = tmp_path_factory.mktemp("checkpoint") / "net.pt"
    save_checkpoint(path, model, "robust_wide_resnet.RobustWideResNet", 10, SMALL)
    return path


def run(command, checkpoint, folder, *more):
    program = str(Path(sys.executable).with_name("part-plugin"))
    arguments = [*command, program, "evaluate", str(checkpoint), *OPTIONS, "--out", str(folder), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=environment)


def flags(folder):
    return {row.name: row.correct.tolist() for row in Evaluation.load(folder / "net.json").results}


@pytest.mark.slow
def test_many_processes_find_what_one_does(checkpoint, tmp_path):
    alone = run([], checkpoint, tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    assert Evaluation.load(tmp_path / "alone" / "net.json").wall_seconds is None
    jobs = run([], checkpoint, tmp_path / "jobs", "--jobs", "2")
    assert jobs.returncode == 0, jobs.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ranks = run([*torchrun, "--no-python", "--"], checkpoint, tmp_path / "ranks")
    assert ranks.returncode == 0, ranks.stderr
    for name, done in (("jobs", jobs), ("ranks", ranks)):
        assert flags(tmp_path / name) == flags(tmp_path / "alone")
        assert sorted(file.name for file in (tmp_path / name).iterdir()) == [
            f"net.{end}" for end in ("csv", "json", "md", "state.json")
        ]
        assert done.stdout.count("net: 60 samples") == 1  # one of them speaks
        wall = Evaluation.load(tmp_path / name / "net.json").wall_seconds
        assert f"  all in {wall:.1f} s; seconds of an attack are summed over its processes" in done.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs", "0"], "--jobs=0 is not allowed; it must be >= 1"),
        (["--devices", "2"], "devices=2 is for models on cuda; the model is on cpu, for which there is jobs"),
    ],
)
def test_a_mistake_is_one_sentence(checkpoint, tmp_path, more, message):
    done = run([], checkpoint, tmp_path / "results", *more)
    assert (done.returncode, done.stderr) == (2, f"part-plugin: {message}\n")
    assert not (tmp_path / "results").exists()
