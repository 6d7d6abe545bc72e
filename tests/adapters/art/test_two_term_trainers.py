"""`PARTTrainerTRADES` and `PARTTrainerMART`."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify, fresh, pgd
from art.attacks.evasion import FastGradientMethod
from art.data_generators import NumpyDataGenerator
from art.defences.trainer import AdversarialTrainerTRADESPyTorch
from conftest import SmallNet
from torch import nn

from part_plugin import (
    PARTTrainerMART,
    PARTTrainerTRADES,
    evaluate,
)


def test_equal_radii_give_the_weights_of_arts_trades_trainer(dataset):
    """Another attack than PGD is used as it is, so that all is the same but for rounding."""
    x, y = dataset[0][:325], dataset[1][:325]
    weights = []
    for make in (
        lambda c: AdversarialTrainerTRADESPyTorch(c, FastGradientMethod(c, eps=EPS), 2.0),
        lambda c: PARTTrainerTRADES(c, FastGradientMethod(c, eps=EPS), 2.0, eps_low=EPS, burn_in=0),
    ):
        torch.manual_seed(0)
        np.random.seed(0)
        net = SmallNet()
        net.dropout = nn.Identity()
        trainer = make(classify(net))
        trainer.fit(x, y, None, 50, 2)
        weights.append(net.state_dict())
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", [PARTTrainerTRADES, PARTTrainerMART])
def test_fit_takes_the_order_of_arts_trades_trainer(dataset, make):
    """By position as by name; and the generator's fit alike."""
    x, y = dataset[0][:64], dataset[1][:64]
    lines = []
    for call in (
        lambda trainer, schedule: trainer.fit(x, y, (x, y), 16, 2, schedule, verbose=False),
        lambda trainer, schedule: trainer.fit(
            x, y, scheduler=schedule, nb_epochs=2, batch_size=16, validation_data=(x, y), verbose=False
        ),
        lambda trainer, schedule: trainer.fit_generator(
            NumpyDataGenerator(x, y, batch_size=16), 2, schedule, validation_data=(x, y), verbose=False
        ),
    ):
        classifier = fresh()
        trainer = make(classifier, pgd(classifier, max_iter=1))
        call(trainer, torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, 0.5))
        assert [record["lr"] for record in trainer.history] == [0.05, 0.025]
        lines.append([(record["loss"], record["val_natural"]) for record in trainer.history])
    assert lines[0] == lines[1]


def test_the_classifiers_own_loss_is_minimised(dataset):
    """TRADES with beta=0 is the natural loss alone, here a smoothed one."""
    x, y = dataset[0][:64], dataset[1][:64]
    loss = nn.CrossEntropyLoss(label_smoothing=0.5)
    net = SmallNet()
    net.dropout = nn.Identity()
    classifier = classify(net, loss=loss)
    trainer = PARTTrainerTRADES(classifier, pgd(classifier, max_iter=1), 0.0)
    expected = loss(net.train()(torch.from_numpy(x)), torch.from_numpy(y)).item()
    trainer.fit(x, y, batch_size=64, nb_epochs=1, verbose=False)
    assert trainer.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_wrong_settings():
    classifier = fresh()
    with pytest.raises(ValueError) as caught:
        PARTTrainerTRADES(classifier, pgd(classifier), -1.0)
    assert str(caught.value) == "beta=-1.0 is not allowed; it must be >= 0"
    with pytest.raises(TypeError) as caught:
        PARTTrainerTRADES(classifier, [pgd(classifier)])
    assert str(caught.value) == "attacks holds a list; ART EvasionAttack instances are needed"
    with pytest.raises(TypeError, match="takes from 3 to 4 positional arguments but 5 were given"):
        PARTTrainerMART(classifier, pgd(classifier), 6.0, 0.05)


def test_equal_radii_match_arts_trades_trainer(dataset):
    """Same objective; the attack differs (cross-entropy there, KL here as in the paper), so only roughly."""
    x, y = dataset[0][:640], dataset[1][:640]
    robust = []
    for make in (
        lambda c: AdversarialTrainerTRADESPyTorch(c, pgd(c), beta=6.0),
        lambda c: PARTTrainerTRADES(c, pgd(c), beta=6.0, eps_low=EPS, burn_in=0),
    ):
        classifier = fresh()
        make(classifier).fit(x, y, None, 128, 12)
        robust.append(
            evaluate(classifier.model, *(a[1400:] for a in dataset), eps=EPS, attacks=["pgd10"], verbose=False)
        )
    accuracies = [result["pgd10"].accuracy for result in robust]
    assert min(accuracies) > 0.4
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.12)
