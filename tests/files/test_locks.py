"""One process or thread at a time writes a file, and a lock ends with whoever has it."""

import multiprocessing
import os
import re
import signal
import threading
import time
from contextlib import ExitStack

import pytest

from part_plugin.files import locked

processes = multiprocessing.get_context("fork")


def hold(path, connection, child=False):
    with locked("result file", path):
        worker = processes.Process(target=time.sleep, args=(60,), daemon=True) if child else None
        if worker:
            worker.start()
        connection.send(worker.pid if worker else None)
        connection.recv()
    connection.send("done")


def start(path, child=False):
    """A process that has the lock, the connection to it, and the pid of a child of its own."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=hold, args=(path, theirs, child))
    process.start()
    return process, ours, ours.recv()


def refused(path):
    with pytest.raises(BlockingIOError) as caught, locked("result file", path):
        pass
    return str(caught.value)


def test_another_process_is_told_and_gets_it_afterwards(tmp_path):
    path = tmp_path / "new" / "a.json"
    process, connection, _ = start(path)
    assert refused(path) == (
        f"result file '{path}' is being written by process {process.pid} on {os.uname().nodename}; wait for its end or "
        "choose another name"
    )
    with locked("result file", tmp_path / "new" / "b.json"):  # another file
        pass
    connection.send("end")
    assert connection.recv() == "done"
    process.join()
    assert list(tmp_path.iterdir()) == []
    with locked("result file", path):
        path.write_text("mine")
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_lock_dies_with_its_process_though_a_child_lives_on(tmp_path):
    """As the workers of a data loader do, for seconds."""
    path = tmp_path / "a.json"
    process, _, child = start(path, child=True)
    refused(path)
    process.kill()
    process.join()
    os.kill(child, 0)  # it lives
    try:
        assert [file.name for file in tmp_path.iterdir()] == [".a.json.lock"]
        with locked("result file", path):
            pass
        assert list(tmp_path.iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_thread_may_take_its_lock_again_and_no_other_thread(tmp_path):
    path, said = tmp_path / "a.json", []
    (tmp_path / "link").symlink_to("a.json")
    with locked("result file", path):
        with locked("checkpoint", tmp_path / "link"):  # another name of the same file
            thread = threading.Thread(target=lambda: said.append(refused(path)))
            thread.start()
            thread.join()
        refused_still = threading.Thread(target=lambda: said.append(refused(path)))
        refused_still.start()
        refused_still.join()
    assert len(said) == 2
    assert f"process {os.getpid()} on " in said[0]
    assert [file.name for file in tmp_path.iterdir()] == ["link"]


def test_of_many_who_come_and_go_one_has_it(tmp_path):
    """None is ever left with a lock file that another has removed."""
    path, inside, counts = tmp_path / "new" / "a.json", [], [0, 0]

    def come_and_go():
        for _ in range(300):
            try:
                with locked("result file", path):
                    inside.append(1)
                    assert len(inside) == 1
                    inside.pop()
                counts[0] += 1
            except BlockingIOError:
                counts[1] += 1

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 1200
    assert counts[0] > 0
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("text", [b"", b"process x\n", b"\x1b[2J\n", b"\xff" * 1000])
def test_what_a_lock_file_says_is_not_trusted(tmp_path, text):
    path = tmp_path / "a.json"
    process, connection, _ = start(path)
    (tmp_path / ".a.json.lock").write_bytes(text)
    assert " is being written by another process; wait" in refused(path)
    connection.send("end")
    process.join()


def test_where_no_lock_can_be(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone/target")
    (tmp_path / ".b.json.lock").symlink_to("elsewhere")
    for path, why in (
        (tmp_path / "file" / "a.json", f"'{tmp_path}/file' is not a directory"),
        (tmp_path / "link", f"it is a link to '{tmp_path}/gone/target', whose directory does not exist"),
        (tmp_path / "b.json", "Too many levels of symbolic links"),
        ("/proc/a.json", "No such file or directory"),
    ):
        with pytest.raises(OSError) as caught, locked("result file", path):
            pass
        assert str(caught.value) == f"result file '{path}' cannot be written: {why}"
    with locked("result file", tmp_path / ("é" * 127)):  # whose lock's name would be too long
        (lock,) = [file.name for file in tmp_path.iterdir() if re.fullmatch(r"\.[0-9a-f]{64}\.lock", file.name)]
    assert not (tmp_path / lock).exists()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    import fcntl

    def none(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    stack = ExitStack()
    with pytest.warns(UserWarning, match=r"cannot be locked \(Function not implemented\); do not write it twice"):
        stack.enter_context(locked("log", tmp_path / "a"))
    stack.close()
    assert list(tmp_path.iterdir()) == []
