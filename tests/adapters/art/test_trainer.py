"""`PARTTrainer` against ART's `AdversarialTrainer`."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify, fresh, pgd
from art.defences.trainer import AdversarialTrainer
from conftest import SmallNet
from torch import nn

from part_plugin import (
    PARTTrainer,
)


@pytest.mark.parametrize(("ratio", "epochs"), [(0.5, 2), (0.3, 2), (1.0, 1)])
def test_equal_radii_give_the_weights_of_arts_adversarial_trainer(dataset, ratio, epochs):
    """The same batches, the same samples attacked, the same attack: all but the order within a batch, a rounding."""
    x, y = dataset[0][:325], dataset[1][:325]
    weights = []
    for make in (AdversarialTrainer, lambda *args: PARTTrainer(*args, eps_low=0.125, burn_in=0)):
        torch.manual_seed(0)
        np.random.seed(0)
        net = SmallNet()
        net.dropout = nn.Identity()
        classifier = classify(net)
        attack = pgd(classifier, eps=0.125, eps_step=0.03125, max_iter=4, num_random_init=0)
        make(classifier, attack, ratio).fit(x, y, 50, epochs)
        weights.append(net.state_dict())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def losses_of_art(x, y, seeds, epochs):
    """Training accuracy of ART's own trainer under its own attack, epoch by epoch."""
    curves = []
    for seed in seeds:
        classifier = fresh(seed)
        trainer, curve = AdversarialTrainer(classifier, pgd(classifier), ratio=1.0), []
        plain_fit = classifier.fit

        def fit(x_batch, y_batch, *args, classifier=classifier, plain_fit=plain_fit, curve=curve, **kwargs):
            classifier.model.train()
            with torch.no_grad():
                logits = classifier.model(torch.from_numpy(x_batch))
            curve.append(float(nn.functional.cross_entropy(logits, torch.from_numpy(y_batch))))
            plain_fit(x_batch, y_batch, *args, **kwargs)

        classifier.fit = fit
        trainer.fit(x, y, nb_epochs=epochs)
        curves.append(np.array(curve).reshape(epochs, -1).mean(1))
    return np.array(curves)


def test_equal_radii_match_the_loss_curve_of_arts_adversarial_trainer(dataset):
    x, y = dataset[0][:640], dataset[1][:640]
    seeds, epochs = range(6), 5
    theirs = losses_of_art(x, y, seeds, epochs)
    ours = []
    for seed in seeds:
        classifier = fresh(seed)
        trainer = PARTTrainer(classifier, pgd(classifier), 1.0, eps_low=EPS, burn_in=0)
        trainer.fit(x, y, nb_epochs=epochs, verbose=False)
        ours.append([record["loss"] for record in trainer.history])
    ours = np.array(ours)
    assert (theirs[:, 0] > 1.2 * theirs[:, -1]).all()
    noise = np.sqrt((theirs.var(0, ddof=1) + ours.var(0, ddof=1)) / len(seeds))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * noise + 0.02).all()
