"""Networks of other programs from the command line, and what the commands say of themselves."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import CLASSES, NETWORKS, RESNET, lived, logits, made_by_robustbench, made_by_timm, made_by_transformers
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from part_plugin import __version__, commands, save_checkpoint
from part_plugin.adapters.robustbench import normalize_model, robustbench
from part_plugin.cli_networks import Others, class_text, load_networks
from part_plugin.evaluation import Evaluation

PICTURES = ["--dataset", "imagefolder", "--root", "pictures", "--attacks", "natural,pgd2", "--out", "results"]
MEAN, STD = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A directory with pictures of four classes, 32x32."""
    monkeypatch.chdir(tmp_path)
    for label in range(CLASSES):
        (tmp_path / "pictures" / f"{label}").mkdir(parents=True)
        for number in range(3):
            noise = np.random.default_rng([label, number]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / f"{label}" / f"{number}.png")
    return tmp_path


def call(*arguments):
    """(exit code, stdout, stderr), a mistake as `part-plugin` tells it."""
    result = CliRunner().invoke(commands.app, [str(argument) for argument in arguments])
    error = result.exception
    return result.exit_code, result.stdout, result.stderr + ("" if isinstance(error, SystemExit | None) else str(error))


def options(architecture):
    given = ["--architecture", architecture]
    for name, value in NETWORKS[architecture][1].items():
        given += ["--argument", f"{name}={value}"]
    return given


def picture(path):
    return torch.tensor(np.asarray(Image.open(path)) / 255).float().permute(2, 0, 1)


def right(network, mean=None, std=None):
    """Which pictures a network gets right, straight from their files."""
    x = torch.stack([picture(f"pictures/{label}/{number}.png") for label in range(CLASSES) for number in range(3)])
    network = network if mean is None else normalize_model(network, mean, std)
    with torch.no_grad():
        return (logits(network.eval(), x).argmax(1) == torch.arange(CLASSES).repeat_interleave(3)).numpy()


def evaluated(*arguments):
    """The result of a command and what it printed."""
    code, told, errors = call("evaluate", *arguments, *PICTURES)
    assert code == 0, errors
    [path] = [path for path in Path("results").glob("*.json") if not path.name.endswith(".state.json")]
    return Evaluation.load(path), told, errors


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_state_dict_of_data_parallel(architecture, monkeypatch):
    """Weights under module. of a network of each library, normalised, as the library itself computes it."""
    network = lived(NETWORKS[architecture][0])
    torch.save(nn.DataParallel(network).state_dict(), "net.pt")
    given = [*options(architecture), "--num-classes", CLASSES, "--mean", "0.25,0.5,0.75", "--std", "0.5,0.25,0.125"]
    result, told, _ = evaluated("net.pt", *given)
    assert (result["natural"].correct == right(network, MEAN, STD)).all()
    known = f"net: {architecture}, {CLASSES} classes, 'module.' taken off the names"
    assert told.splitlines()[0] == f"{known}; it is not known how it was trained"
    assert (result.model, result.eps, [row.name for row in result.results]) == ("net", 8 / 255, ["natural", "pgd2"])
    assert str(result) in told


def test_a_function_beside_the_command():
    """In a process of its own, which finds a module in the directory in which the command is given."""
    code = "from torch import nn\n\ndef small(width):\n"
    code += f"    return nn.Sequential(nn.Conv2d(3, width, 32), nn.Flatten(), nn.Linear(width, {CLASSES}))\n"
    Path("nets_of_mine.py").write_text(code)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 32), nn.Flatten(), nn.Linear(5, CLASSES))
    torch.save(network.state_dict(), "net.pt")
    command = [Path(sys.executable).with_name("part-plugin"), "evaluate", "net.pt", "--argument", "width=5", *PICTURES]
    command += ["--architecture", "nets_of_mine:small"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("net: nets_of_mine:small, it is not known") is False
    assert done.stdout.startswith("net: nets_of_mine:small; it is not known how it was trained\n")
    assert (Evaluation.load("results/net.json")["natural"].correct == right(network)).all()


def test_a_model_of_robustbench(folder):
    torch.manual_seed(0)
    models = robustbench.model_zoo.models.model_dicts
    name = "Addepalli2021Towards_RN18"
    kinds = robustbench.model_zoo.enums
    network = models[kinds.BenchmarkDataset.cifar_10][kinds.ThreatModel.Linf][name]["model"]()
    path = folder / "zoo" / "cifar10" / "Linf" / f"{name}.pt"
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    result, told, errors = evaluated(f"robustbench:{name}", "--model-dir", "zoo", "--eps", "4/255")
    assert (result["natural"].correct == right(network)).all()
    assert result.model == name
    line = f"{name}: robustbench:cifar10/Linf/{name}, 10 classes; trained on cifar10 with eps = 8/255 (0.03137)"
    assert told.splitlines()[0] == line
    warning = f"eps = 4/255 (0.01569) is not that with which '{name}' was trained, 8/255 (0.03137)"
    assert f"part-plugin: warning: {warning}\n" in errors


def test_a_directory_of_the_hub_is_evaluated_and_explained():
    network = lived(made_by_transformers)
    network.config.id2label = dict(enumerate(["cat", "dog", "owl", "fox"]))
    network.save_pretrained("vit")
    result, _, _ = evaluated("vit")
    assert (result["natural"].correct == right(network)).all()
    code, told, errors = call("explain", "vit", "pictures/0/0.png", "--out", "e.png")
    assert code == 0, errors
    label = int(logits(network, picture("pictures/0/0.png")[None]).argmax())
    assert f"pictures/0/0.png: class {label} ({['cat', 'dog', 'owl', 'fox'][label]})\n" in told
    assert Path("e.png").is_file()


def test_ours_and_others_side_by_side():
    ours, theirs = lived(made_by_robustbench), lived(made_by_timm)
    arguments = {"width": 4, "num_classes": CLASSES}
    training = {"dataset": "imagefolder", "eps": "6/255"}
    save_checkpoint("ours.pt", ours, "resnet.ResNet18", CLASSES, arguments, training=training)
    torch.save(theirs.state_dict(), "theirs.pt")
    command = ["evaluate", "ours.pt", "theirs.pt", *options("timm:resnet10t"), *PICTURES[2:]]
    code, told, errors = call(*command)
    assert code == 0, errors
    assert told.splitlines()[0] == (
        f"ours: resnet.ResNet18, {CLASSES} classes; trained on imagefolder with eps = 6/255 (0.02353)"
    )
    for name, network in (("ours", ours), ("theirs", theirs)):
        result = Evaluation.load(f"results/{name}.json")
        assert result.eps == 6 / 255  # that of the first
        assert (result["natural"].correct == right(network)).all()
    assert "eps" not in errors
    code, told, errors = call(*command)  # goes on, and finds all of it done
    assert code == 0, errors
    assert call(*command, "--eps", "7/255")[2].endswith("not 0.027450980392156862; overwrite it or choose another name")


def test_a_radius_is_the_trained_one_unless_it_is_given():
    arguments = {"width": 4, "num_classes": CLASSES}
    for name, eps in (("a", 0.1), ("b", "0.2"), ("c", None), ("d", "much")):
        training = {} if eps is None else {"eps": eps}
        save_checkpoint(
            f"{name}.pt", lived(made_by_robustbench), "resnet.ResNet18", CLASSES, arguments, training=training
        )
    pictures = [*PICTURES[:4], "--attacks", "natural", "--out"]
    for number, (names, eps, radius, warned) in enumerate(
        (
            (["a"], None, 0.1, []),
            (["a"], "0.1", 0.1, []),
            (["c"], None, 8 / 255, []),
            (["c", "b"], None, 0.2, []),
            (["a", "b"], None, 0.1, ["b"]),
            (["a", "b", "c"], "8/255", 8 / 255, ["a", "b"]),
        )
    ):
        given = [] if eps is None else ["--eps", eps]
        code, _, errors = call("evaluate", *(f"{name}.pt" for name in names), *given, *pictures, f"out{number}")
        assert code == 0, errors
        assert Evaluation.load(f"out{number}/{names[0]}.json").eps == radius
        assert [name for name in "abc" if f"with which '{name}' was trained" in errors] == warned
    code, _, errors = call("evaluate", "d.pt", *pictures, "out")
    assert code != 0
    assert errors == "checkpoint 'd' was trained with eps='much'; a number from 0 to 1 is needed"


def test_guesses_are_warned_of():
    network = lived(made_by_timm)
    torch.save(network.state_dict(), "net.pt")
    given = ["net.pt", *options("timm:resnet10t")]
    result, told, _ = evaluated(*given)
    [warning] = result.warnings
    accuracy = 100 * right(network).mean()
    assert warning.startswith(f"the natural accuracy of {accuracy:.1f}% on 12 images is not told from guessing among 4")
    assert f"  warning: {warning}\n" in told
    code, told, errors = call("evaluate", *given, *PICTURES, "--quiet", "--overwrite")
    assert (code, told) == (0, "")
    assert errors == f"part-plugin: warning: net: {warning}\n"


def test_quiet_prints_nothing(caplog):
    save_checkpoint(
        "a.pt", lived(made_by_robustbench), "resnet.ResNet18", CLASSES, {"width": 4, "num_classes": CLASSES}
    )
    assert call("explain", "a.pt", "pictures/0/0.png", "--quiet", "--out", "e.png") == (0, "", "")
    code, told, _ = call("evaluate", "a.pt", *PICTURES, "--quiet", "--seeds", 2)
    assert (code, told) == (0, "")
    results = ["results/a-seed0.json", "results/a-seed1.json"]
    assert call("compare", *results, "--quiet", "--out", "c") == (0, "", "")
    assert Path("c.md").is_file()
    assert Path("results/comparison.png").is_file()
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


def test_the_version_and_the_exit_codes():
    assert call("--version") == (0, f"part-plugin {__version__}\n", "")
    code, told, _ = call("--help")
    assert code == 0
    for number in (0, 1, 2, 130, 143):
        assert f"{number}," in " ".join(told.split("Exit codes:")[1].split())
    for command in ("evaluate", "explain", "compare"):
        assert "--quiet" in call(command, "--help")[1]
    for command in ("evaluate", "explain"):
        assert "Nothing is downloaded" in " ".join(call(command, "--help")[1].split())


def test_no_trace_of_the_search_for_modules(folder):
    torch.save(lived(made_by_timm).state_dict(), "net.pt")
    before = list(sys.path)
    others = Others(
        "timm:resnet10t", [f"channels={RESNET['channels']}", "stem_width=8"], None, None, None, None, folder
    )
    assert list(load_networks([Path("net.pt")], others)) == ["net"]
    assert sys.path == before
    assert os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD") is None


def test_names_of_classes_are_data():
    names = {"training": {"class_names": ["cat", "\x1b[31m", 5]}}
    assert [class_text(names, number) for number in range(4)] == ["0 (cat)", "1", "2 (5)", "3"]
    assert class_text({"training": {"class_names": "cats"}}, 0) == class_text({"training": {}}, 0) == "0"
