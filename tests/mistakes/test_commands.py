"""Mistakes with the command line, and with the files of trainings and evaluations."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SmallNet
from mistakes.mistake import Mistake, each

from part_plugin import commands, evaluate
from part_plugin.evaluation import AttackResult, CorruptionResult, Evaluation, compare, merged
from part_plugin.evaluation.corrupted_images import corrupted
from part_plugin.recipes.datasets import load_dataset
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

NET = SmallNet().eval()
X, Y = torch.rand(4, 1, 8, 8), torch.arange(4)
SAMPLES = [(torch.rand(3, 8, 8), 0)] * 4


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """What the mistakes stumble over: a file, folders where files are to be, links, results, damaged files."""
    monkeypatch.chdir(tmp_path)
    for name in ("file", "taken.pt", "cat.png"):
        Path(name).write_text("mine")
    for name in ("b.pt.run/log.csv", "c.pt.run/resume.ckpt", "results/b.md", "e.png"):
        Path(name).mkdir(parents=True)
    Path("d.pt").symlink_to("/gone/d.pt")
    result().save("old")
    Path("old.state.json").write_text("{}")
    Path("halved.json").write_text(Path("old.json").read_text()[:100])
    content = json.loads(Path("old.json").read_text())
    content["results"][0]["correct"] = "1110"
    Path("edited.json").write_text(json.dumps(content))
    Path("older.json").write_text(json.dumps(content | {"format": 0}))
    Path("damaged.state.json").write_text('{"format": 1}')


def result(name="old", **card):
    card = {"weights": "w", "eps": 0.1, "seed": 0, "norm": "Linf", "attacks": ["natural"], "data": "d"} | card
    return Evaluation(name, 0.1, 0, [AttackResult("natural", np.ones(4, bool), 1.0)], np.zeros(4, int), card)


def command(line):
    """Run a command as `part-plugin` does, but in this process."""
    return commands.app(line.split(), standalone_mode=False)


def small(**options):
    return preset("digits", epochs=1, burn_in=0, steps=1, **options)


MISTAKES = [
    Mistake(
        "train over a checkpoint",
        lambda: command("train taken.pt --preset cifar10 --root nowhere"),
        FileExistsError,
        "checkpoint 'taken.pt' exists already; choose another name or remove it",
    ),
    Mistake(
        "train into a file as if it were a folder",
        lambda: command("train file/a.pt --preset cifar10 --root nowhere"),
        NotADirectoryError,
        "checkpoint 'file/a.pt' cannot be written: 'file' is not a directory",
    ),
    Mistake(
        "train where a folder has the name of the log",
        lambda: command("train b.pt --preset cifar10 --root nowhere"),
        IsADirectoryError,
        "log file 'b.pt.run/log.csv' is a directory; a file is needed",
    ),
    Mistake(
        "train where a folder has the name of the resume file",
        lambda: train(small(), SAMPLES, "c.pt", verbose=False),
        IsADirectoryError,
        "resume file 'c.pt.run/resume.ckpt' is a directory; a file is needed",
    ),
    Mistake(
        "train to a link that leads nowhere",
        lambda: train(small(), SAMPLES, "d.pt", verbose=False),
        FileNotFoundError,
        "checkpoint 'd.pt' cannot be written: it is a link to '/gone/d.pt', whose directory does not exist",
    ),
    Mistake(
        "train with patience and nothing to be patient with",
        lambda: train(small(), SAMPLES, "f.pt", verbose=False, patience=3),
        ValueError,
        "patience=3 needs samples held_out, on which an epoch can be better",
    ),
    Mistake(
        "train with everything held out",
        lambda: train(small(), SAMPLES, "f.pt", verbose=False, held_out=1.0),
        ValueError,
        "held_out=1.0 of 4 samples leaves none to train on, or none to validate on",
    ),
    Mistake(
        "train on as many devices as a batch cannot be divided among",
        lambda: command("train f.pt --preset digits --devices 3"),
        ValueError,
        "batch_size=32 cannot be divided into 3 equal parts, for devices=3, nodes=1 and accumulate=1",
    ),
    Mistake(
        "train with a precision that there is not",
        lambda: command("train f.pt --preset digits --precision bf16"),
        ValueError,
        "precision='bf16' is not known; choose from '32-true', 'bf16-mixed', '16-mixed'",
    ),
    Mistake(
        "train with a strategy that divides a network",
        lambda: command("train f.pt --preset digits --strategy fsdp"),
        ValueError,
        "strategy='fsdp' is not known; choose from 'auto', 'ddp', 'ddp_find_unused_parameters_true'",
    ),
    Mistake(
        "train with a file of settings that is not there",
        lambda: command("train f.pt --config gone.yaml"),
        FileNotFoundError,
        "[Errno 2] No such file or directory: 'gone.yaml'",
    ),
    Mistake(
        "train with a file of settings that has none",
        lambda: command("train f.pt --config file"),
        ValueError,
        "--config 'file' has 'mine'; settings are needed, as in: epochs: 80",
    ),
    Mistake(
        "train digits at another size",
        lambda: command("train f.pt --preset digits --size 16"),
        ValueError,
        "size=16 is possible for 'imagefolder' only; images of 'digits' have their own",
    ),
    Mistake(
        "train to where no file can be",
        lambda: command("train /proc/a.pt --preset cifar10 --root nowhere"),
        FileNotFoundError,
        "checkpoint '/proc/a.pt' cannot be written: No such file or directory",
    ),
    Mistake(
        "train with a setting without a value",
        lambda: command("train a.pt --set epochs"),
        ValueError,
        "--set 'epochs' is not allowed; KEY=VALUE is needed, e.g. --set epochs=10",
    ),
    Mistake(
        "train with a seed that is too large",
        lambda: command("train a.pt --set seed=18446744073709551616"),
        ValueError,
        "seed of 65 bits is not allowed; it must be < 2**64",
    ),
    Mistake(
        "train with a negative seed",
        lambda: preset("digits", seed=-1),
        ValueError,
        "seed=-1 is not allowed; it must be >= 0",
    ),
    Mistake(
        "train on more samples than there are",
        lambda: command("train a.pt --preset digits --n 5000"),
        ValueError,
        "--n 5000 is not allowed; the dataset has 1397 samples and at least 1 is needed",
    ),
    Mistake(
        "download into a file as if it were a folder",
        lambda: load_dataset("cifar10", "file", download=True),
        NotADirectoryError,
        "dataset 'file/cifar10' cannot be written: 'file' is not a directory",
    ),
    Mistake(
        "evaluate a checkpoint that is not there",
        lambda: command("evaluate none.pt"),
        FileNotFoundError,
        "checkpoint 'none.pt' does not exist",
    ),
    Mistake(
        "evaluate into a file as if it were a folder",
        lambda: command("evaluate a.pt --out file"),
        NotADirectoryError,
        "result file 'file/a.json' cannot be written: 'file' is not a directory",
    ),
    Mistake(
        "evaluate where a folder has the name of the report",
        lambda: command("evaluate b.pt"),
        IsADirectoryError,
        "report 'results/b.md' is a directory; a file is needed",
    ),
    Mistake(
        "evaluate with other attacks over a result",
        lambda: command("evaluate old.pt --out . --eps 0.1 --attacks pgd5"),
        FileExistsError,
        "result file 'old.json' holds another evaluation (old), with batch_size=None, not 128; overwrite it or choose "
        "another name",
    ),
    Mistake(
        "evaluate over a damaged result",
        lambda: (Path("halved.state.json").touch(), command("evaluate halved.pt --out .")),
        ValueError,
        "result file 'halved.json' is damaged or not one of part_plugin's",
    ),
    Mistake(
        "evaluate two checkpoints of one name",
        lambda: command("evaluate x/a.pt y/a.pt"),
        ValueError,
        "two checkpoints are called 'a'; their results would have the same name",
    ),
    Mistake(
        "evaluate a checkpoint whose results would be another file",
        lambda: command("evaluate comparison.pt a.pt"),
        ValueError,
        "a checkpoint called 'comparison' would have results named as other files are; rename it",
    ),
    Mistake(
        "evaluate with a seed that is too large",
        lambda: evaluate(NET, X, Y, seed=2**64),
        ValueError,
        "seed of 65 bits is not allowed; it must be < 2**64",
    ),
    Mistake(
        "evaluate with seeds that end too large",
        lambda: command("evaluate a.pt --seed 18446744073709551615 --seeds 2"),
        ValueError,
        "--seed of 65 bits is not allowed; it must be < 2**64",
    ),
    Mistake(
        "evaluate with no sample in a batch",
        lambda: command("evaluate a.pt --batch-size 0"),
        ValueError,
        "--batch-size=0 is not allowed; it must be >= 1",
    ),
    Mistake(
        "evaluate with 8 for 8/255",
        lambda: command("evaluate a.pt --eps 8"),
        ValueError,
        "eps='8' is not a radius; it must be in [0, 1], as a number or as in '8/255'",
    ),
    Mistake(
        "keep the state in a folder",
        lambda: evaluate(NET, X, Y, 0.1, ["natural"], state="results", verbose=False),
        IsADirectoryError,
        "state 'results' is a directory; a file is needed",
    ),
    Mistake(
        "go on from a state that is none",
        lambda: evaluate(NET, X, Y, 0.1, ["natural"], state="damaged.state.json", verbose=False),
        ValueError,
        "state 'damaged.state.json' is damaged or of another kind: 'bound_to' is missing; delete it",
    ),
    Mistake(
        "a name of two lines",
        lambda: evaluate(NET, X, Y, name="a\nb"),
        ValueError,
        "name='a\\nb' is not allowed; a line of text is needed",
    ),
    Mistake(
        "a name that is none",
        lambda: evaluate(NET, X, Y, name=5),
        TypeError,
        "name=5 is a int; a str is needed",
    ),
    Mistake(
        "save a result without a name",
        lambda: result().save(""),
        ValueError,
        "path='' has no name for result files; give one, as in results/name",
    ),
    Mistake(
        "save a result over another",
        lambda: result(eps=0.2).save("old"),
        FileExistsError,
        "result file 'old.json' holds another evaluation (old), with eps=0.1, not 0.2; overwrite it or choose another "
        "name",
    ),
    Mistake(
        "load a result that was edited",
        lambda: Evaluation.load("edited.json"),
        ValueError,
        "result file 'edited.json' is damaged: its accuracies are not those of its samples",
    ),
    Mistake(
        "load a result of another version",
        lambda: Evaluation.load("older.json"),
        ValueError,
        "result file 'older.json' has format 0; this version of part_plugin reads 1",
    ),
    Mistake(
        "load a result that is a picture",
        lambda: Evaluation.load("cat.png"),
        ValueError,
        "result file 'cat.png' is damaged or not one of part_plugin's",
    ),
    Mistake(
        "compare nothing",
        lambda: compare([]),
        ValueError,
        "evaluations is empty; at least one is needed",
    ),
    Mistake(
        "compare into a file as if it were a folder",
        lambda: command("compare old.json --out file/c"),
        NotADirectoryError,
        "table 'file/c.csv' cannot be written: 'file' is not a directory",
    ),
    Mistake(
        "compare over the report of a result",
        lambda: command("compare old.json --out old"),
        ValueError,
        "--out 'old' would replace 'old.json' or what belongs to it; choose another name",
    ),
    Mistake(
        "compare by an attack that was not evaluated",
        lambda: command("compare old.json --attack mma"),
        KeyError,
        "\"'mma' was not evaluated; there are ['natural']\"",
    ),
    Mistake(
        "compare results with something else",
        lambda: compare([result(), "old.json"]),
        TypeError,
        "evaluations holds a str; an Evaluation is needed",
    ),
    Mistake(
        "merge parts of which one is not evaluate's",
        lambda: merged([result(), Evaluation("mine", 0.1, 0, [], np.zeros(4, int))]),
        ValueError,
        "shards holds 'mine', whose card has no 'weights'; one of evaluate() is needed",
    ),
    Mistake(
        "merge a part with itself",
        lambda: merged([result(), result()]),
        ValueError,
        "shards hold the same samples twice; each part may be given once",
    ),
    Mistake(
        "explain into the picture",
        lambda: command("explain taken.pt cat.png --out cat.png"),
        ValueError,
        "--out 'cat.png' would replace 'cat.png' or what belongs to it; choose another name",
    ),
    Mistake(
        "explain into a folder",
        lambda: command("explain taken.pt cat.png --out e.png"),
        IsADirectoryError,
        "figure 'e.png' is a directory; a file is needed",
    ),
    Mistake(
        "explain a checkpoint without a picture",
        lambda: command("explain taken.pt"),
        ValueError,
        "at least one checkpoint (.pt) and one picture are needed",
    ),
    Mistake(
        "explain with eps_low above eps",
        lambda: command("explain taken.pt cat.png --eps 4/255 --eps-low 5/255"),
        ValueError,
        "eps_low=0.0196078 is larger than eps=0.0156863; it must be <= eps",
    ),
    Mistake(
        "corrupt with a seed that is too large",
        lambda: corrupted(torch.rand(1, 3, 32, 32), "fog", 1, 2**64),
        ValueError,
        "seed of 65 bits is not allowed; it must be < 2**64",
    ),
    Mistake(
        "a result of corruptions from something else",
        lambda: CorruptionResult.from_dict({"table": {}}),
        ValueError,
        "table={} is not a table of accuracies",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence(mistake):
    before = sorted(Path().rglob("*"))
    mistake.check()
    assert [path for path in sorted(Path().rglob("*")) if path.name != "halved.state.json"] == before
