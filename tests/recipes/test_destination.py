"""The files of a training are tried before it, and are nobody else's while it runs."""

import os
import re
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils.data import Subset

from part_plugin.recipes.datasets import load_dataset
from part_plugin.recipes.destination import Destination
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

SETTINGS = {"epochs": 3, "burn_in": 0, "milestones": [2], "steps": 1}


def test_nothing_is_left_behind(tmp_path):
    """Neither of a trial, nor of a training that failed, nor of one that gave up its files."""
    files = Destination(tmp_path / "new" / "er" / "a.pt")
    with files.reserved():
        assert [file.name for file in (tmp_path / "new" / "er").iterdir()] == [".a.pt.lock"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), files.reserved():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind"), [("resume.ckpt", "resume file"), ("log.csv", "log file")], ids=["resume", "log"]
)
@pytest.mark.parametrize("what", ["folder", "link", "pipe"])
def test_each_is_tried(tmp_path, name, kind, what):
    path = tmp_path / "a.pt.run" / name
    path.parent.mkdir()
    if what == "folder":
        path.mkdir()
        message = f"{kind} {str(path)!r} is a directory; a file is needed"
    elif what == "link":
        path.symlink_to("/gone/a")
        message = f"{kind} {str(path)!r} cannot be written: it is a link to '/gone/a', whose directory does not exist"
    else:
        os.mkfifo(path)
        message = f"{kind} {str(path)!r} is not a regular file; one is needed"
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"), Destination(tmp_path / "a.pt").reserved():
        pytest.fail("it began")
    assert [file.name for file in tmp_path.rglob("*")] == ["a.pt.run", name]


def test_a_checkpoint_is_refused_unless_a_training_may_have_left_it(tmp_path):
    files = Destination(tmp_path / "a.pt")
    files.checkpoint.write_text("mine")
    message = f"checkpoint {str(files.checkpoint)!r} exists already; choose another name or remove it"
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}$"), files.reserved():
        pytest.fail("it began")
    files.folder.mkdir()
    files.resume.touch()
    with files.reserved():  # what is in it must be seen
        pass


def test_an_equal_training_in_another_thread_is_refused(tmp_path):
    dataset = Subset(load_dataset("digits", "", "train"), range(40))
    path = tmp_path / "a.pt"

    def again(model):
        with ThreadPoolExecutor(1) as pool:
            said.append(pool.submit(train, preset("digits", **SETTINGS), dataset, path, verbose=False).exception())
        return {}

    said = []
    train(preset("digits", **SETTINGS), dataset, path, verbose=False, validate=again)
    assert [type(error) for error in said] == [BlockingIOError] * 3
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pt", "a.pt.run"]


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    """No file may grow beyond 50 kB from the second epoch on, as a full disk; then there is space again."""
    dataset = Subset(load_dataset("digits", "", "train"), range(40))
    monkeypatch.chdir(tmp_path)
    train(preset("digits", **SETTINGS), dataset, "whole.pt", verbose=False)
    limits, kept = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def fill(model):
        if Path("a.pt.run/resume.ckpt").exists():
            kept.append(Path("a.pt.run/resume.ckpt").read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        return {}

    try:
        with pytest.raises(OSError, match=r"^resume file 'a.pt.run/resume.ckpt' cannot be written: File too large$"):
            train(preset("digits", **SETTINGS), dataset, "a.pt", verbose=False, validate=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [Path("a.pt.run/resume.ckpt").read_bytes()] == kept
    assert sorted(os.listdir()) == ["a.pt.run", "whole.pt", "whole.pt.run"]
    assert sorted(os.listdir("a.pt.run")) == ["curves.png", "log.csv", "resume.ckpt", "settings.yaml"]
    train(preset("digits", **SETTINGS), dataset, "a.pt", verbose=False)
    assert Path("a.pt").read_bytes() == Path("whole.pt").read_bytes()


def test_whoever_stops_it_is_told_where(tmp_path):
    dataset = Subset(load_dataset("digits", "", "train"), range(40))

    def stop(model):
        raise KeyboardInterrupt

    def stop_later(model):
        if (tmp_path / "a.pt.run/resume.ckpt").exists():
            raise KeyboardInterrupt
        return {}

    for validate, where, onwards in ((stop, 1, "to begin again"), (stop_later, 2, "to go on after epoch 1")):
        message = f"stopped in epoch {where} of 3; train again with the same settings {onwards}"
        with pytest.raises(KeyboardInterrupt, match=f"^{message}$"):
            train(preset("digits", **SETTINGS), dataset, tmp_path / "a.pt", verbose=False, validate=validate)
