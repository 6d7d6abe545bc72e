"""PART under Lightning: the very steps of a bare loop, also after a checkpoint, and on two ranks."""

import copy
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import SmallNet
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import PART, Soft
from part_plugin.adapters.lightning import PARTCallback, PARTModule

MASKS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.1, "steps": 3, "burn_in": 0, "mask_every": 2, "seed": 5}
PATHS = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])}
SETTINGS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.1, "steps": 3, "burn_in": 1, "seed": 5}


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.05, momentum=0.9)


def halved(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def trainer(tmp_path, **options):
    warnings.filterwarnings("ignore", category=UserWarning)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(**quiet | {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path} | options)


@pytest.fixture
def samples(digits):
    return TensorDataset(digits[0][:96], digits[1][:96], torch.arange(96))


def fresh():
    torch.manual_seed(0)
    network = SmallNet(width=8)
    network.dropout.p = 0.0  # which draws from the global generator, as a loader of validation images does
    return network


def by_hand(part, samples, epochs, numbered=False, remembers=False):
    """A bare loop over the same batches."""
    network = fresh()
    optimizer = sgd(network.parameters())
    schedule = halved(optimizer)
    for epoch in range(epochs):
        part.set_epoch(epoch)
        if remembers and part.masks_due():
            for x, y, index in DataLoader(samples, 128):
                part.remember(network, x, y, index)
        for x, y, index in DataLoader(samples, 32):
            optimizer.zero_grad()
            part.loss(network.train(), x, y, *([index] if numbered else [])).backward()
            optimizer.step()
        schedule.step()
    return network.state_dict()


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_the_weights_are_those_of_a_bare_loop(samples, tmp_path, objective):
    """With a validation in every epoch, whose attacks move nothing, and what it logs is what it says."""
    module = PARTModule(fresh(), PART(objective, **SETTINGS), sgd, halved)
    plain = TensorDataset(*samples.tensors[:2])
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, DataLoader(plain, 32), DataLoader(plain, 48))
    assert_same(module.network.state_dict(), by_hand(PART(objective, **SETTINGS), samples, 3))
    network = module.network.eval()
    x, y = plain.tensors
    natural = (network(x).argmax(1) == y).float().mean()
    assert run.callback_metrics["val_natural"] == pytest.approx(float(natural))
    assert 0 < run.callback_metrics["val_pgd10"] < natural
    assert {"loss", "adv_accuracy"} <= run.callback_metrics.keys()
    assert not any("part" in name for name in module.state_dict())


class Own(LightningModule):
    """A user's own module: three lines of ours."""

    def __init__(self, part):
        super().__init__()
        self.network = fresh()
        self.part = part

    def training_step(self, batch, batch_idx):
        x, y = batch[:2]
        adv = self.part.perturb(self.network, x, y)
        return F.cross_entropy(self.network(adv), y)

    def configure_optimizers(self):
        optimizer = sgd(self.parameters())
        return [optimizer], [halved(optimizer)]


def test_a_module_of_ones_own(samples, tmp_path):
    part = PART(**SETTINGS)
    module = Own(part)
    trainer(tmp_path, max_epochs=3, callbacks=[PARTCallback(part)]).fit(module, DataLoader(samples, 32))
    assert_same(module.network.state_dict(), by_hand(PART(**SETTINGS), samples, 3))


@pytest.mark.parametrize("rule", [None, Soft()])
def test_masks_are_made_of_all_samples_when_they_are_due_and_go_on_after_a_checkpoint(samples, tmp_path, rule):
    """Into a new module, after the first epoch with masks, of two."""
    settings = SETTINGS | {"mask_every": 2, "rule": rule}
    expected = by_hand(PART(**settings), samples, 4, numbered=True, remembers=True)
    for epochs, start in ((2, None), (4, tmp_path / "a.ckpt")):
        module = PARTModule(fresh(), PART(**settings), sgd, halved, dataset=samples)
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(module, DataLoader(samples, 32), ckpt_path=start, weights_only=True)
        assert len(module.part.masks) == 96
        run.save_checkpoint(tmp_path / "a.ckpt")
    assert_same(module.network.state_dict(), expected)


def test_masks_need_the_samples():
    message = "dataset=None does not go with mask_every=2, whose masks are made of all of it; pass the training samples"
    for make in (PARTCallback, lambda part: PARTModule(fresh(), part, sgd)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}, not augmented$"):
            make(PART(mask_every=2))


def test_two_ranks_share_masks_and_start_at_different_points(samples, tmp_path):
    """Under Lightning's own launcher; their losses are those of the same batches here, and so are the masks."""
    script = Path(__file__).parent / "lightning_ranks.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300, env=os.environ | PATHS
    )
    assert done.returncode == 0, done.stderr
    notes = [[torch.load(tmp_path / f"{rank}-{step}.pt") for step in range(3)] for rank in range(2)]
    expected = PART(**MASKS)
    expected.set_epoch(0)
    expected.masks_due()
    expected.remember(fresh(), *samples.tensors)
    for one, other in zip(*notes, strict=True):
        assert not set(one["index"].tolist()) & set(other["index"].tolist())
        assert torch.equal(one["weights"], other["weights"])  # after averaged gradients
        for rank in (one, other):
            for name in ("mask_keys", "masks"):
                assert torch.equal(rank["part"][name], expected.state_dict()[name])
    losses = []
    for rank in range(2):
        index = notes[rank][0]["index"]
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("RANK", str(rank))
            part = copy.deepcopy(expected)
            x, y = samples.tensors[0][index], samples.tensors[1][index]
            losses.append(float(part.loss(fresh(), x, y, index).detach()))
    assert losses == pytest.approx([float(notes[rank][0]["loss"]) for rank in range(2)], abs=1e-6)
