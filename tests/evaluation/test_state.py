"""Pieces on disk: kept one by one, and only for what they are true of."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from part_plugin.evaluation.state import State, reserved
from part_plugin.files import locked

BOUND = {"weights": "w", "eps": 0.1}


def unwanted():
    raise AssertionError("made again")


def test_a_piece_is_made_once_and_kept(tmp_path):
    path = tmp_path / "deep" / "state.json"
    state = State(path, BOUND)
    assert content(path) == {"format": 1, "bound_to": BOUND, "pieces": {}}  # tried before any work
    assert state.get("a/0", lambda: [1, "10"], tuple) == (1, "10")
    assert state.get("a/0", unwanted, tuple) == (1, "10")
    assert content(path) == {"format": 1, "bound_to": BOUND, "pieces": {"a/0": [1, "10"]}}
    with pytest.raises(KeyboardInterrupt):
        state.get("a/1", interrupted, tuple)
    later = State(str(path), BOUND)
    assert later.get("a/0", unwanted, list) == [1, "10"]
    assert later.get("a/1", lambda: 2, int) == 2
    assert State(path, BOUND).pieces == {"a/0": [1, "10"], "a/1": 2}


def content(path):
    """What is in the file, but for its checksum."""
    found = json.loads(path.read_text())
    assert len(found.pop("sha256")) == 64
    return found


def interrupted():
    raise KeyboardInterrupt


def test_in_memory_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = State(None, BOUND)
    assert state.get("a", lambda: 1, int) == 1
    assert state.get("a", unwanted, int) == 1
    with pytest.raises(ValueError, match=r"^no number$"):
        state.get("a", unwanted, no_number)
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
        (
            json.dumps({"format": 1, "bound_to": BOUND, "pieces": {"a": ["10", 1]}, "sha256": "0" * 64}),
            "is damaged: its checksum is wrong; delete it",
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


def no_number(piece):
    raise ValueError("no number")


def test_a_bit_that_changes_anywhere_in_a_piece_is_noticed(tmp_path):
    path = tmp_path / "state.json"
    State(path, BOUND).get("pgd/0", lambda: {"pgd": ["1101", 0.5]}, dict)
    whole = path.read_bytes()
    first = whole.index(b'"pieces"')
    for place in range(first, len(whole)):
        for bit in (1, 2, 4, 16):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            with pytest.raises(ValueError, match="damaged"):
                State(path, BOUND)


def test_a_piece_that_does_not_fit_is_told_with_its_file(tmp_path):
    path = tmp_path / "state.json"
    State(path, BOUND).get("a/0", lambda: 1, int)
    message = f"state {str(path)!r} is damaged in 'a/0': no number; delete it"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        State(path, BOUND).get("a/0", unwanted, no_number)


def test_a_file_is_tried_and_kept_from_others(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), reserved(tmp_path / "file" / "state.json"):
        unwanted()
    path = tmp_path / "new" / "state.json"
    with reserved(path), ThreadPoolExecutor(1) as pool:
        assert not path.exists()
        said = pool.submit(lambda: locked("state", path).__enter__()).exception()
        assert isinstance(said, BlockingIOError)
    with reserved(None):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize(
    ("name", "onwards"),
    [("state.json", "evaluate again with the same arguments to go on from there"), (None, "nothing is kept, as there")],
)
def test_whoever_stops_it_is_told_how_to_go_on(tmp_path, name, onwards):
    state = State(name and tmp_path / name, BOUND)
    with (
        pytest.raises(KeyboardInterrupt, match=f"^stopped in pgd5 of part; {onwards}"),
        state.stopping_in("pgd5 of part"),
    ):
        raise KeyboardInterrupt
