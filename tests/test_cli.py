"""The command line as a user meets it: in a process of its own, with exit codes and messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from part_plugin import cli, load_checkpoint
from part_plugin.evaluation import Evaluation

QUICK = ["--preset", "digits", "--n", "300"]
for setting in ("epochs=3", "burn_in=1", "milestones=[2]", "steps=3"):
    QUICK += ["--set", setting]


def run(*arguments, cwd=None):
    command = [str(Path(sys.executable).with_name("part-plugin")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"COLUMNS": "120"})


def call(*arguments):
    """The same without a new process: (exit code, what a user reads)."""
    runner = CliRunner()
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    error = result.exception
    return result.exit_code, result.output + ("" if error is None or isinstance(error, SystemExit) else str(error))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, eps_low in (("at", "0.2"), ("part", "0.175")):
        done = run("train", folder / f"{name}.pt", *QUICK, "--set", f"eps_low={eps_low}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"wrote {folder / name}.pt\n"
    return folder


def test_train_writes_a_checkpoint(checkpoints):
    model, description = load_checkpoint(checkpoints / "part.pt")
    assert description["training"]["samples"] == 300
    assert description["training"]["eps_low"] == 0.175
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 10)


def test_evaluate_and_compare(checkpoints, tmp_path):
    options = ["--attacks", "natural,pgd5,mma3", "--eps", "0.2", "--n", 100, "--out", tmp_path / "results"]
    done = run("evaluate", checkpoints / "at.pt", checkpoints / "part.pt", *options)
    assert done.returncode == 0, done.stderr
    written = sorted(file.name for file in (tmp_path / "results").iterdir())
    names = [f"{n}.{end}" for n in ("at", "comparison", "part") for end in ("csv", "json", "md", "png", "state.json")]
    no = {"at.png", "part.png", "comparison.json", "comparison.state.json"}
    assert written == sorted(set(names) - no)
    evaluation = Evaluation.load(tmp_path / "results" / "part.json")
    assert str(evaluation) in done.stdout
    table = pd.read_csv(tmp_path / "results" / "comparison.csv", index_col="model")
    assert table.loc["part", "pgd5"] == pytest.approx(100 * evaluation["pgd5"].accuracy)
    assert Image.open(tmp_path / "results" / "comparison.png").size[0] > 500

    again = run("evaluate", checkpoints / "at.pt", *options)
    assert again.returncode == 2
    assert "at.json' exists; pass --overwrite or another --out" in again.stderr
    assert run("evaluate", checkpoints / "at.pt", *options, "--overwrite").returncode == 0

    code, output = call("evaluate", checkpoints / "at.pt", *options[:-1], tmp_path / "seeds", "--seeds", 3)
    assert code == 0, output
    assert {f"at-seed{seed}.json" for seed in range(3)} <= {file.name for file in (tmp_path / "seeds").iterdir()}
    accuracies = [100 * Evaluation.load(tmp_path / "seeds" / f"at-seed{s}.json")["pgd5"].accuracy for s in range(3)]
    assert f"pgd5        {np.mean(accuracies):5.2f}  {np.std(accuracies, ddof=1):.2f}" in output

    results = [tmp_path / "results" / "at.json", tmp_path / "results" / "part.json"]
    done = run("compare", *results, "--out", tmp_path / "side" / "by-side", "--attack", "pgd5")
    assert done.returncode == 0, done.stderr
    assert (
        (tmp_path / "side" / "by-side.md").read_text().splitlines()[2].startswith("| model | natural | pgd5 | mma3 |")
    )


def test_explain(checkpoints, tmp_path):
    pictures = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for number, picture in enumerate(pictures):
        noise = np.random.default_rng(number).integers(0, 256, (20 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(picture)
    code, output = call("explain", checkpoints / "part.pt", *pictures, "--out", tmp_path / "e.png", "--eps", "0.2")
    assert code == 0, output
    assert output.count(": class ") == 2
    shown = np.asarray(Image.open(tmp_path / "e.png").convert("RGB"))
    assert shown.std() > 20


def test_presets():
    code, output = call("presets")
    assert (code, output.split()) == (0, ["cifar10", "svhn", "tinyimagenet", "digits"])
    code, output = call("presets", "svhn", "--set", "eps=6/255", "--set", "eps_low=5/255", "--set", "objective=trades")
    assert code == 0
    assert "eps = 6/255 (0.02353)\n" in output
    assert "alpha = 1/255 (0.003922)\n" in output
    assert "objective = trades\n" in output


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["compare"], ["explain"], ["presets"]])
def test_help_has_an_example(command):
    code, output = call(*command, "--help")
    assert code == 0
    assert not command or "Example: part-plugin" in output


MISTAKES = {
    "train a.pt --preset mnist": "name='mnist' is not known; choose from 'cifar10', 'svhn', 'tinyimagenet', 'digits'",
    "train a.pt --preset digits --set epochs": "--set 'epochs' is not allowed; KEY=VALUE is needed",
    "train a.pt --preset digits --set epoch=3": "setting='epoch' is not known; choose from 'dataset'",
    "train a.pt --preset digits --set eps_low=0.3": "eps_low=0.3 is larger than eps=0.2; it must be <= eps",
    "train a.pt --preset digits --n 5000": "--n 5000 is not allowed; the dataset has 1397 samples",
    "train a.pt --preset digits --n 0": "--n 0 is not allowed",
    "train a.pt --preset digits --device gpu": "--device 'gpu' cannot be used here",
    "train a.pt --preset digits --set architecture=resnet.ResNet99": "architecture='resnet.ResNet99' is not known",
    "train a.pt --preset cifar10 --root none": "cifar10 is not complete in root='none'",
    "evaluate none.pt": "checkpoint 'none.pt' does not exist",
    "evaluate bad.pt": "checkpoint 'bad.pt' is damaged or holds more than plain data and tensors",
    "evaluate code.pt": "checkpoint 'code.pt' is damaged or holds more than plain data and tensors",
    "evaluate {at} --dataset svhn --root none": "svhn is not complete in root='none'",
    "evaluate {at} --n 500": "n=500 samples asked for; the dataset has 400",
    "evaluate {at} --n 0": "an empty subset was asked for (n=0 of 400 samples)",
    "evaluate {at} --seeds 0": "--seeds=0 is not allowed; it must be >= 1",
    "evaluate {at} --eps 8": "eps='8' is not a radius; it must be in [0, 1], as a number or as in '8/255'",
    "evaluate {at} --eps x": "eps='x' is not a radius",
    "evaluate {at} --suite all": "suite='all' is not known; choose from 'quick', 'standard', 'paper'",
    "evaluate {at} --attacks natural,foo": "attacks holds 'foo'; choose from",
    "evaluate {at} {at}": "two checkpoints are called 'at'; their results would have the same name",
    "compare none.json": "result file 'none.json' does not exist",
    "compare old.json": "result file 'old.json' has format 0; this version of part_plugin reads 1",
    "explain {at}": "at least one checkpoint (.pt) and one picture are needed",
    "explain {at} none.png": "picture 'none.png' does not exist",
    "explain {at} old.json": "picture 'old.json' is damaged or no picture",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_sentence(checkpoints, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("bad.pt").write_bytes(b"x")
    torch.save({"format": 1, "code": Evaluation}, "code.pt")
    Path("old.json").write_text(json.dumps({"format": 0}))
    before = sorted(tmp_path.iterdir())
    code, output = call(*command.format(at=checkpoints / "at.pt").split())
    assert code != 0
    assert MISTAKES[command] in output
    assert sorted(tmp_path.iterdir()) == before


def test_a_mistake_has_no_traceback_and_exit_code_2(tmp_path):
    done = run("evaluate", "none.pt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "part-plugin: checkpoint 'none.pt' does not exist\n"
    assert run("nonsense").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_other_classes_than_the_checkpoints(checkpoints, tmp_path):
    for number in range(12):
        folder = tmp_path / "pictures" / f"{number:02}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "a.png")
    code, output = call("evaluate", checkpoints / "at.pt", "--dataset", "imagefolder", "--root", tmp_path / "pictures")
    assert code != 0
    assert "imagefolder has class 11, and checkpoint 'at' has 10 classes" in output
