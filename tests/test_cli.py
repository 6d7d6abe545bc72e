"""The command line as a user meets it: in a process of its own, with exit codes and messages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from typer.testing import CliRunner

from part_plugin import cli, commands, evaluate, load_checkpoint, plots
from part_plugin.evaluation import Evaluation
from part_plugin.plots import plot_budgets
from part_plugin.recipes import training
from part_plugin.recipes.datasets import load_dataset
from part_plugin.recipes.pictures import load_pictures
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

QUICK = ["--preset", "digits", "--n", "300"]
for setting in ("epochs=3", "burn_in=1", "milestones=[2]", "steps=3"):
    QUICK += ["--set", setting]


def run(*arguments, cwd=None):
    command = [str(Path(sys.executable).with_name("part-plugin")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"COLUMNS": "120"})


def call(*arguments):
    """The same without a new process: (exit code, what a user reads)."""
    runner = CliRunner()
    result = runner.invoke(commands.app, [str(argument) for argument in arguments])
    error = result.exception
    return result.exit_code, result.output + ("" if error is None or isinstance(error, SystemExit) else str(error))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    done = run("train", folder / "part.pt", *QUICK)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (f"wrote {folder / 'part.pt'}\n", "")  # no bar where there is no terminal
    assert call("train", folder / "at.pt", *QUICK, "--set", "eps_low=0.2") == (0, f"wrote {folder / 'at.pt'}\n")
    return folder


def test_train_writes_a_checkpoint(checkpoints):
    model, description = load_checkpoint(checkpoints / "part.pt")
    assert description["training"]["samples"] == 294
    assert description["training"]["eps_low"] == 0.175
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    assert load_checkpoint(checkpoints / "at.pt")[1]["training"]["eps_low"] == 0.2


def test_train_is_what_its_arguments_say(checkpoints, tmp_path):
    """The same weights as `train` with these settings and this random part of the digits."""
    order = torch.randperm(1397, generator=torch.Generator().manual_seed(0))[:300]
    samples = Subset(load_dataset("digits", "", "train"), order.tolist())
    settings = preset("digits", epochs=3, burn_in=1, milestones=[2], steps=3, eps_low=0.2)
    train(settings, samples, tmp_path / "mine.pt", verbose=False, held_out=0.02)
    mine, theirs = (load_checkpoint(path)[0].state_dict() for path in (tmp_path / "mine.pt", checkpoints / "at.pt"))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_train_augments_unless_it_is_digits(tmp_path, monkeypatch):
    """What `train` is given, for every way to ask."""
    given = []
    monkeypatch.setattr(training, "train", lambda *args, transform, **kwargs: given.append(transform))
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "train" / name / "0.png")
    folder = ["--preset", "cifar10", "--set", "dataset=imagefolder", "--root", tmp_path]
    for arguments in (folder, [*folder, "--no-augment"], ["--preset", "digits"], ["--preset", "digits", "--augment"]):
        code, output = call("train", tmp_path / "a.pt", *arguments)
        assert code == 0, output
    assert [transform is not None for transform in given] == [True, False, False, True]
    assert given[0](torch.zeros(2, 3, 16, 16))[0].shape == (2, 3, 16, 16)
    assert given[3](torch.zeros(2, 3, 8, 8))[0].shape == (2, 3, 8, 8)


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

    kept = (tmp_path / "results" / "at.json").read_text()
    assert call("evaluate", checkpoints / "at.pt", *options)[0] == 0  # the same again changes nothing
    assert (tmp_path / "results" / "at.json").read_text() == kept
    code, output = call("evaluate", checkpoints / "at.pt", "--attacks", "natural", *options[2:])
    assert code != 0
    assert "holds another evaluation (at), with attacks=['natural', 'pgd5', 'mma3'], not ['natural']; over" in output
    code, output = call("evaluate", checkpoints / "at.pt", "--attacks", "pgd5,foo", *options[2:], "--overwrite")
    assert "attacks holds 'foo'" in output
    assert (tmp_path / "results" / "at.json").read_text() == kept  # a mistake loses nothing
    assert call("evaluate", checkpoints / "at.pt", "--attacks", "natural", *options[2:], "--overwrite")[0] == 0
    assert [r.name for r in Evaluation.load(tmp_path / "results" / "at.json").results] == ["natural"]
    assert call("evaluate", checkpoints / "at.pt", *options, "--overwrite")[0] == 0
    for end in ("md", "csv"):  # as if it had been killed before them
        text = (tmp_path / "results" / f"at.{end}").read_text()
        (tmp_path / "results" / f"at.{end}").unlink()
        assert call("evaluate", checkpoints / "at.pt", *options)[0] == 0
        assert (tmp_path / "results" / f"at.{end}").read_text() == text
    (tmp_path / "results" / "at.state.json").unlink()
    code, output = call("evaluate", checkpoints / "at.pt", *options)
    assert code != 0
    assert "at.json' exists; pass --overwrite or another --out" in output
    assert call("evaluate", checkpoints / "at.pt", *options, "--overwrite")[0] == 0

    code, output = call("evaluate", checkpoints / "at.pt", *options[:-1], tmp_path / "seeds", "--seeds", 3)
    assert code == 0, output
    assert {f"at-seed{seed}.json" for seed in range(3)} <= {file.name for file in (tmp_path / "seeds").iterdir()}
    accuracies = [100 * Evaluation.load(tmp_path / "seeds" / f"at-seed{s}.json")["pgd5"].accuracy for s in range(3)]
    assert re.search(rf"\npgd5 +{np.mean(accuracies):.2f} +{np.std(accuracies, ddof=1):.2f}\n", output)

    results = [tmp_path / "results" / "at.json", tmp_path / "results" / "part.json"]
    code, output = call("compare", *results, "--out", tmp_path / "side" / "by-side", "--attack", "pgd5")
    assert code == 0, output
    assert output.endswith(f"wrote {tmp_path / 'side' / 'by-side'}.md, .csv and .png\n")
    assert (
        (tmp_path / "side" / "by-side.md").read_text().splitlines()[2].startswith("| model | natural | pgd5 | mma3 |")
    )


def test_explain(checkpoints, tmp_path, monkeypatch):
    pictures = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for number, picture in enumerate(pictures):
        noise = np.random.default_rng(number).integers(0, 256, (20 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(picture)
    drawn = []
    monkeypatch.setattr(plots, "plot_budgets", lambda *args: drawn.append(args) or plot_budgets(*args))
    code, output = call("explain", checkpoints / "part.pt", *pictures, "--out", tmp_path / "e.png", "--eps", "0.2")
    assert code == 0, output
    assert output.count(": class ") == 2
    shown = np.asarray(Image.open(tmp_path / "e.png").convert("RGB"))
    assert shown.std() > 20
    more = ["--eps-low", "1/255", "--cam", "layercam", "--size", 16, "--out", tmp_path / "f.png"]
    code, output = call("explain", checkpoints / "part.pt", checkpoints / "at.pt", *pictures, *more)
    assert code == 0, output
    (models, images, labels, budget), (more_models, more_images, _, more_budget) = drawn
    assert (list(models), list(more_models)) == (["part"], ["part", "at"])
    assert torch.equal(images, load_pictures(pictures, (8, 8)))  # as it was trained
    assert torch.equal(more_images, load_pictures(pictures, (16, 16)))
    assert torch.equal(labels, models["part"](images).argmax(1))
    assert output.splitlines()[-1] == f"wrote {tmp_path / 'f.png'}"
    assert (budget.eps, budget.eps_low, budget.cam) == (0.2, 0.2 * 7 / 8, "gradcam")
    assert (more_budget.eps, more_budget.eps_low, more_budget.cam) == (0.2, 1 / 255, "layercam")  # as it was trained


def test_presets():
    code, output = call("presets")
    assert (code, output.split()) == (0, ["cifar10", "svhn", "tinyimagenet", "imagefolder", "digits"])
    code, output = call("presets", "svhn", "--set", "eps=6/255")
    assert code == 0
    assert f"eps_low: {7 / 8 * 6 / 255}\n" in output
    code, output = call("presets", "svhn", "--set", "eps=6/255", "--set", "eps_low=5/255", "--set", "objective=trades")
    assert code == 0
    assert "eps_low: 5/255\n" in output
    assert "eps: 6/255\n" in output
    assert "alpha: 1/255\n" in output
    assert "objective: trades\n" in output


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["compare"], ["explain"], ["presets"]])
def test_help_has_an_example(command):
    code, output = call(*command, "--help")
    assert code == 0
    assert not command or "Example: part-plugin" in output


MISTAKES = {
    "train a.pt --preset mnist": "name='mnist' is not known; choose from 'cifar10', 'svhn', 'tinyimagenet', 'im",
    "train a.pt --preset digits --set epochs": "--set 'epochs' is not allowed; KEY=VALUE is needed",
    "train a.pt --preset digits --set epoch=3": "setting='epoch' is not known; choose from 'dataset'",
    "train a.pt --preset digits --set eps_low=0.3": "eps_low=0.3 is larger than eps=0.2; it must be <= eps",
    "train a.pt --preset digits --n 5000": "--n 5000 is not allowed; the dataset has 1397 samples",
    "train a.pt --preset digits --n 0": "--n 0 is not allowed",
    "train a.pt --preset digits --device gpu": "--device='gpu' cannot be used here (Expected one of cpu, cuda, ",
    "train a.pt --preset digits --workers -1": "--workers=-1 is not allowed; it must be >= 0",
    "train bad.pt --preset digits": "checkpoint 'bad.pt' exists already; choose another name or remove it",
    "train bad.pt/a.pt --preset digits": "checkpoint 'bad.pt/a.pt' cannot be written: 'bad.pt' is not a directory",
    "evaluate {at} --device gpu": "--device='gpu' cannot be used here (Expected one of cpu, cuda, ",
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
    "explain {at} {at} old.json": "two checkpoints are called 'at'; their columns would have the same name",
    "explain {at} old.json --size 0": "--size=0 is not allowed; it must be >= 1",
    "explain {at} old.json --eps 4/255 --eps-low 5/255": "eps_low=0.0196078 is larger than eps=0.0156863; it must be",
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
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_has_exit_code_2():
    assert call("nonsense")[0] == 2


def test_a_key_error_is_printed_without_its_quotes(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["part-plugin", "compare", str(tmp_path / "a.json"), "--attack", "mma"])
    x, y = torch.rand(4, 3, 8, 8), torch.arange(4)
    model = load_checkpoint(checkpoints / "at.pt")[0]
    evaluate(model, x, y, attacks=["natural"], name="a", verbose=False).save(tmp_path / "a")
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    expected = "part-plugin: 'mma' was not evaluated; there are ['natural']\n"
    assert capsys.readouterr().err == expected


def test_other_classes_than_the_checkpoints(checkpoints, tmp_path):
    for number in range(12):
        folder = tmp_path / "pictures" / f"{number:02}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / "a.png")
    code, output = call("evaluate", checkpoints / "at.pt", "--dataset", "imagefolder", "--root", tmp_path / "pictures")
    assert code != 0
    assert "imagefolder has class 11, and checkpoint 'at' has 10 classes" in output
