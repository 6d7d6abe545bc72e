"""Files are written whole or not at all, by anyone, anywhere; and what is wrong with one that is read is told apart."""

import itertools
import json
import multiprocessing
import os
import resource
import signal
import stat
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from part_plugin.files import (
    append_line,
    check_appendable,
    check_writable,
    read_json,
    read_lines,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)
from part_plugin.files.writing import _TOKEN

SIZE = 4_000_000
processes = multiprocessing.get_context("fork")


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def message(error, call, *arguments):
    with pytest.raises(error) as caught:
        call(*arguments)
    assert type(caught.value) is error
    return str(caught.value)


def write_for_ever(path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell ignores
    with suppress(KeyboardInterrupt):
        for value in itertools.cycle(range(256)):
            write_bytes("file", path, bytes([value]) * SIZE)


@contextmanager
def writing(path):
    """A process that writes one whole file after the other, caught in the middle of one."""
    writer = processes.Process(target=write_for_ever, args=(path,))
    writer.start()
    try:
        deadline = time.monotonic() + 60
        while not half_written(path.parent):
            assert time.monotonic() < deadline
        yield writer
    finally:
        writer.kill()
        writer.join()


def half_written(folder):
    """The temporary files that hold something by now."""
    found = []
    for file in folder.glob(".*.[0-9]*.tmp"):
        with suppress(FileNotFoundError):
            found += [file.name] if file.stat().st_size else []
    return found


def is_whole(path):
    content = path.read_bytes()
    return len(content) == SIZE and len(set(content)) == 1


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    path, left = tmp_path / "a.pt", 0
    write_bytes("file", path, bytes(SIZE))
    (tmp_path / ".a.pt.mine.tmp").write_text("not ours")
    for _ in range(12):
        with writing(path) as writer:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        assert is_whole(path)
        left += len(half_written(tmp_path))
        write_bytes("file", path, b"new")
        assert path.read_bytes() == b"new"
        assert names(tmp_path) == [".a.pt.mine.tmp", "a.pt"]
        write_bytes("file", path, bytes(SIZE))
    assert left > 3  # killed in the middle indeed


def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.pt"
    write_bytes("file", path, bytes(SIZE))
    for _ in range(12):
        with writing(path) as writer:
            os.kill(writer.pid, signal.SIGINT)
            writer.join(30)
            assert writer.exitcode == 0
        assert is_whole(path)
        assert names(tmp_path) == ["a.pt"]


def test_a_writer_that_still_runs_is_left_alone(tmp_path):
    path = tmp_path / "a.pt"
    for _ in range(100):
        with writing(path) as writer:
            os.kill(writer.pid, signal.SIGSTOP)
            os.waitpid(writer.pid, os.WUNTRACED)
            before = half_written(tmp_path)
            write_bytes("file", path, b"new")
            assert half_written(tmp_path) == before
            assert path.read_bytes() == b"new"
            if before:
                os.kill(writer.pid, signal.SIGCONT)
                os.kill(writer.pid, signal.SIGINT)
                writer.join(30)
                assert names(tmp_path) == ["a.pt"]
                return
    raise AssertionError("never stopped in the middle")


def test_an_earlier_process_of_the_same_pid_runs_no_more(tmp_path):
    """As after the restart of a container; what another thread of this process writes is left alone."""
    ended = processes.Process()
    ended.start()
    ended.join()
    start = f".a.pt.{os.uname().nodename}"
    earlier = tmp_path / f"{start}.{os.getpid()}.{'0' * 8}.0.tmp"
    thread = tmp_path / f"{start}.{os.getpid()}.{_TOKEN}.123456.tmp"
    dead = tmp_path / f"{start}.{ended.pid}.{_TOKEN}.0.tmp"
    elsewhere = tmp_path / f".a.pt.other-machine.{ended.pid}.{'0' * 8}.0.tmp"
    another = tmp_path / dead.name.replace(".a.pt.", ".b.pt.")
    for file in (earlier, thread, dead, elsewhere, another):
        file.write_text("half")
    write_text("file", tmp_path / "a.pt", "new")
    assert names(tmp_path) == sorted([another.name, elsewhere.name, thread.name, "a.pt"])


def test_threads_and_processes_write_the_same_file(tmp_path):
    path = tmp_path / "new" / "a.pt"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: write_bytes("file", path, bytes([value]) * SIZE), range(40)))
    assert is_whole(path)
    with writing(path), writing(path):
        for _ in range(20):
            assert is_whole(path)


def append_many(path, who):
    for number in range(100):
        append_line("log", path, {"who": who, "number": number, "text": f"{who}\n" * 10_000})


def test_lines_of_threads_and_processes_do_not_mix(tmp_path):
    path = tmp_path / "logs" / "a.jsonl"
    writers = [processes.Process(target=append_many, args=(path, who)) for who in range(3)]
    for writer in writers:
        writer.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda who: append_many(path, who), range(3, 6)))
    for writer in writers:
        writer.join()
    records = read_lines("log", path)
    assert all(record["text"] == f"{record['who']}\n" * 10_000 for record in records)
    for who in range(6):
        assert [record["number"] for record in records if record["who"] == who] == list(range(100))


@pytest.mark.parametrize("write", [write_text, append_line])
def test_permissions(tmp_path, write):
    """A new file has what the umask leaves, one that is there keeps what it has."""
    kept = os.umask(0)
    try:
        for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)):
            os.umask(mask)
            write("file", tmp_path / f"{mask}", "text")
            assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == mode
        for mode in (0o600, 0o640, 0o664, 0o755):
            os.umask(0o077)
            (tmp_path / "0").chmod(mode)
            write("file", tmp_path / "0", "text")
            assert stat.S_IMODE((tmp_path / "0").stat().st_mode) == mode
    finally:
        os.umask(kept)


@pytest.fixture(params=["same", "other"])
def elsewhere(request, tmp_path):
    """A folder on the file system of `tmp_path`, and one on another."""
    with tempfile.TemporaryDirectory(dir=tmp_path if request.param == "same" else "/dev/shm") as folder:
        if request.param == "other" and os.stat(folder).st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        yield Path(folder)


@pytest.mark.parametrize("write", [write_text, append_line])
def test_links_are_followed_and_stay(tmp_path, elsewhere, write):
    (tmp_path / "link").symlink_to(elsewhere / "target")
    (tmp_path / "link of link").symlink_to("link")
    (tmp_path / "folder").symlink_to(elsewhere)
    for number, path in enumerate(("link", "link", "link of link", "folder/target", "folder/new/target")):
        write("file", tmp_path / path, f"text {number}")
        target = elsewhere / Path(path).relative_to("folder") if "/" in path else elsewhere / "target"
        assert f"text {number}" in target.read_text()
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "link of link").is_symlink()
        assert (tmp_path / "folder").is_symlink()
    assert names(elsewhere) == ["new", "target"]


@pytest.mark.parametrize("write", [write_text, append_line])
def test_links_that_lead_nowhere(tmp_path, write):
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "target")
    (tmp_path / "folder").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    path = tmp_path / "link"
    assert message(FileNotFoundError, write, "result file", path, "text") == (
        f"result file '{path}' cannot be written: "
        f"it is a link to '{tmp_path}/gone/target', whose directory does not exist"
    )
    path = tmp_path / "folder" / "target"
    assert message(NotADirectoryError, write, "result file", path, "text") == (
        f"result file '{path}' cannot be written: '{tmp_path}/folder' is not a directory"
    )
    path = tmp_path / "loop"
    assert message(OSError, write, "result file", path, "text") == (
        f"result file '{path}' cannot be written: Too many levels of symbolic links"
    )
    assert names(tmp_path) == before


@contextmanager
def somebody():
    """A folder of a user who may not do everything, also where the tests run as root."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, user or 65534, -1)
        os.seteuid(user or 65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("write", [write_text, append_line])
def test_read_only_files_and_folders(write):
    with somebody() as folder:
        path = folder / "a.json"
        path.write_text("old")
        path.chmod(0o444)
        expected = f"log '{path}' cannot be written: Permission denied"
        assert message(PermissionError, write, "log", path, "new") == expected
        assert path.read_text() == "old"
        folder.chmod(0o555)
        for path in (folder / "b.json", folder / "new" / "b.json"):
            expected = f"log '{path}' cannot be written: Permission denied"
            assert message(PermissionError, write, "log", path, "new") == expected
        assert names(folder) == ["a.json"]
        path = folder / "a.json"
        path.chmod(0)
        assert message(PermissionError, read_lines, "log", path) == f"log '{path}' cannot be read: Permission denied"
        folder.chmod(0o755)


@pytest.mark.parametrize("write", [write_text, append_line])
def test_what_cannot_be_a_file(tmp_path, write):
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "file" / "a.json", tmp_path / "file" / "b" / "a.json"):
        assert message(NotADirectoryError, write, "log", path, "new") == (
            f"log '{path}' cannot be written: '{path.parent}' is not a directory"
        )
    path = tmp_path / ("long" * 100)
    assert message(OSError, write, "log", path, "new") == f"log '{path}' cannot be written: File name too long"
    assert names(tmp_path) == ["file"]
    write("log", tmp_path / ("é" * 127), "new")  # 254 bytes, one less than the longest allowed
    assert names(tmp_path) == ["file", "é" * 127]
    message(IsADirectoryError, write, "log", tmp_path, "new")
    assert message(IsADirectoryError, write_text, "log", tmp_path, "new") == (
        f"log '{tmp_path}' is a directory; a file is needed"
    )


def test_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        for call in (lambda path: write_text("log", path, "new"), lambda path: read_lines("log", path)):
            assert message(OSError, call, path) == f"log '{path}' is not a regular file; one is needed"
        assert stat.S_ISFIFO(path.stat().st_mode)
    append_line("log", "/dev/null", "new")


@contextmanager
def space(size):
    """No file may grow beyond this size, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(tmp_path):
    path, content = tmp_path / "a.pt", {"format": 1, "weight": torch.rand(50_000)}
    write_tensors("checkpoint", path, {"format": 1})
    before = path.read_bytes()
    with space(100_000):
        text = message(OSError, write_tensors, "checkpoint", path, content)
    assert text == f"checkpoint '{path}' cannot be written: File too large"
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.pt"]
    write_tensors("checkpoint", path, content)
    assert torch.equal(read_tensors("checkpoint", path, 1, {})["weight"], content["weight"])


def test_a_full_disk_keeps_no_part_of_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line("log", path, "x" * 60_000)
    with space(100_000):
        text = message(OSError, append_line, "log", path, "y" * 60_000)
    assert text == f"log '{path}' cannot be written: File too large"
    append_line("log", path, "z")
    assert read_lines("log", path) == ["x" * 60_000, "z"]
    if os.path.exists("/dev/full"):
        assert message(OSError, append_line, "log", "/dev/full", "x") == (
            "log '/dev/full' cannot be written: No space left on device"
        )


@pytest.mark.parametrize(
    ("write", "content", "text"),
    [
        (write_tensors, {"model": nn.Linear(1, 1)}, "plain data and tensors only: torch.nn.modules.linear.Linear"),
        (write_tensors, {"call": lambda: 0}, "plain data and tensors only: "),
        (write_tensors, {"file": sys.stderr}, "plain data and tensors only: "),
        (write_json, {"tensor": torch.zeros(1)}, "plain data only: Object of type Tensor is not JSON serializable"),
        (write_json, {("a", 1): 0}, "plain data only: keys must be str"),
        (append_line, {"path": Path()}, "plain data only: Object of type "),
    ],
)
def test_more_than_plain_data_writes_nothing(tmp_path, write, content, text):
    path = tmp_path / "new" / "a"
    found = message(TypeError, write, "file", path, content)
    assert found.startswith(f"file '{path}' can hold {text}")
    assert "\n" not in found
    assert names(tmp_path) == []


def test_what_is_written_is_read(tmp_path):
    write_text("table", tmp_path / "a.md", "größer\n")
    assert (tmp_path / "a.md").read_bytes() == "größer\n".encode()
    plain = {"format": 3, "eps": 8 / 255, "steps": 10, "name": "größer", "no": None, "list": [1, [2.5, True]], "of": {}}
    keys = {"eps": float, "steps": int | float, "name": str, "no": str | None, "list": list, "of": dict}
    for indent in (None, 1):
        write_json("result file", tmp_path / "a.json", plain, indent)
        assert read_json("result file", str(tmp_path / "a.json"), 3, keys) == plain
    assert (tmp_path / "a.json").read_text() == json.dumps(plain, indent=1)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    tensors = plain | {"state_dict": network.state_dict(), "half": torch.rand(3).half(), "bits": torch.ones(2).bool()}
    write_tensors("checkpoint", tmp_path / "a.pt", tensors)
    read = read_tensors("checkpoint", tmp_path / "a.pt", 3, keys | {"state_dict": dict, "half": torch.Tensor})
    assert list(read) == list(tensors)
    assert {key: read[key] for key in plain} == plain
    assert read["half"].dtype == torch.float16
    assert all(torch.equal(read["state_dict"][name], value) for name, value in network.state_dict().items())
    for record in (plain, [], "a\nb"):
        append_line("log", tmp_path / "a.jsonl", record)
    assert read_lines("log", tmp_path / "a.jsonl") == [plain, [], "a\nb"]
    assert names(tmp_path) == ["a.json", "a.jsonl", "a.md", "a.pt"]


KEYS = {"eps": int | float, "card": dict, "note": str | None}
FINE = {"format": 1, "eps": 0.5, "card": {}, "note": None}
UNFIT = [
    (FINE | {"format": 0}, "has format 0; this version of part_plugin reads 1"),
    (FINE | {"format": 2}, "has format 2; this version of part_plugin reads 1"),
    ({"eps": 0.5}, "is not one of part_plugin's; delete it"),
    (FINE | {"format": "1"}, "is not one of part_plugin's; delete it"),
    (FINE | {"format": True}, "is not one of part_plugin's; delete it"),
    ([1], "is not one of part_plugin's; delete it"),
    ({"format": 1, "eps": 0.5, "note": ""}, "is damaged or of another kind: 'card' is missing; delete it"),
    (FINE | {"eps": "1"}, "is damaged or of another kind: 'eps' is a str; int or float is needed; delete it"),
    (FINE | {"eps": True}, "is damaged or of another kind: 'eps' is a bool; int or float is needed; delete it"),
    (FINE | {"card": []}, "is damaged or of another kind: 'card' is a list; dict is needed; delete it"),
    (FINE | {"note": 1}, "is damaged or of another kind: 'note' is a int; str or None is needed; delete it"),
]


@pytest.mark.parametrize("read", [read_json, read_tensors])
@pytest.mark.parametrize(("content", "text"), UNFIT)
def test_files_that_do_not_fit(tmp_path, read, content, text):
    path = tmp_path / "a"
    if read is read_json:
        path.write_text(json.dumps(content))
    else:
        torch.save(content, path)
    assert message(ValueError, read, "state", path, 1, KEYS, "delete it") == f"state '{path}' {text}"


READERS = {
    "is damaged or not one of part_plugin's": lambda *a: read_json(*a, 1, {}),
    "is damaged or holds more than plain data and tensors": lambda *a: read_tensors(*a, 1, {}),
    "is damaged: line 1 is not JSON": read_lines,
}


@pytest.mark.parametrize("text", READERS)
def test_files_that_are_none(tmp_path, text):
    read, path = READERS[text], tmp_path / "a"
    assert message(FileNotFoundError, read, "checkpoint", path) == f"checkpoint '{path}' does not exist"
    path.symlink_to("gone")
    assert message(FileNotFoundError, read, "checkpoint", path) == f"checkpoint '{path}' does not exist"
    path.unlink()
    below = tmp_path / "file" / "a"
    below.parent.write_text("")
    assert message(FileNotFoundError, read, "checkpoint", below) == f"checkpoint '{below}' does not exist"
    assert message(IsADirectoryError, read, "checkpoint", tmp_path) == (
        f"checkpoint '{tmp_path}' is a directory; a file is needed"
    )
    for damaged in (b"x", b"\xff\xfe", b"[" * 100_000, b'{"format": 1', b"\x80\x02."):
        path.write_bytes(damaged)
        assert message(ValueError, read, "checkpoint", path) == f"checkpoint '{path}' {text}"


def test_wherever_a_file_was_cut_it_is_damaged(tmp_path):
    path = tmp_path / "a"
    content = {"format": 1, "weight": torch.arange(10.0), "name": "größer"}
    write_tensors("checkpoint", path, content)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert "is damaged or holds more" in message(ValueError, read_tensors, "checkpoint", path, 1, {})
    write_json("state", path, {"format": 1, "name": "größer"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert "is damaged or not one of" in message(ValueError, read_json, "state", path, 1, {})
    append_line("log", path.with_name("log"), [1, 2])
    append_line("log", path.with_name("log"), [1, 2])
    path.with_name("log").write_bytes(path.with_name("log").read_bytes()[:-3])
    assert message(ValueError, read_lines, "log", path.with_name("log")).endswith("log' is damaged: line 2 is not JSON")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Harm:
        def __reduce__(self):
            return Path.touch, (tmp_path / "harm",)

    torch.save({"format": 1, "harm": Harm()}, tmp_path / "a.pt")
    assert "is damaged or holds more than plain data" in message(
        ValueError, read_tensors, "checkpoint", tmp_path / "a.pt", 1, {}
    )
    assert names(tmp_path) == ["a.pt"]
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert names(tmp_path) == ["a.pt", "harm"]


@pytest.mark.parametrize("check", [check_writable, check_appendable])
def test_a_trial_changes_nothing(tmp_path, check):
    kept = tmp_path / "kept"
    kept.write_text("old")
    kept.chmod(0o604)
    before = kept.stat()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "new link").symlink_to("target")
    for path in ("kept", "link", "new link", "new", "deep/er/new"):
        check("log", tmp_path / path)
    assert names(tmp_path) == ["kept", "link", "new link"]
    after = kept.stat()
    assert kept.read_text() == "old"
    assert (after.st_mode, after.st_ino, after.st_mtime_ns) == (before.st_mode, before.st_ino, before.st_mtime_ns)


WRITERS = {check_writable: write_text, check_appendable: append_line}


@pytest.mark.parametrize("check", WRITERS)
def test_a_trial_says_what_writing_would(tmp_path, check):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("gone/target")
    (tmp_path / "loop").symlink_to("loop")
    before = names(tmp_path)
    for path in ("file/a", "file/b/a", "folder", "link", "link/a", "loop", "x" * 300, "/proc/a", "/proc/a/b"):
        said = [message_of(call, tmp_path / path) for call in (check, lambda *given: WRITERS[check](*given, "text"))]
        assert said[0] == said[1]
        assert names(tmp_path) == before
    with somebody() as folder:
        folder.chmod(0o555)
        for path in (folder / "a", folder / "b" / "a"):
            assert message(PermissionError, check, "log", path) == f"log '{path}' cannot be written: Permission denied"
        folder.chmod(0o755)


def message_of(call, path):
    with pytest.raises(OSError) as caught:
        call("log", path)
    return type(caught.value), str(caught.value)


def test_a_trial_of_a_device(tmp_path):
    check_appendable("log", "/dev/null")
    assert (
        message(OSError, check_writable, "log", "/dev/null") == "log '/dev/null' is not a regular file; one is needed"
    )
