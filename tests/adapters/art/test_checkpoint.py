"""`fit(checkpoint=...)`: what was stopped goes on to the same weights, and what does not fit is told."""

import json
import os
import random

import numpy as np
import pytest
import torch
from adapters.art.helpers import classify, fresh, pgd
from art.attacks.evasion import FastGradientMethod
from conftest import SmallNet

from part_plugin import PARTTrainer, PARTTrainerMART, PARTTrainerTRADES
from part_plugin.adapters.art.checkpoint import random_state, set_random_state
from part_plugin.files import read_tensors, write_tensors

TRAINERS = {
    "AT": lambda c, **o: PARTTrainer(c, [pgd(c, max_iter=2), FastGradientMethod(c, eps=0.1)], **o),
    "TRADES": lambda c, **o: PARTTrainerTRADES(c, pgd(c, max_iter=2), **o),
    "MART": lambda c, **o: PARTTrainerMART(c, pgd(c, max_iter=2, num_random_init=2), **o),
}


class Stopped(BaseException):
    """As a signal, which is no Exception."""


class Stopping(SmallNet):
    """Is stopped at a training pass of a certain number."""

    left = -1

    def forward(self, x):
        if self.training:
            self.left -= 1
            if self.left == 0:
                raise Stopped
        return super().forward(x)


def run(dataset, make, checkpoint, stop_at=-1, log=None, epochs=5, seed=0):
    """One process, as it were: a new network, trainer and seed; returns network, optimizer and trainer."""
    torch.manual_seed(0)
    net = Stopping()
    net.left = stop_at
    classifier = classify(net)
    scheduler = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 2, 0.5)
    for generator in (np.random.seed, torch.manual_seed, random.seed):
        generator(seed)
    trainer = TRAINERS[make](classifier, burn_in=1, mask_every=2, log_path=log)
    trainer.fit(
        dataset[0][:90], dataset[1][:90], batch_size=32, nb_epochs=epochs, scheduler=scheduler,
        checkpoint=checkpoint, verbose=False,
    )  # fmt: skip
    return net, classifier.optimizer, trainer


def timeless(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


@pytest.mark.parametrize("make", TRAINERS)
@pytest.mark.parametrize("stops", [[1], [5], [9, 4, 2], [15]])
def test_what_is_stopped_goes_on_to_the_same_weights(dataset, tmp_path, make, stops):
    """After 1, 5, ... training passes, of 3 an epoch (TRADES and MART: 6), each time in what is as a new process."""
    whole, optimizer, trainer = run(dataset, make, None, log=tmp_path / "whole.jsonl")
    path, log = tmp_path / "new" / "fit.pt", tmp_path / "log.jsonl"
    for number, stop_at in enumerate(stops):
        with pytest.raises(Stopped):
            run(dataset, make, path, stop_at, log, seed=100 * number)  # whose seed the file goes before
    found, found_optimizer, found_trainer = run(dataset, make, path, log=log, seed=77)
    assert all(map(torch.equal, whole.state_dict().values(), found.state_dict().values()))
    assert repr(optimizer.state_dict()) == repr(found_optimizer.state_dict())
    assert timeless(trainer.history) == timeless(found_trainer.history)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert timeless(lines) == timeless(trainer.history)
    assert os.listdir(path.parent) == ["fit.pt"]


def test_what_is_through_is_not_trained_again(dataset, tmp_path):
    path = tmp_path / "fit.pt"
    first, _, trainer = run(dataset, "AT", path)
    written = path.stat().st_mtime_ns
    again, _, found = run(dataset, "AT", path, stop_at=1)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    assert found.history == trainer.history
    assert found.epoch == 5
    assert path.stat().st_mtime_ns == written


def test_a_longer_training_goes_on_from_a_shorter_one(dataset, tmp_path):
    whole, _, _ = run(dataset, "AT", None, epochs=7)
    run(dataset, "AT", tmp_path / "fit.pt", epochs=3)
    found, _, _ = run(dataset, "AT", tmp_path / "fit.pt", epochs=7)
    assert all(map(torch.equal, whole.state_dict().values(), found.state_dict().values()))


@pytest.mark.parametrize("stop_at", [None, 1, 4, 8])
def test_a_loop_of_fits_goes_on(dataset, tmp_path, stop_at):
    """Of which the file has done some already; those are passed over."""

    def loop(checkpoint, stop_at=-1, seed=0):
        torch.manual_seed(0)
        net = Stopping()
        net.left = stop_at
        classifier = classify(net)
        trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), burn_in=1, mask_every=2)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for _ in range(3):
            trainer.fit(dataset[0][:90], dataset[1][:90], 32, 2, checkpoint=checkpoint, verbose=False)
        assert trainer.epoch == 6
        assert [record["epoch"] for record in trainer.history] == list(range(6))
        return net.state_dict()

    expected = loop(None)
    if stop_at is not None:
        with pytest.raises(Stopped):
            loop(tmp_path / "fit.pt", stop_at)
    found = loop(tmp_path / "fit.pt", seed=0 if stop_at is None else 5)
    assert all(map(torch.equal, expected.values(), found.values()))


def test_a_curriculum_goes_on(dataset, tmp_path):
    """The settings that the attack had at the end of the last epoch are restored, on the user's own object."""

    attacks = []

    class Shrinking(torch.optim.lr_scheduler.StepLR):
        def step(self, *args):
            super().step(*args)
            if self.last_epoch > 0:
                attacks[-1].set_params(eps=attacks[-1].eps / 2)

    weights = []
    for stops in ([], [5]):
        path = tmp_path / f"{len(stops)}.pt"
        for stop_at in [*stops, -1]:
            torch.manual_seed(0)
            net = Stopping()
            net.left = stop_at
            classifier = classify(net)
            attack = pgd(classifier, max_iter=1)
            attacks.append(attack)
            scheduler = Shrinking(classifier.optimizer, 1, 0.5)
            np.random.seed(0)
            trainer = PARTTrainer(classifier, attack, burn_in=0)
            try:
                trainer.fit(
                    dataset[0][:90], dataset[1][:90], 32, 4, scheduler=scheduler, checkpoint=path, verbose=False
                )
            except Stopped:
                continue
            assert attack.eps == 0.1 / 16
        weights.append(net.state_dict())
    assert all(map(torch.equal, weights[0].values(), weights[1].values()))


def fit(dataset, path, **changes):
    classifier = fresh(**changes.get("classifier", {}))
    if "net" in changes:
        classifier = classify(SmallNet(width=changes["net"]))
    attack = changes.get("attack", pgd)(classifier, max_iter=1, **changes.get("settings", {}))
    trainer = changes.get("make", PARTTrainer)(classifier, attack, **({"burn_in": 1} | changes.get("trainer", {})))
    x, y = dataset[0][:64], dataset[1][:64] + changes.get("labels", 0)
    trainer.fit(
        x, y % 10, checkpoint=path, verbose=False, **({"batch_size": 32, "nb_epochs": 2} | changes.get("fit", {}))
    )
    return classifier


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fit": {"batch_size": 16}}, "another training, whose batch_size was 32 and is 16"),
        ({"fit": {"drop_last": True}}, "another training, whose drop_last was False and is True"),
        ({"fit": {"training_mode": False}}, "another training, whose training_mode was True and is False"),
        ({"trainer": {"burn_in": 0}}, "another training, whose burn_in was 1 and is 0"),
        ({"trainer": {"mask_every": 2}}, "another training, whose mask_every was 1 and is 2"),
        ({"trainer": {"ratio": 1.0}}, "another training, whose ratio was 0.5 and is 1.0"),
        ({"trainer": {"eps_low": 0.05}}, "another training, whose eps_low was [0.08750000000000001] and is [0.05]"),
        ({"make": PARTTrainerMART}, "another training, whose method was PART AT() and is PART-M MART(beta=6.0)"),
        (
            {"settings": {"eps": 0.2}, "trainer": {"eps_low": 0.08750000000000001}},
            "another training, whose attacks was [['ProjectedGradientDescent', {'eps': 0.1, 'eps_step': 0.025, "
            "'max_iter': 1}]] and is [['ProjectedGradientDescent', {'eps': 0.2, 'eps_step': 0.025, 'max_iter': 1}]]",
        ),
        ({"net": 8}, "another network, with other weights"),
    ],
    ids=str,
)
def test_a_file_of_another_training_is_told_and_changes_nothing(dataset, tmp_path, change, message):
    path = tmp_path / "fit.pt"
    fit(dataset, path)
    content = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        fit(dataset, path, **change)
    assert str(caught.value) == f"fit checkpoint {str(path)!r} belongs to {message}; remove it to begin anew"
    assert path.read_bytes() == content


def test_a_file_of_other_data_is_told(dataset, tmp_path):
    path = tmp_path / "fit.pt"
    fit(dataset, path)
    with pytest.raises(ValueError, match=r"belongs to another training, whose data was \d+ and is \d+; remove it"):
        fit(dataset, path, labels=1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("order"), "is damaged or of another kind: 'order' is missing"),
        (lambda state: state.update(epoch="1"), "is damaged or of another kind: 'epoch' is a str; int is needed"),
        (lambda state: state["optimizer"].pop("param_groups"), "belongs to another optimizer, of other parameters"),
        (lambda state: state.update(parts=[]), "is damaged: its parts do not fit each other"),
        (lambda state: state.update(order=torch.arange(3)), "is damaged: its parts do not fit each other"),
        (lambda state: state["random"].pop("numpy"), "is damaged: its parts do not fit each other"),
        (lambda state: state["parts"][0].pop("step"), "is damaged: its parts do not fit each other"),
        (lambda state: state["history"].pop(), "is damaged: its parts do not fit each other"),
        (lambda state: state.update(scheduler={"last_epoch": 1}), "is damaged: its parts do not fit each other"),
        (lambda state: state.update(attacks=[]), "is damaged: its parts do not fit each other"),
        (
            lambda state: state["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(2, 2)),
            "belongs to another optimizer, of other parameters",
        ),
    ],
)
def test_a_damaged_file_is_told_and_changes_nothing(dataset, tmp_path, spoil, message):
    path = tmp_path / "fit.pt"
    fit(dataset, path)
    state = read_tensors("fit checkpoint", path, 1, {})
    spoil(state)
    write_tensors("fit checkpoint", path, state)
    with pytest.raises(ValueError) as caught:
        fit(dataset, path)
    assert str(caught.value) == f"fit checkpoint {str(path)!r} {message}; remove it to begin anew"


def test_what_is_no_checkpoint_is_told(dataset, tmp_path):
    path = tmp_path / "fit.pt"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"is damaged or holds more than plain data and tensors; remove it to begin"):
        fit(dataset, path)
    with pytest.raises(IsADirectoryError, match=r"is a directory; a file is needed$"):
        fit(dataset, tmp_path)


def test_a_place_that_cannot_be_written_is_told_before_training(dataset, tmp_path):
    (tmp_path / "file").touch()
    classifier = fresh()
    weights = classifier.model.head.weight.detach().clone()
    trainer = PARTTrainer(classifier, pgd(classifier))
    with pytest.raises(NotADirectoryError) as caught:
        trainer.fit(*dataset, nb_epochs=1, checkpoint=tmp_path / "file" / "fit.pt", verbose=False)
    assert str(caught.value) == (
        f"fit checkpoint {str(tmp_path / 'file' / 'fit.pt')!r} cannot be written: "
        f"{str(tmp_path / 'file')!r} is not a directory"
    )
    assert torch.equal(classifier.model.head.weight, weights)
    assert trainer.history == []


def test_a_checkpoint_of_less_than_was_trained_is_refused(dataset, tmp_path):
    path = tmp_path / "fit.pt"
    fit(dataset, path)
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), burn_in=1)
    trainer.fit(dataset[0][:64], dataset[1][:64], 32, 3, verbose=False)
    with pytest.raises(ValueError) as caught:
        trainer.fit(dataset[0][:64], dataset[1][:64], 32, 3, checkpoint=path, verbose=False)
    assert str(caught.value) == (
        f"fit checkpoint {str(path)!r} ends at epoch 2, and this trainer has trained 3; "
        "give it to the first fit, or another path to this one"
    )


def test_the_state_of_all_random_numbers_is_kept():
    def draw():
        return (
            np.random.rand(3).tolist(),
            np.random.normal(),
            random.random(),
            random.gauss(0, 1),
            torch.rand(3).tolist(),
        )

    draw()  # of which the normal ones keep a spare
    state = random_state()
    first = draw()
    draw()
    set_random_state(state)
    assert draw() == first


def test_a_scheduler_without_a_state_is_refused(dataset, tmp_path):
    class Bare:
        def step(self):
            pass

    with pytest.raises(TypeError) as caught:
        fit(dataset, tmp_path / "fit.pt", fit={"scheduler": Bare()})
    assert str(caught.value) == "scheduler is a Bare; with a checkpoint one with state_dict is needed"
