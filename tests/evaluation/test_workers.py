"""Processes that share an evaluation: the flags of one, whatever happens to them."""

import json
import logging
import pickle
import re
import subprocess
import sys
import threading

import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod
from art.estimators.classification import PyTorchClassifier
from conftest import assert_untouched, snapshot
from evaluation.conftest import EPS
from evaluation.travellers import ByProcess, Chatty, Deadly, Homeless, Refusing, Sleeping, brightness
from torch import nn

from part_plugin import FixedBudget, PixelBudget, PixelPGD, evaluate
from part_plugin.evaluation import worker, workers
from part_plugin.evaluation.iterative import IterativeAttack
from part_plugin.evaluation.pieces import Task
from part_plugin.evaluation.sharing import environments
from part_plugin.evaluation.travel import packed
from part_plugin.evaluation.worker_main import Settings
from part_plugin.evaluation.workers import Workers

NAMES = ["natural", "pgd3", "mma2", "adaptive_pgd2"]
OPTIONS = {"batch_size": 16, "verbose": False}


@pytest.fixture
def started(monkeypatch):
    """The processes that are started."""
    found = []
    popen = subprocess.Popen

    def start(*arguments, **options):
        found.append(popen(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return found


def flags(result):
    return {row.name: row.correct.tolist() for row in result.results}


def pieces_of(path):
    return json.loads(path.read_text())["pieces"]


def test_the_flags_are_those_of_one_process(narrow_net, held_out, tmp_path, started):
    """Of each kind of attack; either way goes on with the state of the other, and nothing is left behind."""
    narrow_net.train()
    toolkit = [torchattacks.PGD(narrow_net, EPS, EPS / 4, 3), PixelPGD(narrow_net, EPS, EPS / 4, 2, eps_low=0.05)]
    options = OPTIONS | {"attacks": [*NAMES, *toolkit], "adaptive": PixelBudget(0.15, 0.1, cam=brightness)}
    alone = evaluate(narrow_net, *held_out, EPS, **options)
    assert started == []
    path = tmp_path / "state.json"
    evaluate(narrow_net, *held_out, EPS, ["natural", "pgd3"], state=path, **OPTIONS)
    kept, before, random = pieces_of(path), snapshot(narrow_net), torch.random.get_rng_state()
    shared = evaluate(narrow_net, *held_out, EPS, state=path, jobs=2, **options)
    assert_untouched(narrow_net, before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert flags(shared) == flags(alone)
    assert len(started) == 2
    assert all(process.returncode is not None for process in started)
    assert shared.card == alone.card
    whole = pieces_of(path)
    assert kept.items() <= whole.items()
    again = evaluate(narrow_net, *held_out, EPS, state=path, **options)  # makes nothing
    assert [row.to_dict() for row in again.results] == [row.to_dict() for row in shared.results]
    assert pieces_of(path) == whole
    one_each = [evaluate(narrow_net, *held_out, EPS, ["pgd3"], state=path, jobs=2, **OPTIONS)["pgd3"].seconds]
    assert one_each == [shared["pgd3"].seconds]
    assert len(started) == 2  # as nothing was left to do


def test_a_piece_whose_process_is_killed_is_made_again(narrow_net, held_out, tmp_path, caplog, started):
    expected = flags(evaluate(narrow_net, *held_out, EPS, NAMES, **OPTIONS))
    (tmp_path / "mark").touch()
    result = evaluate(Deadly(narrow_net, tmp_path), *held_out, EPS, NAMES, jobs=2, **OPTIONS)
    assert flags(result) == expected
    assert len(started) == 3
    (told,) = [record.getMessage() for record in caplog.records if record.name == worker.__name__]
    assert re.search(r"^the process that made .*pgd3.* ended with exit code -9; it is made again$", told)


def test_a_piece_that_kills_every_process_is_told(narrow_net, held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "ATTEMPTS", 1)
    for mark in range(9):
        (tmp_path / str(mark)).touch()
    state = tmp_path / "state.json"
    with pytest.raises(RuntimeError, match=r"pgd3.*ended its process 1 times, at last with exit code -9; fewer proce"):
        evaluate(Deadly(narrow_net, tmp_path), *held_out, EPS, NAMES, jobs=2, state=state, **OPTIONS)
    assert len(pieces_of(state)) == 4  # the natural ones


def tasks_of(attack, images, labels):
    entry = IterativeAttack({"pgd1": 1}, False, FixedBudget(EPS), EPS, 0) if attack == "pgd1" else attack
    return [Task(str(number), entry, images[number::2], labels[number::2]) for number in range(2)]


def by_one_process(net, held_out):
    """Flags and errors of tasks that a process of its own makes, or is to make."""
    images, labels = held_out
    with Workers(net, [{}]) as hands:
        hands.start(net.eval(), images[:8], {"n": 64, "batch_size": 32})
        return dict(made for made in hands.run(tasks_of("pgd1", images, labels)))


def test_an_error_of_a_piece_is_raised_here(narrow_net, held_out):
    with pytest.raises(ArithmeticError, match=r"^not a third time$") as raised:
        by_one_process(Refusing(narrow_net), held_out)
    assert "in forward" in str(raised.value.__cause__)


def locked(net):
    net.lock = threading.Lock()
    return net


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (ByProcess, r"the network's logits in another are not those that it has here"),
        (Homeless, r"the network cannot be made in another \(OSError: no place\)"),
        (locked, r"the network cannot be sent to another \(TypeError: cannot pickle '_thread.lock' object\)"),
    ],
)
def test_a_network_that_cannot_travel_is_evaluated_here(held_out, caplog, started, change, reason):
    net = change(nn.Linear(64, 10))
    model = nn.Sequential(nn.Flatten(), net).eval()
    made = by_one_process(model, held_out)
    (record,) = caplog.records
    assert (record.name, record.levelno) == (workers.__name__, logging.WARNING)
    text = f"all is evaluated in one process: {reason}; under torchrun each process makes its own network"
    assert re.fullmatch(text, record.getMessage())
    expected = [task.made(model)["pgd1"][0] for task in tasks_of("pgd1", *held_out)]
    assert [piece["pgd1"][0] for piece in made.values()] == expected
    assert all(process.returncode is not None for process in started)


def test_an_attack_that_cannot_travel_is_made_here(narrow_net, held_out, caplog, started):
    classifier = PyTorchClassifier(narrow_net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    attacks = [FastGradientMethod(classifier, eps=EPS)]
    result = evaluate(narrow_net, *held_out, EPS, attacks, jobs=2, **OPTIONS)
    assert flags(result) == flags(evaluate(narrow_net, *held_out, EPS, attacks, **OPTIONS))
    (record,) = caplog.records
    text = "its attack cannot be sent to another (one of ART writes files when it is pickled)"
    assert f"is evaluated in one process: {text}" in record.getMessage()
    assert started == []


SCRIPT = """
import torch
from torch import nn
from part_plugin import evaluate

print("once")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return self.net(x)

torch.manual_seed(0)
torch.set_num_threads(1)
result = evaluate(Net(), torch.rand(4, 1, 8, 8), torch.arange(4), 0.1, ["pgd1"], batch_size=2, verbose=False, jobs=2)
print(result.results[0].correct.tolist())
"""


def test_a_script_needs_no_guard():
    """What it defines itself travels, and it is not run again by the processes."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert (done.stdout.splitlines()[0], done.stderr) == ("once", "")
    assert len(done.stdout.splitlines()) == 2


def test_processes_end_with_the_one_that_asks(narrow_net, held_out):
    """Whatever they do, as whoever is killed cannot say so: what they are asked by is closed."""
    one = worker.Worker(pickle.dumps((Settings.here(), packed(Chatty(narrow_net)), packed(held_out[0]))), {}, set())
    assert torch.equal(one.begin(), narrow_net(held_out[0]))
    process = one._process
    process.stdin.write(pickle.dumps(packed(Task("long", Sleeping(), *held_out))))
    process.stdin.close()
    assert process.wait(60) == 0
    process.stdout.close()


def test_one_batch_is_nothing_to_share(narrow_net, held_out, started, caplog):
    evaluate(narrow_net, *held_out, EPS, ["pgd1"], batch_size=64, verbose=False, jobs=2)
    assert started == []
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 2 processes have work: 64 images are 1 batches of batch_size=64, which are what they share"
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"jobs": 0}, ValueError, r"jobs=0 is not allowed; it must be >= 1"),
        ({"jobs": "2"}, TypeError, r"jobs='2' is a str; an integer is needed"),
        ({"devices": 1.5}, TypeError, r"devices=1.5 is a float; an integer is needed"),
        ({"devices": 2}, ValueError, "devices=2 is for models on cuda; the model is on cpu, for which there is jobs"),
        (
            {"devices": 2, "jobs": 3},
            ValueError,
            "jobs=3, devices=2 and ranks=False do not go together; choose one of them",
        ),
        ({"jobs": 2, "ranks": True}, ValueError, "jobs=2, devices=1 and ranks=True do not go together; choose one"),
        ({"ranks": True}, RuntimeError, r"ranks=True needs torch.distributed.init_process_group\(\) before it"),
    ],
)
def test_wrong_arguments(narrow_net, held_out, tmp_path, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        evaluate(narrow_net, *held_out, state=tmp_path / "state.json", verbose=False, **options)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_torch_travel():
    before = Settings.here()
    try:
        torch.set_num_threads(2)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        changed = Settings.here()
        assert (changed.threads, changed.dtype, changed.deterministic) == (2, torch.float64, True)
        before.take()
        assert Settings.here() == before
        changed.take()
        assert Settings.here() == changed
    finally:
        before.take()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("visible", "own", "devices", "there", "found"),
    [
        (None, 0, 2, 4, ["0,1,2,3", "1,0,2,3"]),
        (None, 2, 3, 4, ["0,1,2,3", "0,1,3,2", "2,1,0,3"]),
        ("5,7", 1, 2, 2, ["5,7", "7,5"]),
        ("MIG-a,MIG-b,MIG-c", 0, 2, 3, ["MIG-a,MIG-b,MIG-c", "MIG-b,MIG-a,MIG-c"]),
    ],
)
def test_each_process_sees_its_card_in_the_place_of_the_models(monkeypatch, visible, own, devices, there, found):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environments(own, devices, there) == [{"CUDA_VISIBLE_DEVICES": names} for names in found]
