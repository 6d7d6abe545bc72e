"""`train`: from settings to a checkpoint, resumable to the bit."""

import json

import pytest
import torch
from torch.utils.data import Subset

from part_plugin import PixelBudget, evaluate, load_checkpoint
from part_plugin.recipes import training
from part_plugin.recipes.augmentation import augmentation
from part_plugin.recipes.datasets import as_tensors, load_dataset
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

QUICK = {"epochs": 3, "burn_in": 1, "milestones": [2], "steps": 2}


@pytest.fixture(scope="module")
def digits_set():
    return Subset(load_dataset("digits", "", "train"), range(160))


def weights(path):
    return load_checkpoint(path)[0].state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_that_resists_comes_out(tmp_path):
    """Better than chance under PGD, in a format that loads; the record has a line per epoch."""
    settings = preset("digits", eps=0.1, eps_low=0.0875, alpha=0.025, epochs=6, burn_in=2, milestones=[5])
    path = tmp_path / "ck" / "part.pt"
    model = train(settings, Subset(load_dataset("digits", "", "train"), range(1200)), path, verbose=False)
    assert not model.training
    assert sorted(file.name for file in path.parent.iterdir()) == ["part.pt", "part.pt.jsonl"]
    loaded, description = load_checkpoint(path)
    assert same(loaded.state_dict(), model.state_dict())
    assert description["training"]["eps_low"] == 0.0875
    assert description["training"]["image_shape"] == [3, 8, 8]
    lines = [json.loads(line) for line in (tmp_path / "ck" / "part.pt.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["lr"] for line in lines] == pytest.approx([0.05] * 5 + [0.005])
    assert lines[-1]["loss"] < lines[0]["loss"]
    x, y = as_tensors(load_dataset("digits", ""), 200)
    result = evaluate(loaded, x, y, 0.1, ["natural", "pgd10"], verbose=False)
    assert result["natural"].accuracy > 0.5
    assert result["pgd10"].accuracy > 0.2


@pytest.mark.parametrize("changes", [{}, {"mask_every": 2, "epochs": 4}, {"objective": "trades", "attack": "mma"}])
def test_stopped_and_resumed_is_not_stopped(tmp_path, digits_set, monkeypatch, changes):
    settings = preset("digits", **(QUICK | changes))
    state = torch.random.get_rng_state()
    train(settings, digits_set, tmp_path / "whole.pt", verbose=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    write = training.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        if content["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_tensors", dying)
    path = tmp_path / "stopped.pt"
    with pytest.raises(KeyboardInterrupt):
        train(settings, digits_set, path, verbose=False)
    assert not path.exists()
    monkeypatch.undo()
    torch.manual_seed(77)
    train(settings, digits_set, path, verbose=False)
    assert same(weights(path), weights(tmp_path / "whole.pt"))
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "stopped.pt.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, settings.epochs + 1))


def test_masks_are_made_of_unmoved_images_and_move(tmp_path, digits_set, monkeypatch):
    """With crops and a mask every 2 epochs the network is asked for maps of the plain images alone."""
    mapped = []
    look = PixelBudget.weights
    monkeypatch.setattr(PixelBudget, "weights", lambda self, model, x, y: mapped.append(x) or look(self, model, x, y))
    settings = preset("digits", **(QUICK | {"mask_every": 2, "epochs": 5}))
    train(settings, digits_set, tmp_path / "a.pt", verbose=False, transform=augmentation("svhn", (8, 8)))
    plain = as_tensors(digits_set)[0]
    assert torch.equal(torch.cat(mapped), torch.cat([plain, plain]))  # epochs 1 and 3 of 0 to 4, 0 being burn-in


def test_the_seed_decides(tmp_path, digits_set):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(preset("digits", seed=seed, **QUICK), digits_set, tmp_path / f"{name}.pt", verbose=False)
    a, b, c = (weights(tmp_path / f"{name}.pt") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_nothing_is_overwritten_or_mixed(tmp_path, digits_set, monkeypatch):
    path = tmp_path / "a.pt"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists already; choose another name or remove it"):
        train(preset("digits", **QUICK), digits_set, path, verbose=False)
    assert path.read_text() == "mine"
    path.unlink()
    write = training.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_tensors", dying)
    with pytest.raises(KeyboardInterrupt):
        train(preset("digits", **QUICK), digits_set, path, verbose=False)
    kept = (tmp_path / "a.pt.resume").read_bytes()
    for changes, what in (({"lr": 0.01}, "its lr is 0.05, not 0.01"), ({"eps_low": 0.1}, "its eps_low is 0.175")):
        with pytest.raises(ValueError, match=f"belongs to another training: {what}"):
            train(preset("digits", **(QUICK | changes)), digits_set, path, verbose=False)
    with pytest.raises(ValueError, match="its samples is 160, not 100"):
        train(preset("digits", **QUICK), Subset(digits_set, range(100)), path, verbose=False)
    assert (tmp_path / "a.pt.resume").read_bytes() == kept
    (tmp_path / "a.pt.resume").write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged or holds more than .*; remove it to begin anew"):
        train(preset("digits", **QUICK), digits_set, path, verbose=False)
