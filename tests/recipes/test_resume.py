"""A resume file is checked in full: what does not fit is one sentence, and nothing is trained or changed."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from part_plugin import load_checkpoint
from part_plugin.recipes import training
from part_plugin.recipes.datasets import load_dataset
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

SETTINGS = {"epochs": 4, "burn_in": 1, "milestones": [2], "steps": 1, "mask_every": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(dataset, state of a run stopped after three of four epochs, weights of the run that was not)."""
    dataset = Subset(load_dataset("digits", "", "train"), range(70))  # three batches
    folder = tmp_path_factory.mktemp("run")
    write = training.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        if content["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "write_tensors", dying)
        with pytest.raises(KeyboardInterrupt):
            train(preset("digits", **SETTINGS), dataset, folder / "a.pt", verbose=False)
    train(preset("digits", **SETTINGS), dataset, folder / "whole.pt", verbose=False)
    state = torch.load(folder / "a.pt.resume", weights_only=True)
    return dataset, state, load_checkpoint(folder / "whole.pt")[0].state_dict()


def put(*keys):
    """A change that puts a value at a place in the state."""

    def change(state, value):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def drop(*keys):
    def change(state, _):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


MOMENT = ("optimizer", "state", 0, "momentum_buffer")
GROUP = ("optimizer", "param_groups", 0)
WRONG = {  # name -> change, value, sentence
    "no optimizer": (drop("optimizer"), None, "of another kind: 'optimizer' is missing"),
    "optimizer a list": (put("optimizer"), [], "of another kind: 'optimizer' is a list; dict is needed"),
    "optimizer empty": (put("optimizer"), {}, "its optimizer lacks its group of parameters"),
    "two groups": (put("optimizer", "param_groups"), [{}, {}], "its optimizer lacks its group of parameters"),
    "group a list": (put("optimizer", "param_groups"), [[]], "its optimizer lacks its group of parameters"),
    "no moments": (put("optimizer", "state"), {}, "its optimizer lacks its state"),
    "moments a list": (put("optimizer", "state"), [1], "its optimizer lacks its state"),
    "moment a number": (put("optimizer", "state", 0), 1.0, "its optimizer has 1.0 for parameter 0"),
    "moment of more": (put("optimizer", "state", 0, "step"), 1, "for parameter 0"),
    "moment none": (put(*MOMENT), None, "0 of its optimizer is None; float32 (8, 3, 3, 3) is needed"),
    "moment shape": (put(*MOMENT), torch.ones(2), "0 of its optimizer is float32 (2,); float32 (8, 3, 3, 3)"),
    "moment dtype": (put(*MOMENT), torch.ones(8, 3, 3, 3).double(), "is float64 (8, 3, 3, 3); float32"),
    "moment unknown": (put("optimizer", "state", 99), {"momentum_buffer": torch.ones(1)}, "99, which is not known"),
    "moment name": (put("optimizer", "state", "x"), {"momentum_buffer": torch.ones(1)}, "'x', which is not known"),
    "moment not finite": (
        put(*MOMENT),
        torch.full((8, 3, 3, 3), torch.nan),
        "0 of its optimizer has values that are not",
    ),
    "model not finite": (
        put("model", "fc.bias"),
        torch.full((10,), torch.inf),
        "'fc.bias' of its model has values that",
    ),
    "lr too large": (put(*GROUP, "lr"), 0.05, "lr=0.05 of its optimizer is not 0.005, which epoch 3 ends with"),
    "lr not finite": (put(*GROUP, "lr"), torch.nan, "lr=nan of its optimizer is not 0.005, which epoch 3 ends with"),
    "no lr": (drop(*GROUP, "lr"), None, "its optimizer lacks 'lr'"),
    "lr text": (put(*GROUP, "lr"), "0.1", "lr='0.1' of its optimizer is not allowed"),
    "lr tensor": (put(*GROUP, "lr"), torch.ones(2), "lr=a Tensor of its optimizer is not allowed"),
    "momentum": (put(*GROUP, "momentum"), 0.5, "momentum=0.5 of its optimizer is not 0.9"),
    "momentum tensor": (put(*GROUP, "momentum"), torch.ones(2), "momentum=a Tensor of its optimizer is not 0.9"),
    "nesterov": (put(*GROUP, "nesterov"), True, "nesterov=True of its optimizer is not False"),
    "params": (put(*GROUP, "params"), [0], "params=[0] of its optimizer is not [0, 1, 2"),
    "model shape": (put("model", "fc.bias"), torch.ones(9), "'fc.bias' of its model is float32 (9,); float32 (10,)"),
    "model text": (put("model", "fc.bias"), "x", "'fc.bias' of its model is 'x'; float32 (10,) is needed"),
    "model less": (drop("model", "fc.bias"), None, "its model lacks 'fc.bias'"),
    "model more": (put("model", "more"), torch.ones(1), "its model has 'more', which is not known"),
    "no schedule": (drop("schedule"), None, "of another kind: 'schedule' is missing"),
    "schedule empty": (put("schedule"), {}, "its schedule lacks 'milestones'"),
    "milestones": (put("schedule", "milestones"), {3: 1}, "milestones={3: 1} of its schedule is not"),
    "schedule behind": (put("schedule", "last_epoch"), 2, "last_epoch=2 of its schedule is not 3"),
    "schedule lr": (put("schedule", "_last_lr"), ["x"], "_last_lr=['x'] of its schedule is not allowed"),
    "epoch text": (put("epoch"), "3", "of another kind: 'epoch' is a str; int is needed"),
    "epoch true": (put("epoch"), True, "of another kind: 'epoch' is a bool; int is needed"),
    "epoch zero": (put("epoch"), 0, "epoch=0 is not one of 1 to 4"),
    "epoch beyond": (put("epoch"), 5, "epoch=5 is not one of 1 to 4"),
    "epoch before": (put("epoch"), 2, "its history has 3 epochs, not 2"),
    "history": (put("history"), [], "its history has 0 epochs, not 3"),
    "record": (put("history", 1), "x", "record 2 of its history is 'x'"),
    "record number": (put("history", 1, "epoch"), 3, "record 2 of its history is {'epoch': 3"),
    "record text": (put("history", 2, "loss"), "0.1", "record 3 of its history is {'epoch': 3, 'loss': '0.1'"),
    "record less": (drop("history", 0, "lr"), None, "record 1 of its history is {'epoch': 1"),
    "record key": (put("history", 0, 5), 1.0, "record 1 of its history is {'epoch': 1"),
    "no part": (put("part"), {}, "step=None is not 9, 3 epochs of 3 batches"),
    "step": (put("part", "step"), 8, "step=8 is not 9, 3 epochs of 3 batches"),
    "step text": (put("part", "step"), "9", "step='9' is not 9, 3 epochs of 3 batches"),
    "since": (put("part", "masks_since"), 1, "masks_since=1 is not 0"),
    "since none": (drop("part", "masks_since"), None, "masks_since='missing' is not 0"),
    "mask keys": (put("part", "mask_keys"), [1], "mask_keys=[1] are not the numbers of samples"),
    "mask keys float": (put("part", "mask_keys"), torch.ones(70), "mask_keys=a Tensor are not the numbers of samples"),
    "mask keys less": (put("part", "mask_keys"), torch.arange(69), "masks of 69 samples are there, not of each of 70"),
    "mask keys twice": (put("part", "mask_keys"), torch.zeros(70).long(), "masks of 70 samples are there, not of each"),
    "masks less": (put("part", "masks"), torch.zeros(69, 8).byte(), "its masks are not 70 of 8 bytes"),
    "masks wide": (put("part", "masks"), torch.zeros(70, 9).byte(), "its masks are not 70 of 8 bytes"),
    "masks bool": (put("part", "masks"), torch.zeros(70, 8).bool(), "its masks are not 70 of 8 bytes"),
    "masks text": (put("part", "masks"), "x", "its masks are not 70 of 8 bytes"),
    "mask size": (put("part", "mask_size"), (4, 16), "mask_size=(4, 16) is not (8, 8)"),
    "settings tensor": (put("settings", "lr"), torch.ones(2), "its settings are not plain data"),
    "settings key": (put("settings", 5), 1, "its settings are not plain data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told(tmp_path, run, monkeypatch, name):
    dataset, state, _ = run
    change, value, sentence = WRONG[name]
    state = copy.deepcopy(state)
    change(state, value)
    resume = tmp_path / "a.pt.resume"
    torch.save(state, resume)
    kept = resume.read_bytes()
    monkeypatch.setattr(training._Run, "train_epoch", lambda *given: pytest.fail("it was trained"))
    with pytest.raises(ValueError) as caught:
        train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False)
    text = str(caught.value)
    assert text.startswith(f"resume file '{resume}' is damaged")
    assert sentence in text
    assert text.endswith("; remove it to begin anew")
    assert text.isprintable()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [kept]


@pytest.mark.parametrize("change", [None, "no mask size", "unknown of schedule", "no foreach", "shared memory"])
def test_what_other_versions_wrote_goes_on(tmp_path, run, change):
    """Bit for bit; what this torch's schedule does not know is left out, as it would become an attribute of it."""
    dataset, state, whole = run
    state = copy.deepcopy(state)
    if change == "no mask size":
        del state["part"]["mask_size"]
    elif change == "unknown of schedule":
        state["schedule"] |= {"verbose": False, "optimizer": "x", "step": "y"}
    elif change == "no foreach":
        del state["optimizer"]["param_groups"][0]["foreach"]
    elif change == "shared memory":  # buffers that SGD could not write to, or would write to twice
        buffers = [one["momentum_buffer"] for one in state["optimizer"]["state"].values()]
        whole_buffer = torch.cat([buffer.flatten() for buffer in buffers])
        parts = whole_buffer.split([buffer.numel() for buffer in buffers])
        for moment, buffer, part in zip(state["optimizer"]["state"].values(), buffers, parts, strict=True):
            moment["momentum_buffer"] = nn.Parameter(part.view(buffer.shape))
    torch.save(state, tmp_path / "a.pt.resume")
    train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False)
    loaded = load_checkpoint(tmp_path / "a.pt")[0].state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "a.pt.jsonl"]


def test_without_momentum_there_is_nothing_to_keep(tmp_path, run, monkeypatch):
    dataset = run[0]
    settings = preset("digits", **(SETTINGS | {"momentum": 0.0, "mask_every": 1}))
    train(settings, dataset, tmp_path / "whole.pt", verbose=False)
    write = training.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        raise KeyboardInterrupt

    for _ in range(settings.epochs):
        monkeypatch.setattr(training, "write_tensors", dying)
        with pytest.raises(KeyboardInterrupt):
            train(settings, dataset, tmp_path / "a.pt", verbose=False)
    monkeypatch.undo()
    train(settings, dataset, tmp_path / "a.pt", verbose=False)
    one, other = (load_checkpoint(tmp_path / name)[0].state_dict() for name in ("a.pt", "whole.pt"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_buffer_of_one_value_is_one(tmp_path, run):
    """SGD could not write to a tensor whose values are one in memory."""
    dataset, state, _ = run
    state = copy.deepcopy(state)
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1).expand(8, 3, 3, 3)
    torch.save(state, tmp_path / "a.pt.resume")
    train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False)
    state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(8, 3, 3, 3)
    torch.save(state, tmp_path / "b.pt.resume")
    train(preset("digits", **SETTINGS), dataset, tmp_path / "b.pt", verbose=False)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_killed_between_the_checkpoint_and_the_end(tmp_path, run, monkeypatch):
    """PATH and PATH.resume are there: the same again removes the second, unless PATH is something else."""
    dataset, _, whole = run
    path, resume = tmp_path / "a.pt", tmp_path / "a.pt.resume"
    write = training.write_tensors
    monkeypatch.setattr(training, "write_tensors", lambda *given: write(*given) or kept.append(resume.read_bytes()))
    kept = []
    train(preset("digits", **SETTINGS), dataset, path, verbose=False)
    written = path.read_bytes()
    resume.write_bytes(kept[-1])
    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "train_epoch", lambda *given: pytest.fail("it was trained"))
        trained = train(preset("digits", **SETTINGS), dataset, path, verbose=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "a.pt.jsonl"]
    assert path.read_bytes() == written
    assert all(torch.equal(value, whole[name]) for name, value in trained.state_dict().items())
    assert not trained.training
    for content in (kept[0], kept[-1]):  # of an earlier epoch, and with a checkpoint that is another
        resume.write_bytes(content)
        if content is kept[-1]:
            train(preset("digits", **SETTINGS | {"seed": 1}), dataset, tmp_path / "other.pt", verbose=False)
            path.write_bytes((tmp_path / "other.pt").read_bytes())
        before = path.read_bytes()
        with pytest.raises(FileExistsError, match="exists already; choose another name or remove it"):
            train(preset("digits", **SETTINGS), dataset, path, verbose=False)
        assert (path.read_bytes(), resume.read_bytes()) == (before, content)
