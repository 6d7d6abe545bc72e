"""Pieces on disk: kept one by one, and only for what they are true of."""

import json
import re

import pytest

from part_plugin.evaluation.state import State

BOUND = {"weights": "w", "eps": 0.1}


def unwanted():
    raise AssertionError("made again")


def test_a_piece_is_made_once_and_kept(tmp_path):
    path = tmp_path / "deep" / "state.json"
    state = State(path, BOUND)
    assert json.loads(path.read_text()) == {"format": 1, "bound_to": BOUND, "pieces": {}}  # tried before any work
    assert state.get("a/0", lambda: [1, "10"]) == [1, "10"]
    assert state.get("a/0", unwanted) == [1, "10"]
    assert json.loads(path.read_text()) == {"format": 1, "bound_to": BOUND, "pieces": {"a/0": [1, "10"]}}
    with pytest.raises(KeyboardInterrupt):
        state.get("a/1", interrupted)
    later = State(str(path), BOUND)
    assert later.get("a/0", unwanted) == [1, "10"]
    assert later.get("a/1", lambda: 2) == 2
    assert State(path, BOUND).pieces == {"a/0": [1, "10"], "a/1": 2}


def interrupted():
    raise KeyboardInterrupt


def test_in_memory_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = State(None, BOUND)
    assert state.get("a", lambda: 1) == 1
    assert state.get("a", unwanted) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged or not one of part_plugin's; delete it"),
        ("[]", "is not one of part_plugin's; delete it"),
        (
            json.dumps({"format": 9, "bound_to": BOUND, "pieces": {}}),
            "has format 9; this version of part_plugin reads 1",
        ),
        (
            json.dumps({"format": 1, "pieces": {}}),
            "is damaged or of another kind: 'bound_to' is missing; delete it",
        ),
        (
            json.dumps({"format": 1, "bound_to": BOUND, "pieces": []}),
            "is damaged or of another kind: 'pieces' is a list; dict is needed; delete it",
        ),
        (
            json.dumps({"format": 1, "bound_to": {"weights": "w", "eps": 0.2}, "pieces": {}}),
            "belongs to another evaluation: its eps is 0.2, not 0.1; delete it or choose another file",
        ),
        (
            json.dumps({"format": 1, "bound_to": {"eps": 0.1}, "pieces": {}}),
            "belongs to another evaluation: its weights is None, not 'w'; delete it or choose another file",
        ),
    ],
)
def test_files_of_something_else_are_refused_and_left_alone(tmp_path, content, message):
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'state {str(path)!r} {message}')}$"):
        State(path, BOUND)
    assert path.read_text() == content


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path):
    with pytest.raises(IsADirectoryError, match=f"^state '{tmp_path}' is a directory; a file is needed$"):
        State(tmp_path, BOUND)
    (tmp_path / "file").touch()
    message = f"^state '{tmp_path}/file/state.json' cannot be written: '{tmp_path}/file' is not a directory$"
    with pytest.raises(NotADirectoryError, match=message):
        State(tmp_path / "file" / "state.json", BOUND)
