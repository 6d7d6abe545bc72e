"""Loops of one's own on several ranks: plain DDP, Accelerate, Fabric, FSDP2, against one process, to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engines.alone import alone
from engines.ranks import SETTINGS, WAYS, batches, fresh
from lightning.fabric import Fabric

from part_plugin import PART, class_activation_map

TESTS = Path(__file__).parents[1]
PATHS = {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
BROADCAST = {  # whose batch-norm statistics the ranks have, and when
    "ddp": "pass",
    "accelerate": "pass",
    "fabric": "pass",
    "ddp, a step a pass": "step",
    "fsdp2": "never",
}


TASKS = [f"{engine}/{way}" for engine in BROADCAST for way in WAYS if (engine, way) != ("fsdp2", "fold")]


def launched(launcher, folder, ranks=2, tasks=()):
    """What each rank wrote down."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*(torchrun if launcher == "torchrun" else []), TESTS / "engines" / "ranks.py", launcher, folder]
    environment = os.environ | PATHS | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, *tasks], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return launched("torchrun", tmp_path_factory.mktemp("ranks"), tasks=[*TASKS, "masks of few", "schedule", "orders"])


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_are_one_process_with_averaged_gradients(two_ranks, way, monkeypatch):
    """To the bit: weights, batch-norm statistics of each rank, and so every random start and mask."""
    expected = {broadcast: alone(way, 2, broadcast, monkeypatch) for broadcast in ("pass", "step", "never")}
    for task in (task for task in TASKS if task.endswith(f"/{way}")):
        states = expected[BROADCAST[task.split("/")[0]]]
        for found, state in zip(two_ranks, states, strict=True):
            assert found[task].keys() == state.keys()
            for name, value in state.items():
                assert torch.equal(found[task][name], value), (task, name)
    weights = [expected[broadcast][0]["head.weight"] for broadcast in expected]
    assert not torch.equal(weights[0], weights[1])  # the trap: whose statistics an attack reads changes the training
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
def test_three_ranks_are_one_process_but_for_rounding(tmp_path, monkeypatch):
    found = launched("torchrun", tmp_path, 3, ["ddp/at"])
    for broadcast, close in (("pass", True), ("step", False)):
        for ours, theirs in zip(found, alone("at", 3, broadcast, monkeypatch), strict=True):
            distance = max((ours["ddp/at"][name] - value).abs().max() for name, value in theirs.items())
            assert (distance < 1e-4) == close


def test_a_rank_without_new_samples_is_not_waited_for(two_ranks):
    """Of a sharded network, whose passes are those of all ranks; the masks are those of its weights in one place."""
    part = PART(**SETTINGS | WAYS["masks"])
    for rank, steps in ((0, (0, 1)), (1, (0,))):
        found = two_ranks[rank]["masks of few"]
        samples = list(batches(rank, 2))
        assert found["mask_keys"].tolist() == [number for step in steps for number in samples[step][2].tolist()]
        part.masks.load_state_dict(found)
        for x, _, index in (samples[step] for step in steps):
            expected = part.budget.weights(fresh(), x)[0]
            assert torch.equal(part.masks.get(index, x.shape[2:]), expected)


@pytest.mark.parametrize(
    "launcher", ["torchrun", *(pytest.param(one, marks=pytest.mark.slow) for one in ("spawn", "fabric"))]
)
def test_every_launcher_gives_ranks_starts_of_their_own(two_ranks, tmp_path, launcher):
    """Fabric's is Lightning's as well; there is more on that in test_lightning.py."""
    found = two_ranks if launcher == "torchrun" else launched(launcher, tmp_path)
    keys = [np.random.SeedSequence((5, rank, 0)).generate_state(1, np.uint64)[0] >> 1 for rank in range(2)]
    assert [each["seed"] for each in found] == keys


def test_what_to_know_of_accelerate(two_ranks):
    """As docs/ENGINES.md has it: of schedulers, which it steps once for every rank, and of orders after a resume."""
    for rank in two_ranks:
        assert rank["schedule"] == {"kept": 3, "prepared": 6}
        assert rank["orders"][True, 1] == rank["orders"][True, 2]
        assert rank["orders"][False, 1] != rank["orders"][False, 2]
    for seedable in (True, False):
        seen = [number for rank in two_ranks for number in rank["orders"][seedable, 2]]
        assert sorted(seen) == list(range(64))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_module_of_fabric(precision):
    """Is the network inside; its precision is that of `fabric.autocast` and of the images."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    network, plain = fresh(), fresh()
    x, y, _ = next(batches(0, 1))
    if precision == "bf16-true":
        x, plain = x.bfloat16(), plain.bfloat16()
    model = fabric.setup(network)
    maps = class_activation_map(model, x, target_layers=model.features)
    assert torch.equal(maps, class_activation_map(plain, x, target_layers="features"))
    with fabric.autocast():
        ours, theirs = (PART(**SETTINGS).perturb(net, x, y) for net in (model, plain))
    assert torch.equal(ours, theirs)
    part = PART(**SETTINGS)
    with fabric.autocast():
        loss = part.loss(model, x, y)
    fabric.backward(loss)
    assert network.head.weight.grad.abs().sum() > 0
