"""`PARTTrainerTRADES` and `PARTTrainerMART`."""

import pytest
from adapters.art.helpers import EPS, fresh, pgd
from art.defences.trainer import AdversarialTrainerTRADESPyTorch

from part_plugin import (
    PARTTrainerTRADES,
    evaluate,
)


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
