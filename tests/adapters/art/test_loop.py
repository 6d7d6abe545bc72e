"""The epochs of the ART trainers."""

import json

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify, fresh, pgd
from conftest import SmallNet
from torch import nn

from part_plugin import (
    PARTTrainer,
    evaluate,
)


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
    assert scheduler.best == pytest.approx(min(record["loss"] for record in trainer.history))


def test_progress_is_shown(dataset, capsys):
    classifier = fresh()
    x, y = dataset[0][:128], dataset[1][:128]
    PARTTrainer(classifier, pgd(classifier), burn_in=1).fit(x, y, nb_epochs=2, validation_data=(x, y))
    shown = capsys.readouterr().err
    for word in ("PART burn-in epoch 1", "PART epoch 2", "loss=", "adv=", "val_natural=", "val_pgd10="):
        assert word in shown, word


def test_maps_without_signal_are_reported(dataset, caplog):
    classifier = fresh()
    nn.init.zeros_(classifier.model.head.weight)
    classifier.model.head.weight.requires_grad_(False)
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=1, verbose=False)
    assert trainer.history[0]["no_signal"] == 1
    assert "100% of the maps had no signal; those samples kept the full eps" in caplog.text


def test_a_model_that_masks_its_gradient_is_reported(dataset, caplog):
    class Quantised(SmallNet):
        def forward(self, x):
            return super().forward((8 * x).round() / 8)

    torch.manual_seed(0)
    classifier = classify(Quantised())
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=1, verbose=False)
    assert trainer.history[0]["zero_gradient"] == 1
    assert "100% of the samples gave the attack no gradient" in caplog.text


def test_every_epoch_leaves_a_line_of_json(dataset, tmp_path):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier), log_path=tmp_path / "log.jsonl")
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=3, verbose=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == trainer.history
    assert set(lines[0]) >= {"epoch", "lr", "loss", "adv_accuracy", "no_signal", "zero_gradient", "seconds"}
