"""`train`: from settings to a checkpoint, resumable to the bit."""

import dataclasses
import io
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Subset

from part_plugin import PART, FixedBudget, PixelBudget, evaluate, load_checkpoint
from part_plugin.adapters.robustbench import build_model
from part_plugin.recipes import keeping
from part_plugin.recipes.augmentation import augmentation
from part_plugin.recipes.datasets import as_tensors, load_dataset
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

QUICK = {"epochs": 3, "burn_in": 1, "milestones": [2], "steps": 2}


@pytest.fixture(scope="module")
def digits_set():
    return Subset(load_dataset("digits", "", "train"), range(160))


FILES = ["a.pt", "a.pt.run/curves.png", "a.pt.run/log.csv", "a.pt.run/resume.ckpt", "a.pt.run/settings.yaml"]


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def log(path):
    return pd.read_csv(path.with_name(f"{path.name}.run") / "log.csv").to_dict("records")


def resume_file(path):
    return path.with_name(f"{path.name}.run") / "resume.ckpt"


def weights(path):
    return load_checkpoint(path)[0].state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_network_that_resists_comes_out(tmp_path):
    """Better than chance under PGD, in a format that loads; the record has a line per epoch."""
    settings = preset("digits", eps=0.1, eps_low=0.0875, alpha=0.025, epochs=6, burn_in=2, milestones=[5])
    path = tmp_path / "ck" / "a.pt"
    model = train(settings, Subset(load_dataset("digits", "", "train"), range(1200)), path, verbose=False)
    assert not model.training
    assert files(path.parent) == FILES
    loaded, description = load_checkpoint(path)
    assert same(loaded.state_dict(), model.state_dict())
    assert description["training"]["eps_low"] == 0.0875
    assert description["training"]["image_shape"] == [3, 8, 8]
    lines = log(path)
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
    write = keeping.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        if content["done"] == [2, 0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "write_tensors", dying)
    path = tmp_path / "stopped.pt"
    with pytest.raises(KeyboardInterrupt):
        train(settings, digits_set, path, verbose=False)
    assert not path.exists()
    monkeypatch.undo()
    torch.manual_seed(77)
    train(settings, digits_set, path, verbose=False)
    assert same(weights(path), weights(tmp_path / "whole.pt"))
    assert [record["epoch"] for record in log(path)] == list(range(1, settings.epochs + 1))


def test_masks_are_made_of_unmoved_images_and_move(tmp_path, digits_set, monkeypatch):
    """With crops and a mask every 2 epochs the network is asked for maps of the plain images alone."""
    mapped = []
    look = PixelBudget.weights
    monkeypatch.setattr(PixelBudget, "weights", lambda self, model, x, y: mapped.append(x) or look(self, model, x, y))
    settings = preset("digits", **(QUICK | {"mask_every": 2, "epochs": 5}))
    train(settings, digits_set, tmp_path / "a.pt", verbose=False, transform=augmentation("svhn", (8, 8)))
    plain = as_tensors(digits_set)[0]
    assert torch.equal(torch.cat(mapped), torch.cat([plain, plain]))  # epochs 1 and 3 of 0 to 4, 0 being burn-in


def test_masks_reach_the_attack_as_they_moved(tmp_path, digits_set, monkeypatch):
    """By brute force: what is attacked is a crop of a plain image, and its mask is that crop of its map's mask."""
    kept, attacked = {}, []
    remember, perturb = PART.remember, PART.perturb

    def spying_remember(part, model, x, y, index):
        assert not kept.keys() & set(index.tolist())
        remember(part, model, x, y, index)
        kept.update(zip(index.tolist(), part.masks_of(index, (8, 8)), strict=True))

    def spying_perturb(part, model, x, y, index=None, important=None):
        attacked.append((part.burning_in, x, y, index, important))
        return perturb(part, model, x, y, index, important)

    monkeypatch.setattr(PART, "remember", spying_remember)
    monkeypatch.setattr(PART, "perturb", spying_perturb)
    settings = preset("digits", **(QUICK | {"mask_every": 2}))
    train(settings, digits_set, tmp_path / "a.pt", verbose=False, transform=augmentation("svhn", (8, 8)))
    plain, labels = as_tensors(digits_set)
    assert sorted(kept) == list(range(160))
    assert any(0 < mask.sum() < 64 for mask in kept.values())
    seen = []
    for burning_in, x, y, index, masks in attacked:
        seen += index.tolist()
        assert torch.equal(y, labels[index])
        for image, number, mask in zip(x, index.tolist(), masks, strict=True):
            whole = torch.cat([plain[number], torch.zeros(1, 8, 8) if burning_in else kept[number]])
            padded = torch.nn.functional.pad(whole, (1, 1, 1, 1))
            crops = [padded[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
            fitting = [crop[3:] > 0 for crop in crops if torch.equal(crop[:3], image)]
            assert fitting
            assert burning_in or any(torch.equal(mask, one) for one in fitting)
    assert sorted(seen) == sorted(3 * list(range(160)))


def number_of(*numbers):
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def trained_by_hand(settings, samples):
    """Adversarial training in plain steps, with SGD's update written out; the weights and a record per epoch."""
    with torch.random.fork_rng():
        torch.manual_seed(number_of(settings.seed))
        model = build_model(settings.architecture, settings.arguments)
        part = PART(
            "at",
            eps=settings.eps,
            eps_low=settings.eps_low,
            alpha=settings.alpha,
            steps=settings.steps,
            burn_in=settings.burn_in,
            seed=settings.seed,
        )
        velocity = [torch.zeros_like(p) for p in model.parameters()]
        lr, records = settings.lr, []
        for epoch in range(settings.epochs):
            generator = torch.Generator().manual_seed(number_of(settings.seed, epoch))
            part.set_epoch(epoch)
            losses, right = [], []
            for rows in torch.randperm(len(samples), generator=generator).split(settings.batch_size):
                x, y = torch.stack([samples[row][0] for row in rows]), torch.tensor([samples[row][1] for row in rows])
                logits = model.train()(part.perturb(model, x, y))
                terms = torch.nn.functional.cross_entropy(logits, y, reduction="none")
                losses += terms.tolist()
                right += (logits.argmax(1) == y).tolist()
                gradients = torch.autograd.grad(terms.mean(), list(model.parameters()))
                with torch.no_grad():
                    for p, g, v in zip(model.parameters(), gradients, velocity, strict=True):
                        v.mul_(settings.momentum).add_(g.add(p, alpha=settings.weight_decay))
                        p.add_(v, alpha=-lr)
            records.append({"epoch": epoch + 1, "loss": np.mean(losses), "adv_accuracy": np.mean(right), "lr": lr})
            lr *= 0.1 if epoch + 1 in settings.milestones else 1
    return model.state_dict(), records


def test_a_training_is_these_steps(tmp_path, digits_set):
    """Order, attack, update, weight decay, momentum, milestones, statistics and record, by hand."""
    settings = preset("digits", epochs=4, burn_in=1, milestones=[1, 3], steps=2, weight_decay=0.1, batch_size=45)
    expected, records = trained_by_hand(settings, digits_set)
    train(settings, digits_set, tmp_path / "a.pt", verbose=False)
    made = weights(tmp_path / "a.pt")
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(made[name], value, rtol=1e-5, atol=1e-6)
    lines = log(tmp_path / "a.pt")
    assert all(line.pop("seconds") > 0 for line in lines)
    assert [sorted(line) for line in lines] == [sorted(record) for record in records]
    for line, record in zip(lines, records, strict=True):
        assert line == pytest.approx(record, rel=1e-5)


def test_every_epoch_has_all_samples_in_an_order_of_its_own(tmp_path, digits_set, monkeypatch):
    orders, perturb = [], PART.perturb

    def noting(part, model, x, y, index=None, important=None):
        orders.extend(index.tolist())
        return perturb(part, model, x, y, index, important)

    monkeypatch.setattr(PART, "perturb", noting)
    train(preset("digits", **QUICK), digits_set, tmp_path / "a.pt", verbose=False)
    epochs = [tuple(orders[160 * epoch : 160 * (epoch + 1)]) for epoch in range(3)]
    assert len(orders) == 480
    assert all(sorted(order) == list(range(160)) for order in epochs)
    assert len({*epochs, tuple(range(160))}) == 4


def test_workers_change_nothing(tmp_path, digits_set):
    for name, workers in (("a", 0), ("b", 1)):
        train(preset("digits", **QUICK), digits_set, tmp_path / f"{name}.pt", workers=workers, verbose=False)
    assert same(weights(tmp_path / "a.pt"), weights(tmp_path / "b.pt"))


def test_a_validation_joins_the_record_and_changes_nothing(tmp_path, digits_set):
    """It sees the network in eval mode, draws as it likes, and returns any numbers."""
    seen = []

    def validate(model):
        seen.append(model.training)
        return {"drawn": torch.rand(()), "count": np.int64(len(seen))}

    settings = preset("digits", **QUICK)
    train(settings, digits_set, tmp_path / "a.pt", verbose=False)
    train(settings, digits_set, tmp_path / "b.pt", verbose=False, validate=validate)
    assert same(weights(tmp_path / "a.pt"), weights(tmp_path / "b.pt"))
    assert seen == [False] * 3
    lines = log(tmp_path / "b.pt")
    assert [line["count"] for line in lines] == [1, 2, 3]
    assert all(0 <= line["drawn"] < 1 for line in lines)


def test_the_random_state_is_put_back_after_a_failure(tmp_path, digits_set):
    def validate(model):
        raise KeyboardInterrupt

    state = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(preset("digits", **QUICK), digits_set, tmp_path / "a.pt", verbose=False, validate=validate)
    with pytest.raises(ValueError, match="class 10"):
        train(preset("digits", **QUICK), [(digits_set[0][0], 10)] * 9, tmp_path / "a.pt", verbose=False)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_budget_goes_before_the_settings_radii(tmp_path, digits_set):
    """One radius everywhere is adversarial training at that radius, for which the settings have eps_low = eps."""
    settings = preset("digits", **QUICK)
    train(settings, digits_set, tmp_path / "a.pt", verbose=False, budget=FixedBudget(0.1))
    train(preset("digits", eps=0.1, eps_low=0.1, **QUICK), digits_set, tmp_path / "b.pt", verbose=False)
    assert same(weights(tmp_path / "a.pt"), weights(tmp_path / "b.pt"))
    stored = load_checkpoint(tmp_path / "a.pt")[1]["training"]
    assert stored == json.loads(json.dumps(dataclasses.asdict(settings))) | {  # whose tuples are lists
        "samples": 160,
        "image_shape": [3, 8, 8],
        "budget": "FixedBudget(eps=0.1)",
        "which": "last",
        "epoch": 3,
    }


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_shown_where_there_is_a_terminal(tmp_path, digits_set, monkeypatch):
    shown = []
    for number, (stream, verbose) in enumerate(((Terminal, True), (Terminal, False), (io.StringIO, True))):
        monkeypatch.setattr(sys, "stderr", stream())
        train(preset("digits", **QUICK), digits_set, tmp_path / f"net{number}.pt", verbose=verbose)
        shown.append(sys.stderr.getvalue())
    assert "net0: 100%" in shown[0]
    assert "15/15" in shown[0]
    assert "epoch=3/3" in shown[0]
    assert shown[1:] == ["", ""]


def test_the_seed_decides(tmp_path, digits_set):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(preset("digits", seed=seed, **QUICK), digits_set, tmp_path / f"{name}.pt", verbose=False)
    a, b, c = (weights(tmp_path / f"{name}.pt") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


@pytest.fixture
def stopped(tmp_path, digits_set, monkeypatch):
    """A training that was stopped after its first epoch."""
    path = tmp_path / "a.pt"
    write = keeping.write_tensors

    def dying(kind, path, content):
        write(kind, path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "write_tensors", dying)
    with pytest.raises(KeyboardInterrupt):
        train(preset("digits", **QUICK), digits_set, path, verbose=False)
    monkeypatch.undo()
    return path


OTHER = {
    "lr": ({"lr": 0.01}, {}, 160, "lr is 0.05, not 0.01"),
    "eps_low": ({"eps_low": 0.1}, {}, 160, "eps_low is 0.175, not 0.1"),
    "seed": ({"seed": 1}, {}, 160, "seed is 0, not 1"),
    "arguments": (
        {"arguments": {"depth_configs": [1, 1, 1]}},
        {},
        160,
        "arguments is {'channel_configs': [8, 8, 16, 16], 'depth_configs': [1, 1, 1], 'stride_config': [1, 1, 1], "
        "'num_classes': 10}, not {'depth_configs': [1, 1, 1], 'num_classes': 10}",
    ),
    "samples": ({}, {}, 100, "samples is 160, not 100"),
    "budget": ({}, {"budget": FixedBudget(0.1)}, 160, "budget is None, not 'FixedBudget(eps=0.1)'"),
    "transform": ({}, {"transform": augmentation("svhn", (8, 8))}, 160, "augmented is False, not True"),
}


@pytest.mark.parametrize("name", OTHER)
def test_a_resume_file_of_another_training_is_refused(stopped, digits_set, name):
    changes, options, n, what = OTHER[name]
    kept = resume_file(stopped).read_bytes()
    before = files(stopped.parent)
    with pytest.raises(ValueError) as caught:
        train(preset("digits", **(QUICK | changes)), Subset(digits_set, range(n)), stopped, verbose=False, **options)
    assert str(caught.value) == (
        f"resume file '{resume_file(stopped)}' belongs to another training: its {what}; remove it or choose another "
        "checkpoint name"
    )
    assert resume_file(stopped).read_bytes() == kept
    assert files(stopped.parent) == before


def test_a_resume_file_with_a_budget_is_refused_without(tmp_path, stopped, digits_set):
    """What this training lacks and the other had is a difference too."""
    resume = resume_file(stopped)
    content = torch.load(resume, weights_only=True)
    content["settings"]["budget"] = "FixedBudget(eps=0.1)"
    torch.save(content, resume)
    with pytest.raises(ValueError, match=r"its budget is 'FixedBudget\(eps=0.1\)', not None; remove it"):
        train(preset("digits", **QUICK), digits_set, stopped, verbose=False)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"x", "is damaged or holds more than plain data and tensors; remove it to begin anew"),
        ({"format": 1}, "has format 1; this version of part_plugin reads 2"),
        ({"state_dict": {}}, "is not one of part_plugin's; remove it to begin anew"),
        ({"format": 2}, "is damaged or of another kind: 'settings' is missing; remove it to begin anew"),
    ],
)
def test_a_resume_file_that_cannot_be_read_is_told(tmp_path, digits_set, content, what):
    resume = resume_file(tmp_path / "a.pt")
    resume.parent.mkdir()
    resume.write_bytes(content) if isinstance(content, bytes) else torch.save(content, resume)
    kept = resume.read_bytes()
    with pytest.raises(ValueError) as caught:
        train(preset("digits", **QUICK), digits_set, tmp_path / "a.pt", verbose=False)
    assert str(caught.value) == f"resume file '{resume}' {what}"
    assert files(tmp_path) == ["a.pt.run/resume.ckpt"]
    assert resume.read_bytes() == kept


class Untouchable(list):
    """Samples of which only the first may be looked at."""

    def __getitem__(self, index):
        assert index == 0
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"settings": "cifar10"}, TypeError, "settings='cifar10' is a str; a Preset is needed, see preset()"),
        ({"workers": -1}, ValueError, "workers=-1 is not allowed; it must be >= 0"),
        ({"workers": "2"}, TypeError, "workers='2' is a str; an integer is needed"),
        ({"dataset": []}, ValueError, "dataset is empty; at least one sample is needed"),
        ({"path": "mine.pt"}, FileExistsError, "checkpoint 'mine.pt' exists already; choose another name or remove it"),
        ({"path": "folder"}, FileExistsError, "checkpoint 'folder' exists already; choose another name or remove it"),
        (
            {"path": "mine.pt/a.pt"},
            NotADirectoryError,
            "checkpoint 'mine.pt/a.pt' cannot be written: 'mine.pt' is not a directory",
        ),
    ],
)
def test_wrong_arguments_are_told_before_any_work(tmp_path, digits_set, monkeypatch, changes, error, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pt").write_text("mine")
    (tmp_path / "folder").mkdir()
    right = {"settings": preset("digits", **QUICK), "dataset": Untouchable(digits_set), "path": "a.pt"}
    with pytest.raises(error) as caught:
        train(**(right | changes), verbose=False)
    assert str(caught.value) == expected
    assert type(caught.value) is error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "mine.pt"]
    assert (tmp_path / "mine.pt").read_text() == "mine"


def test_a_device_that_is_not_there(tmp_path, digits_set):
    with pytest.raises(ValueError, match=r"^device='gpu' cannot be used here \(Expected one of cpu, cuda, .*\)$"):
        train(preset("digits", **QUICK), Untouchable(digits_set), tmp_path / "a.pt", "gpu", verbose=False)


@pytest.mark.parametrize(("label", "allowed"), [(10, "0 to 9"), (-1, "0 and above")])
def test_a_class_that_the_network_does_not_have(tmp_path, digits_set, label, allowed):
    with pytest.raises(ValueError, match=f"^labels contain class {label}; allowed is {allowed}$"):
        train(preset("digits", **QUICK), [(digits_set[0][0], label)] * 9, tmp_path / "a.pt", verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_was_left_is_kept_until_the_first_epoch_ends(tmp_path, digits_set):
    (tmp_path / "a.pt.run").mkdir()
    (tmp_path / "a.pt.run" / "log.csv").write_text("mine\n")
    with pytest.raises(ValueError, match="class 10"):
        train(preset("digits", **QUICK), [(digits_set[0][0], 10)] * 9, tmp_path / "a.pt", verbose=False)
    assert (tmp_path / "a.pt.run" / "log.csv").read_text() == "mine\n"
