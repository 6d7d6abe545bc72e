"""The epochs of the ART trainers."""

import json
import logging
import sys
import warnings

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, Terminal, classify, fresh, pgd
from art.attacks.evasion import FastGradientMethod
from conftest import SmallNet, assert_untouched, snapshot
from torch import nn

from part_plugin import (
    AT,
    PART,
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    evaluate,
)
from part_plugin.adapters.art.classifier import classifier_view

LOOP = "part_plugin.adapters.art.loop"  # budgets and PART warn as well, once


def test_validation_accuracy_is_that_on_raw_images(dataset):
    """ART's TRADES trainer normalises its validation images twice; here they are normalised once."""
    x, y = dataset
    classifier = fresh(preprocessing=(0.3, 0.4))
    trainer = PARTTrainer(classifier, pgd(classifier))
    trainer.fit(x[:700], y[:700], nb_epochs=2, verbose=False, validation_data=(x[1400:], y[1400:]))
    by_hand = np.mean(classifier.predict(x[1400:]).argmax(1) == y[1400:])
    assert trainer.history[-1]["val_natural"] == pytest.approx(by_hand)
    normalised = nn.Sequential(nn.Identity(), classifier.model)
    normalised[0].forward = lambda images: (images - 0.3) / 0.4
    robust = evaluate(normalised, x[1400:], y[1400:], eps=EPS, attacks=["pgd10"], verbose=False)
    assert trainer.history[-1]["val_pgd10"] == pytest.approx(robust["pgd10"].accuracy, abs=0.02)


def test_validation_equals_pgd_by_hand(dataset, robust_net):
    """In parts of 256, in eval mode, at full eps where the budget is lower, by the classifier's own loss and range."""
    x, y = 2 * dataset[0][1400:1750], dataset[1][1400:1750]
    loss = nn.CrossEntropyLoss(label_smoothing=0.5)
    classifier = classify(robust_net, clip_values=(0, 2), preprocessing=(0.0, 2.0), loss=loss)
    classifier.optimizer.param_groups[0]["lr"] = 1e-6  # so that it stays a network that is worth attacking
    trainer = PARTTrainer(classifier, pgd(classifier, eps=0.3, eps_step=0.1), eps_low=0.0, burn_in=0)
    trainer.fit(2 * dataset[0][:256], dataset[1][:256], nb_epochs=1, verbose=False, validation_data=(x, y))
    part = PART(AT(loss), eps=0.3, eps_low=0.3, alpha=0.075, steps=10, burn_in=0, seed=0, clip=(0, 2))
    view = classifier_view(classifier)
    natural, robust = 0, 0
    for rows in torch.arange(350).split(256):
        images, labels = torch.from_numpy(x)[rows], torch.from_numpy(y)[rows]
        natural += int((view(images).argmax(1) == labels).sum())
        robust += int((view(part.perturb(view, images, labels)).argmax(1) == labels).sum())
    assert 0.1 < robust / 350 < natural / 350
    assert trainer.history[0]["val_natural"] == natural / 350
    assert trainer.history[0]["val_pgd10"] == robust / 350


def test_validation_does_not_change_the_training(dataset):
    weights = []
    for validation in (None, (dataset[0][1700:], dataset[1][1700:])):
        classifier = fresh()
        trainer = PARTTrainer(classifier, pgd(classifier))
        trainer.fit(dataset[0][:128], dataset[1][:128], nb_epochs=2, verbose=False, validation_data=validation)
        assert trainer.history[-1]["zero_gradient"] == 0
        weights.append(classifier.model.head.weight)
    assert torch.equal(*weights)


def test_ratio(dataset):
    """With half the batch attacked the loss lies between that on natural images and that on attacked ones."""
    losses = {}
    for ratio in (0.01, 0.5, 1.0):
        classifier = fresh()
        trainer = PARTTrainer(classifier, pgd(classifier), ratio=ratio, burn_in=0)
        trainer.fit(dataset[0][:512], dataset[1][:512], nb_epochs=3, verbose=False)
        losses[ratio] = trainer.history[-1]["loss"]
    assert losses[0.01] < losses[0.5] < losses[1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.ConstantLR(o, 1.0), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [0]
        ),
    ],
)
def test_schedulers_step_every_epoch(dataset, make):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1))
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=3, verbose=False, scheduler=make(classifier.optimizer))
    assert [record["lr"] for record in trainer.history] == pytest.approx([0.05, 0.025, 0.0125])


def test_a_scheduler_that_wants_the_loss_gets_it(dataset):
    classifier = fresh()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer)
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1))
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=3, verbose=False, scheduler=scheduler)
    assert scheduler.last_epoch == 3
    assert scheduler.best == pytest.approx(min(record["loss"] for record in trainer.history))


def test_a_log_is_not_flooded(dataset, capsys):
    classifier = fresh()
    PARTTrainer(classifier, pgd(classifier, verbose=True)).fit(dataset[0][:64], dataset[1][:64], nb_epochs=1)
    assert capsys.readouterr().err == ""


def test_progress_is_shown_where_somebody_looks(dataset, monkeypatch):
    classifier = fresh()
    x, y = dataset[0][:128], dataset[1][:128]
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=1)
    monkeypatch.setattr(sys, "stderr", Terminal())
    trainer.fit(x, y, nb_epochs=2, validation_data=(x, y), verbose=False)
    assert sys.stderr.getvalue() == ""
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=1)
    trainer.fit(x, y, nb_epochs=2, validation_data=(x, y))
    shown = sys.stderr.getvalue()
    for record in trainer.history:
        assert f"val_natural={record['val_natural']:.1%}, val_pgd10={record['val_pgd10']:.1%}" in shown
    first = trainer.history[0]
    assert f"loss={first['loss']:.3f}, adv={first['adv_accuracy']:.1%}" in shown  # one batch is the whole epoch
    for word in ("PART burn-in epoch 1", "PART epoch 2", "loss=", "adv=", "val_natural=", "val_pgd10="):
        assert word in shown, word


def test_maps_without_signal_are_reported(dataset, caplog):
    classifier = fresh()
    nn.init.zeros_(classifier.model.head.weight)
    classifier.model.head.weight.requires_grad_(False)
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=1, verbose=False)
    assert trainer.history[0]["no_signal"] == 1
    assert [record.message for record in caplog.records if "maps" in record.message] == [
        "100% of the maps had no signal (32 of 32, cam=gradcam at 'features'); "
        "those images keep the full eps everywhere"
    ]


def test_a_model_that_masks_its_gradient_is_reported(dataset, caplog):
    class Quantised(SmallNet):
        def forward(self, x):
            return super().forward((8 * x).round() / 8)

    torch.manual_seed(0)
    classifier = classify(Quantised())
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=1, verbose=False)
    assert trainer.history[0]["zero_gradient"] == 1
    assert [record.message for record in caplog.records if "gave" in record.message] == [
        "100% of the samples gave the attack no gradient to follow"
    ]


def test_an_epoch_is_logged(dataset, caplog):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    with caplog.at_level(logging.INFO, "part_plugin"):
        trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=1, verbose=False)
    record = trainer.history[0]
    assert record["no_signal"] == record["zero_gradient"] == 0
    expected = " ".join(f"{name}: {value:.4g}" for name, value in record.items())
    assert [line.message for line in caplog.records if line.name == LOOP] == [expected]


def test_every_epoch_leaves_a_line_of_json(dataset, tmp_path):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier), log_path=tmp_path / "log.jsonl")
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=3, verbose=False)
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=1, verbose=False, validation_data=dataset)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4  # a second fit goes on
    trainer.log_path = tmp_path / "other.jsonl"
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=3, verbose=False)
    lines = [json.loads(line) for line in (tmp_path / "other.jsonl").read_text().splitlines()]
    assert lines == trainer.history[4:]
    assert [record["epoch"] for record in trainer.history] == list(range(7))
    assert set(lines[0]) == {"epoch", "lr", "loss", "adv_accuracy", "no_signal", "zero_gradient", "seconds"}
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert set(last) == {*lines[0], "val_natural", "val_pgd10"}


class Failing(SmallNet):
    """Fails at a pass of a certain number, also through a replica, which shares the list."""

    def __init__(self):
        super().__init__()
        self.left = [-1]

    def forward(self, x):
        self.left[0] -= 1
        if self.left[0] == 0:
            raise ArithmeticError
        return super().forward(x)


@pytest.mark.parametrize("make", [PARTTrainer, PARTTrainerTRADES, PARTTrainerMART])
@pytest.mark.parametrize("kind", [pgd, lambda c, **o: FastGradientMethod(c, eps=EPS)])
@pytest.mark.parametrize("foreign", [False, True])
def test_modes_gradients_flags_and_hooks_are_as_before_whatever_pass_fails(dataset, make, kind, foreign):
    """Of the network that is trained, and of that which is attacked; also after a fit that comes through."""
    x, y = dataset[0][:24], dataset[1][:24]
    net, other = Failing().train(), Failing().train()
    for each in (net, other):
        each.features[1].eval()
        each.features[0].weight.requires_grad_(False)
        nn.functional.cross_entropy(each(torch.from_numpy(x)), torch.from_numpy(y)).backward()
    classifier = classify(net)
    theirs = classify(other) if foreign else classifier
    attack = kind(theirs, max_iter=1)
    trainer = make(classifier, attack, burn_in=0)
    before = [snapshot(each.model) for each in (classifier, theirs)]
    for failing in {id(net): net, id(attack.estimator.model): attack.estimator.model}.values():
        for passes in range(1, 99):
            failing.left[0] = passes
            modes = [module.training for module in net.modules()]
            try:
                trainer.fit(x, y, batch_size=12, nb_epochs=1, verbose=False, validation_data=(x, y))
            except ArithmeticError:
                assert [module.training for module in net.modules()] == modes
            else:
                break
            finally:
                for each, was in zip((classifier, theirs), before, strict=True):
                    found = snapshot(each.model)
                    assert all(found[name] == was[name] for name in ("hooks", "requires_grad", "grad_objects"))
                assert len(classifier.preprocessing_operations) == len(theirs.preprocessing_operations) == 1
            net.train()
        assert 2 < passes < 98
    if foreign:
        assert_untouched(other, before[1])


def test_a_log_that_cannot_be_written_later_leaves_the_modes(dataset, tmp_path):
    class Removes(torch.optim.lr_scheduler.StepLR):
        def step(self, *args):
            super().step(*args)
            if self.last_epoch == 1:
                (tmp_path / "log.jsonl").unlink()
                (tmp_path / "log.jsonl").mkdir()

    classifier = fresh()
    classifier.model.train()
    classifier.model.features[1].eval()
    before = [module.training for module in classifier.model.modules()]
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0, log_path=tmp_path / "log.jsonl")
    with pytest.raises(IsADirectoryError):
        trainer.fit(
            dataset[0][:32], dataset[1][:32], nb_epochs=3, scheduler=Removes(classifier.optimizer, 1), verbose=False
        )
    assert [module.training for module in classifier.model.modules()] == before
    assert trainer.epoch == len(trainer.history) == 2  # the second was trained, if not logged


def test_a_log_is_tried_before_training(dataset, tmp_path):
    (tmp_path / "file").touch()
    classifier = fresh()
    weights = classifier.model.head.weight.detach().clone()
    for path in (tmp_path, tmp_path / "file" / "log.jsonl"):
        with pytest.raises(OSError, match="log "):
            PARTTrainer(classifier, pgd(classifier), log_path=path).fit(*dataset, nb_epochs=1, verbose=False)
    assert torch.equal(classifier.model.head.weight, weights)
    path = tmp_path / "new" / "log.jsonl"
    failing = classify(Failing())
    failing.model.left[0] = 1
    trainer = PARTTrainer(failing, pgd(failing), log_path=path)
    with pytest.raises(ArithmeticError):
        trainer.fit(*dataset, nb_epochs=1, verbose=False)
    assert not path.exists()


@pytest.mark.parametrize("burn_in", [0, 2, 3, 5])
def test_epochs_are_counted_on_over_calls_of_fit(dataset, burn_in):
    """A loop of fits of one epoch each: as one by hand in which PART is told the epoch, burn-in and masks included."""
    x, y = dataset[0][:40], dataset[1][:40]
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, num_random_init=0), 1.0, burn_in=burn_in, mask_every=2)
    seen = []
    lifted = trainer.attacks[0]
    weights = lifted.budget.weights
    lifted.budget.weights = lambda *arguments: seen.append(trainer.epoch) or weights(*arguments)
    for epoch in range(6):
        assert trainer.epoch == epoch
        trainer.fit(x, y, batch_size=40, nb_epochs=1, verbose=False)
    assert [record["epoch"] for record in trainer.history] == list(range(6))
    assert seen == list(range(burn_in, 6, 2))  # in one batch; every other epoch remembers the masks


def test_masks_of_other_images_are_forgotten(dataset):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), 1.0, burn_in=0, mask_every=9)
    for begin, made in ((0, 40), (0, 40), (40, 80), (0, 120)):
        trainer.fit(dataset[0][begin : begin + 40], dataset[1][begin : begin + 40], nb_epochs=1, verbose=False)
        assert trainer.attacks[0].budget.images == made


def test_a_fit_that_is_all_burn_in_is_warned_of_but_in_a_loop(dataset):
    x, y = dataset[0][:32], dataset[1][:32]
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), burn_in=3)
    with pytest.warns(UserWarning, match="burn_in") as caught:
        trainer.fit(x, y, nb_epochs=2, verbose=False)
    assert [str(warning.message) for warning in caught] == [
        "burn_in=3 covers all of the 2 epochs so far, which have eps everywhere, as plain adversarial training; "
        "PART begins where fit goes on after it"
    ]
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit(x, y, nb_epochs=1, verbose=False)
        trainer.fit(x, y, nb_epochs=2, verbose=False)
    assert trainer.attacks[0].budget.images > 0


def test_the_first_fit_decides_how_long_a_quarter_is(dataset):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), 1.0)
    for _ in range(2):
        trainer.fit(dataset[0][:20], dataset[1][:20], nb_epochs=8, verbose=False)
    assert trainer.attacks[0].budget.images == 14 * 20


def test_a_scheduler_of_another_optimizer_is_warned_of(dataset):
    classifier = fresh()
    scheduler = torch.optim.lr_scheduler.StepLR(fresh().optimizer, 1)
    with pytest.warns(UserWarning, match="optimizer") as caught:
        PARTTrainer(classifier, pgd(classifier)).fit(
            dataset[0][:32], dataset[1][:32], nb_epochs=1, scheduler=scheduler, verbose=False
        )
    assert [str(warning.message) for warning in caught if warning.filename == __file__] == [
        "scheduler changes the learning rate of another optimizer than the classifier's, so it takes no effect"
    ]
