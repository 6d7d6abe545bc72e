"""What the command line's arguments mean."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from part_plugin.cli_arguments import (
    check_not_given,
    images_for,
    networks_and_pictures,
    overrides,
    runs,
    subset,
    trained_size,
)
from part_plugin.short import short


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


def test_settings_are_json_or_text():
    given = ["lr=0.02", "milestones=[4, 6]", "eps=8/255", "fast=fold", "eps_low=null", "note=a=b", "lr=1", "cam="]
    expected = {
        "lr": 1,
        "milestones": [4, 6],
        "eps": "8/255",
        "fast": "fold",
        "eps_low": None,
        "note": "a=b",
        "cam": "",
    }
    assert overrides(given) == expected
    assert overrides(None) == overrides([]) == {}
    text = "--set 'epochs' is not allowed; KEY=VALUE is needed, e.g. --set epochs=10"
    assert message(ValueError, overrides, ["lr=1", "epochs"]) == text


def test_a_subset_is_drawn_and_ordered_by_its_seed():
    dataset = [(torch.zeros(1), label) for label in range(20)]
    for seed in (0, 1):
        drawn = [label for _, label in subset(dataset, 7, seed)]
        assert drawn == torch.randperm(20, generator=torch.Generator().manual_seed(seed))[:7].tolist()
    assert sorted(label for _, label in subset(dataset, 20, 3)) == list(range(20))


@pytest.mark.parametrize("n", [0, -1, 21])
def test_a_subset_that_cannot_be(n):
    text = f"--n {n} is not allowed; the dataset has 20 samples and at least 1 is needed"
    assert message(ValueError, subset, list(range(20)), n, 0) == text


def test_runs_are_named_after_their_checkpoints():
    paths = [Path("x/at.pt"), Path("y/part.v2.pt")]
    assert runs(paths, range(3, 4)) == [("at", "at", 3), ("part.v2", "part.v2", 3)]
    assert runs(paths, range(3, 5)) == [
        ("at-seed3", "at", 3),
        ("at-seed4", "at", 4),
        ("part.v2-seed3", "part.v2", 3),
        ("part.v2-seed4", "part.v2", 4),
    ]


def test_runs_do_not_lie_over_each_other():
    text = "two checkpoints are called 'a'; their results would have the same name"
    assert message(ValueError, runs, [Path("x/a.pt"), Path("b.pt"), Path("y/a.pth")], range(1)) == text
    for name in ("comparison", "a.state"):
        text = f"a checkpoint called '{name}' would have results named as other files are; rename it"
        assert message(ValueError, runs, [Path("a.pt"), Path(f"x/{name}.pt")], range(1)) == text


def test_what_was_given_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_not_given(Path("b"), Path("b.json"), [Path("a.json")])
    for out in ("a", "./a", "x/../a", str(tmp_path / "a")):
        (tmp_path / "x").mkdir(exist_ok=True)
        file = str(Path(f"{out}.json"))
        text = f"--out {str(Path(out))!r} would replace {file!r} or what belongs to it; choose another name"
        assert message(ValueError, check_not_given, Path(out), Path(f"{out}.json"), [Path("a.json")]) == text


DIGITS = {"num_classes": 10, "training": {"dataset": "digits"}}


def test_images_are_those_that_the_first_was_trained_on():
    other = {"num_classes": 12, "training": {"dataset": "svhn"}}
    x, y = images_for({"a": DIGITS, "b": other}, None, Path("none"), False, 7)
    assert x.shape == (7, 3, 8, 8)
    whole, labels = images_for({"a": other, "b": DIGITS}, "digits", Path("none"), False, None)
    assert len(whole) == 400
    assert torch.equal(whole[:7], x)
    assert torch.equal(labels[:7], y)


def write_folders(root, classes):
    for number in range(classes):
        (root / f"{number:02}").mkdir(parents=True)
        for value in (0, 100):
            Image.new("RGB", (2, 2), (number, value, 0)).save(root / f"{number:02}" / f"{value}.png")


def test_images_of_folders_are_drawn(tmp_path):
    """Their first ones are all of one class."""
    write_folders(tmp_path, 10)
    y = images_for({"a": DIGITS}, "imagefolder", tmp_path, False, 5)[1]
    assert len(y) == 5
    assert len(y.unique()) > 2
    assert torch.equal(images_for({"a": DIGITS}, "imagefolder", tmp_path, False, 5)[1], y)


def test_images_of_classes_that_a_network_does_not_have(tmp_path):
    write_folders(tmp_path, 3)
    few = {"a": DIGITS, "b": {"num_classes": 2, "training": {}}}
    text = "imagefolder has class 2, and checkpoint 'b' has 2 classes"
    assert message(ValueError, images_for, few, "imagefolder", tmp_path, False, None) == text
    few["b"]["num_classes"] = 3
    assert len(images_for(few, "imagefolder", tmp_path, False, None)[0]) == 6


def test_a_dataset_must_be_known():
    silent = {"num_classes": 10, "training": {}}
    assert message(ValueError, images_for, {"a": silent, "b": DIGITS}, None, Path("x"), False, None) == (
        "--dataset is missing, and checkpoint 'a' does not say; choose from cifar10, svhn, tinyimagenet, digits, "
        "imagefolder"
    )


@pytest.mark.parametrize("dataset", ["mnist", ["digits"], 5, "../digits", torch.ones(2), "x" * 1000])
def test_a_dataset_that_a_checkpoint_makes_up(dataset):
    text = message(ValueError, images_for, {"a": {"training": {"dataset": dataset}}}, None, Path("x"), True, None)
    assert text == (
        f"checkpoint 'a' was trained on dataset={short(dataset)}; known are cifar10, svhn, tinyimagenet, digits, "
        "imagefolder"
    )


def test_the_size_that_a_checkpoint_was_trained_on():
    def sized(shape):
        return {"a": {"training": {"image_shape": shape}}, "b": {"training": {"image_shape": [3, 1, 1]}}}

    assert trained_size({"a": {"training": {}}}) is None
    assert trained_size(sized([3, 8, 1024])) == [8, 1024]
    assert trained_size(sized((3, 8, 9))) == [8, 9]
    for shape in ([3, 8, 1025], [3, 10**9, 8], [3, 0, 8], [8, 8], [3, 8.0, 8], [3, True, 8], "388", 3, {"0": 3}):
        assert message(ValueError, trained_size, sized(shape)) == (
            f"checkpoint 'a' was trained on image_shape={shape!r}; three integers from 1 to 1024 are needed, or --size"
        )


def test_checkpoints_are_told_from_pictures_by_their_endings():
    paths = [Path(name) for name in ("a.pt", "cat.png", "b.pth", "dog", "c.safetensors")]
    assert networks_and_pictures(paths) == ([paths[0], paths[2], paths[4]], [paths[1], paths[3]])
    for some in (paths[:1], paths[1:2], []):
        text = "at least one checkpoint (.pt) and one picture are needed"
        assert message(ValueError, networks_and_pictures, some) == text
    text = "two checkpoints are called 'a'; their columns would have the same name"
    assert message(ValueError, networks_and_pictures, [*paths, Path("x/a.pt")]) == text
