"""Ctrl-C and SIGTERM: one sentence, an exit code, and no traceback, whenever they come."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from part_plugin.stopping import Terminated, exiting_when_stopped, telling_where

TRAIN = [str(Path(sys.executable).with_name("part-plugin")), "train", "a.pt", "--preset", "digits", "--n", "40"]
for setting in ("epochs=5000", "burn_in=0", "steps=1"):
    TRAIN += ["--set", setting]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def begun(folder):
    """A training that has written its first epoch."""
    process = subprocess.Popen(TRAIN, cwd=folder, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (folder / "a.pt.run" / "resume.ckpt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", CODES)
def test_a_training_says_where_it_was(tmp_path, number):
    process = begun(tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    sentence = (
        r"part-plugin: stopped in epoch (\d+) of 5000; train again with the same settings to go on after epoch (\d+)\n"
    )
    found = re.fullmatch(sentence, errors)
    assert int(found[1]) == int(found[2]) + 1
    assert process.returncode == CODES[number]
    assert not (tmp_path / "a.pt").exists()
    assert (tmp_path / "a.pt.run" / "curves.png").exists()


def test_two_equal_trainings(tmp_path):
    """The second says that there is a first, which goes on."""
    first = begun(tmp_path)
    second = subprocess.run(TRAIN, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (second.returncode, second.stdout) == (2, "")
    assert second.stderr == (
        f"part-plugin: checkpoint 'a.pt' is being written by process {first.pid} on {os.uname().nodename}; wait for "
        "its end or choose another name\n"
    )
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(300) == 143


@pytest.mark.parametrize("number", CODES)
def test_while_the_package_is_imported(tmp_path, number):
    process = subprocess.Popen(TRAIN, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while "libtorch" not in maps.read_text():  # its import has begun
        assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert errors == "part-plugin: stopped; nothing is lost, give the same command again\n"
    assert process.returncode == CODES[number]
    assert list(tmp_path.iterdir()) == []


def test_a_background_job_of_a_shell_ignores_ctrl_c():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a child inherits, as from such a shell
    try:
        process = subprocess.Popen([TRAIN[0], "presets"], stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    assert process.communicate()[0].startswith(b"cifar10")
    assert process.returncode == 0


START = """
import os, signal, time
from part_plugin import stopping
stopping._AGAIN = 0.5
def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
class Swallows:
    def __del__(self):
        stop()
with stopping.exiting_when_stopped():
    stopping.stop_on_signals()
    with stopping.telling_where(lambda: "stopped in the work"):
"""
ENDS = {  # in which Python or a library drops the exception, or puts another in its place
    "a destructor": "Swallows(); print('went on', flush=True); time.sleep(60)",
    "another error": "\n        try: stop()\n        finally: raise RuntimeError('a worker died')",
    "a child": "\n        if os.fork() == 0: stop()\n        os.wait(); print('went on', flush=True); stop()",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_stop_gets_through(end):
    done = subprocess.run(
        [sys.executable, "-c", START + " " * 8 + ENDS[end]], capture_output=True, text=True, timeout=300
    )
    assert done.stderr == "part-plugin: stopped in the work\n"
    assert done.returncode == 143
    assert done.stdout == ("" if end == "another error" else "went on\n")


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_the_first_text_is_told(capsys, error, code):
    kept = {number: signal.getsignal(number) for number in CODES}
    try:
        with (
            pytest.raises(SystemExit) as caught,
            exiting_when_stopped(),
            telling_where(lambda: "outer"),
            telling_where(lambda: "inner"),
        ):
            raise error
        assert [signal.getsignal(number) for number in CODES] == [signal.SIG_IGN] * 2  # while the process ends
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert caught.value.code == code
    assert capsys.readouterr().err == "part-plugin: inner\n"
