"""A resume file is checked in full: what does not fit is one sentence, and nothing is trained or changed."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from part_plugin import load_checkpoint
from part_plugin.recipes import keeping
from part_plugin.recipes.datasets import load_dataset
from part_plugin.recipes.presets import preset
from part_plugin.recipes.records import Records
from part_plugin.recipes.training import train

SETTINGS = {"epochs": 4, "burn_in": 1, "milestones": [2], "steps": 1, "mask_every": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(dataset, state of a run stopped after three of four epochs, weights of the run that was not)."""
    dataset = Subset(load_dataset("digits", "", "train"), range(70))  # three batches
    folder = tmp_path_factory.mktemp("run")
    write = keeping.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        if content["done"] == [3, 0]:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeping, "write_tensors", dying)
        with pytest.raises(KeyboardInterrupt):
            train(preset("digits", **SETTINGS), dataset, folder / "a.pt", verbose=False)
    train(preset("digits", **SETTINGS), dataset, folder / "whole.pt", verbose=False)
    state = torch.load(folder / "a.pt.run" / "resume.ckpt", weights_only=True)
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


MOMENT = ("optimizer_states", 0, "state", 0, "momentum_buffer")
GROUP = ("optimizer_states", 0, "param_groups", 0)
PART = ("callbacks", "MasksOf")
RECORDS = ("callbacks", "Records")
HISTORY = (*RECORDS, "history")
LOOP = ("loops", "fit_loop")
WRONG = {  # name -> change, value, sentence
    "no optimizer": (drop("optimizer_states"), None, "of another kind: 'optimizer_states' is missing"),
    "optimizer a list": (put("optimizer_states"), {}, "of another kind: 'optimizer_states' is a dict; list is needed"),
    "optimizer empty": (put("optimizer_states", 0), {}, "its optimizer lacks its group of parameters"),
    "two groups": (put("optimizer_states", 0, "param_groups"), [{}, {}], "its optimizer lacks its group of parameters"),
    "group a list": (put("optimizer_states", 0, "param_groups"), [[]], "its optimizer lacks its group of parameters"),
    "no moments": (put("optimizer_states", 0, "state"), {}, "its optimizer lacks its state"),
    "moments a list": (put("optimizer_states", 0, "state"), [1], "its optimizer lacks its state"),
    "moment a number": (put("optimizer_states", 0, "state", 0), 1.0, "its optimizer has 1.0 for parameter 0"),
    "moment of more": (put("optimizer_states", 0, "state", 0, "step"), 1, "for parameter 0"),
    "moment none": (put(*MOMENT), None, "0 of its optimizer is None; float32 (8, 3, 3, 3) is needed"),
    "moment shape": (put(*MOMENT), torch.ones(2), "0 of its optimizer is float32 (2,); float32 (8, 3, 3, 3)"),
    "moment dtype": (put(*MOMENT), torch.ones(8, 3, 3, 3).double(), "is float64 (8, 3, 3, 3); float32"),
    "moment unknown": (
        put("optimizer_states", 0, "state", 99),
        {"momentum_buffer": torch.ones(1)},
        "99, which is not known",
    ),
    "moment name": (
        put("optimizer_states", 0, "state", "x"),
        {"momentum_buffer": torch.ones(1)},
        "'x', which is not known",
    ),
    "moment not finite": (
        put(*MOMENT),
        torch.full((8, 3, 3, 3), torch.nan),
        "0 of its optimizer has values that are not",
    ),
    "model not finite": (
        put("state_dict", "network.fc.bias"),
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
    "model shape": (
        put("state_dict", "network.fc.bias"),
        torch.ones(9),
        "'fc.bias' of its model is float32 (9,); float32 (10,)",
    ),
    "model text": (put("state_dict", "network.fc.bias"), "x", "'fc.bias' of its model is 'x'; float32 (10,) is needed"),
    "model less": (drop("state_dict", "network.fc.bias"), None, "its model lacks 'fc.bias'"),
    "model more": (put("state_dict", "network.more"), torch.ones(1), "its model has 'more', which is not known"),
    "no schedule": (drop("lr_schedulers"), None, "of another kind: 'lr_schedulers' is missing"),
    "schedule empty": (put("lr_schedulers", 0), {}, "its schedule lacks 'milestones'"),
    "milestones": (put("lr_schedulers", 0, "milestones"), {3: 1}, "milestones={3: 1} of its schedule is not"),
    "schedule behind": (put("lr_schedulers", 0, "last_epoch"), 2, "last_epoch=2 of its schedule is not 3"),
    "schedule lr": (put("lr_schedulers", 0, "_last_lr"), ["x"], "_last_lr=['x'] of its schedule is not allowed"),
    "epoch text": (put("epoch"), "3", "of another kind: 'epoch' is a str; int is needed"),
    "epoch true": (put("epoch"), True, "of another kind: 'epoch' is a bool; int is needed"),
    "done of none": (put("done"), [0, 0], "done=[0, 0] are not numbers of epochs and of batches, of 3"),
    "done of one": (put("done"), [3], "done=[3] are not numbers of epochs and of batches, of 3"),
    "done text": (put("done", 0), "3", "done=['3', 0] are not numbers of epochs and of batches, of 3"),
    "done beyond": (put("done", 1), 3, "done=[3, 3] are not numbers of epochs and of batches, of 3"),
    "done before": (put("done", 0), 2, "its loops are not where 2 epochs of 3 batches and 0 more end"),
    "loop batches": (
        put(*LOOP, "epoch_loop.batch_progress", "total", "processed"),
        8,
        "its loops are not where 3 epochs of 3 batches and 0 more end",
    ),
    "loop epochs": (put(*LOOP, "epoch_progress", "current", "processed"), 2, "its loops are not where 3 epochs"),
    "loader": (put(*LOOP, "state_dict", "combined_loader", 0, "given"), 1, "its loops are not where 3 epochs"),
    "loop text": (put(*LOOP, "epoch_progress", "total", "ready"), "x", "'x' of its loops is no count"),
    "loop less": (drop(*LOOP, "epoch_progress"), None, "its loops lack 'epoch_progress'"),
    "two schedules": (put("lr_schedulers"), [{}, {}], "its lr_schedulers are not one"),
    "no records": (drop(*RECORDS), None, "its callbacks lack 'Records'"),
    "sums": (put(*RECORDS, "sums"), [1.0], "sums=[1.0] and seconds="),
    "seconds": (put(*RECORDS, "seconds"), "x", "and seconds='x' of its records are not numbers"),
    "history text": (put(*HISTORY), "x", "its history is 'x'"),
    "history": (put(*HISTORY), [], "its history has 0 epochs, not 3"),
    "record": (put(*HISTORY, 1), "x", "record 2 of its history is 'x'"),
    "record number": (put(*HISTORY, 1, "epoch"), 3, "record 2 of its history is {'epoch': 3"),
    "record text": (put(*HISTORY, 2, "loss"), "0.1", "record 3 of its history is {'epoch': 3, 'loss': '0.1'"),
    "record less": (drop(*HISTORY, 0, "lr"), None, "record 1 of its history is {'epoch': 1"),
    "record key": (put(*HISTORY, 0, 5), 1.0, "record 1 of its history is {'epoch': 1"),
    "no part": (put(*PART), {}, "step=None is not 9, 3 epochs of 3 batches"),
    "step": (put(*PART, "step"), 8, "step=8 is not 9, 3 epochs of 3 batches"),
    "step text": (put(*PART, "step"), "9", "step='9' is not 9, 3 epochs of 3 batches"),
    "since": (put(*PART, "masks_since"), 1, "masks_since=1 is not 0"),
    "since none": (drop(*PART, "masks_since"), None, "masks_since='missing' is not 0"),
    "mask keys": (put(*PART, "mask_keys"), [1], "mask_keys=[1] are not the numbers of samples"),
    "mask keys float": (put(*PART, "mask_keys"), torch.ones(70), "mask_keys=a Tensor are not the numbers of samples"),
    "mask keys less": (put(*PART, "mask_keys"), torch.arange(69), "masks of 69 samples are there, not of each of 70"),
    "mask keys twice": (put(*PART, "mask_keys"), torch.zeros(70).long(), "masks of 70 samples are there, not of each"),
    "masks less": (put(*PART, "masks"), torch.zeros(69, 8).byte(), "its masks are not 70 of 8 bytes"),
    "masks wide": (put(*PART, "masks"), torch.zeros(70, 9).byte(), "its masks are not 70 of 8 bytes"),
    "masks bool": (put(*PART, "masks"), torch.zeros(70, 8).bool(), "its masks are not 70 of 8 bytes"),
    "masks text": (put(*PART, "masks"), "x", "its masks are not 70 of 8 bytes"),
    "mask size": (put(*PART, "mask_size"), (4, 16), "mask_size=(4, 16) is not (8, 8)"),
    "settings tensor": (put("settings", "lr"), torch.ones(2), "its settings are not plain data"),
    "settings key": (put("settings", 5), 1, "its settings are not plain data"),
}


def saved(state, path):
    """The resume file of a checkpoint, with this state."""
    resume = path.with_name(f"{path.name}.run") / "resume.ckpt"
    resume.parent.mkdir(exist_ok=True)
    torch.save(state, resume)
    return resume


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told(tmp_path, run, monkeypatch, name):
    dataset, state, _ = run
    change, value, sentence = WRONG[name]
    state = copy.deepcopy(state)
    change(state, value)
    resume = saved(state, tmp_path / "a.pt")
    kept = resume.read_bytes()
    monkeypatch.setattr(Records, "on_train_batch_start", lambda *given: pytest.fail("it was trained"))
    with pytest.raises(ValueError) as caught:
        train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False)
    text = str(caught.value)
    assert text.startswith(f"resume file '{resume}' is damaged")
    assert sentence in text
    assert text.endswith("; remove it to begin anew")
    assert text.isprintable()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [resume]
    assert resume.read_bytes() == kept


@pytest.mark.parametrize("change", [None, "no mask size", "unknown of schedule", "no foreach", "shared memory"])
def test_what_other_versions_wrote_goes_on(tmp_path, run, change):
    """Bit for bit; what this torch's schedule does not know is left out, as it would become an attribute of it."""
    dataset, state, whole = run
    state = copy.deepcopy(state)
    if change == "no mask size":
        del state["callbacks"]["MasksOf"]["mask_size"]
    elif change == "unknown of schedule":
        state["lr_schedulers"][0] |= {"verbose": False, "optimizer": "x", "step": "y"}
    elif change == "no foreach":
        del state["optimizer_states"][0]["param_groups"][0]["foreach"]
    elif change == "shared memory":  # buffers that SGD could not write to, or would write to twice
        buffers = [one["momentum_buffer"] for one in state["optimizer_states"][0]["state"].values()]
        whole_buffer = torch.cat([buffer.flatten() for buffer in buffers])
        parts = whole_buffer.split([buffer.numel() for buffer in buffers])
        for moment, buffer, part in zip(state["optimizer_states"][0]["state"].values(), buffers, parts, strict=True):
            moment["momentum_buffer"] = nn.Parameter(part.view(buffer.shape))
    saved(state, tmp_path / "a.pt")
    train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False)
    loaded = load_checkpoint(tmp_path / "a.pt")[0].state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "a.pt.run"]


def test_without_momentum_there_is_nothing_to_keep(tmp_path, run, monkeypatch):
    dataset = run[0]
    settings = preset("digits", **(SETTINGS | {"momentum": 0.0, "mask_every": 1}))
    train(settings, dataset, tmp_path / "whole.pt", verbose=False)
    write = keeping.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        raise KeyboardInterrupt

    for _ in range(settings.epochs):
        monkeypatch.setattr(keeping, "write_tensors", dying)
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
    state["optimizer_states"][0]["state"][0]["momentum_buffer"] = torch.zeros(1).expand(8, 3, 3, 3)
    saved(state, tmp_path / "a.pt")
    train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False)
    state["optimizer_states"][0]["state"][0]["momentum_buffer"] = torch.zeros(8, 3, 3, 3)
    saved(state, tmp_path / "b.pt")
    train(preset("digits", **SETTINGS), dataset, tmp_path / "b.pt", verbose=False)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_more_epochs_are_those_of_a_longer_training(tmp_path, run):
    """Bit for bit; a training that has all of its epochs is refused, and so is a checkpoint of another."""
    dataset, _, whole = run
    path = tmp_path / "a.pt"
    train(preset("digits", **SETTINGS | {"epochs": 2}), dataset, path, verbose=False)
    written = path.read_bytes()
    with pytest.raises(FileExistsError) as caught:
        train(preset("digits", **SETTINGS | {"epochs": 2}), dataset, path, verbose=False)
    assert str(caught.value) == (
        f"checkpoint '{path}' exists already; its training with epochs=2 has ended: set more to go on, or choose "
        "another name or remove it"
    )
    train(preset("digits", **SETTINGS | {"seed": 1, "epochs": 2}), dataset, tmp_path / "other.pt", verbose=False)
    path.write_bytes((tmp_path / "other.pt").read_bytes())
    with pytest.raises(FileExistsError, match="exists already; choose another name or remove it$"):
        train(preset("digits", **SETTINGS), dataset, path, verbose=False)
    path.write_bytes(written)
    train(preset("digits", **SETTINGS), dataset, path, verbose=False)
    loaded = load_checkpoint(path)[0].state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items())
    with pytest.raises(ValueError, match=r"is of epoch 4, beyond epochs=3; remove it to begin anew$"):
        train(preset("digits", **SETTINGS | {"epochs": 3}), dataset, path, verbose=False)


def test_in_the_middle_of_an_epoch(tmp_path, run, monkeypatch):
    """After every batch, also one of burn-in, and with masks that are kept: the same weights, and the same log."""
    dataset = run[0]
    options = {"held_out": 0.3, "verbose": False}
    train(preset("digits", **SETTINGS), dataset, tmp_path / "whole.pt", **options)
    keep, at = keeping.Keeper._keep, 1
    while True:
        writes = []

        def dying(keeper, trainer, writes=writes, at=at):
            keep(keeper, trainer)
            writes.append(keeper.kept)
            if len(writes) == at:
                raise KeyboardInterrupt

        path = tmp_path / f"{at}.pt"
        with monkeypatch.context() as patch:
            patch.setattr(keeping.Keeper, "_keep", dying)
            try:
                train(preset("digits", **SETTINGS), dataset, path, keep_every=1, **options)
                break
            except KeyboardInterrupt as stop:
                told = str(stop)
        epoch, batch = writes[-1]
        assert told.endswith(
            f" to go on after batch {batch} of epoch {epoch + 1}" if batch else f" after epoch {epoch}"
        )
        torch.manual_seed(at)
        train(preset("digits", **SETTINGS), dataset, path, **options)
        assert path.read_bytes() == (tmp_path / "whole.pt").read_bytes(), at
        logs = [
            [line.rpartition(",")[0] for line in (tmp_path / f"{name}.pt.run" / "log.csv").read_text().splitlines()]
            for name in (at, "whole")
        ]
        assert logs[0] == logs[1]
        assert (tmp_path / f"{at}.best.pt").read_bytes() == (tmp_path / "whole.best.pt").read_bytes()
        at += 1
    assert at > 8


def test_patience_ends_a_training(tmp_path, run, monkeypatch):
    """After so many epochs without a better one; its end is an end, until there are more epochs."""
    accuracies = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    seen = Records.on_train_epoch_end

    def told(records, trainer, module):
        trainer.callback_metrics["val_pgd10"] = torch.tensor(next(accuracies))
        seen(records, trainer, module)

    monkeypatch.setattr(Records, "on_train_epoch_end", told)
    settings, options = SETTINGS | {"epochs": 9}, {"held_out": 0.3, "patience": 2, "verbose": False}
    train(preset("digits", **settings), run[0], tmp_path / "a.pt", **options)
    assert next(accuracies) == 0.9
    assert load_checkpoint(tmp_path / "a.pt")[1]["training"]["epoch"] == 4
    assert load_checkpoint(tmp_path / "a.best.pt")[1]["training"]["epoch"] == 2
    with pytest.raises(FileExistsError, match="its training with epochs=9 has ended: set more to go on"):
        train(preset("digits", **settings), run[0], tmp_path / "a.pt", **options)
