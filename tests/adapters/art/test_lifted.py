"""PART whose adversarial examples come from an ART attack."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify, pgd
from art.attacks.evasion import FastGradientMethod

from part_plugin import AT, MART, PART, TRADES
from part_plugin.adapters.art.classifier import classifier_view
from part_plugin.adapters.art.lifted import LiftedPART
from part_plugin.adapters.art.lifting import lift


@pytest.mark.parametrize("objective", [AT(), TRADES(), MART()])
@pytest.mark.parametrize("starts", [0, 1])
def test_a_plain_pgd_runs_inside_part_with_its_settings(digits_net, batch, objective, starts):
    classifier = classify(digits_net)
    attack = pgd(classifier, eps_step=EPS / 3, max_iter=3, num_random_init=starts)
    part = LiftedPART(lift(attack, eps_low=EPS / 2), objective, burn_in=0, mask_every=1, seed=1)
    own = PART(objective, eps=EPS, eps_low=EPS / 2, alpha=EPS / 3, steps=3, random_start=starts > 0, burn_in=0, seed=1)
    expected = own.perturb(digits_net, *batch)
    assert torch.equal(part.perturb(classifier_view(classifier), *batch), expected)
    assert part.budget is part.lifted.budget


@pytest.mark.parametrize("objective", [AT(), MART()])
def test_another_attack_is_used_as_it_is(digits_net, batch, objective):
    classifier = classify(digits_net)
    lifted = lift(FastGradientMethod(classifier, eps=EPS), eps_low=EPS / 2)
    part = LiftedPART(lifted, objective, burn_in=0, mask_every=1)
    expected = lifted.generate(batch[0].numpy(), batch[1].numpy())
    assert np.array_equal(part.perturb(classifier_view(classifier), *batch).numpy(), expected)


def test_several_starts_are_the_attack_s_own_where_the_objective_starts_as_it_does(digits_net, batch):
    classifier = classify(digits_net)
    lifted = lift(pgd(classifier, num_random_init=3), eps_low=EPS / 2)
    view = classifier_view(classifier)
    np.random.seed(0)
    expected = lifted.generate(batch[0].numpy(), batch[1].numpy())
    np.random.seed(0)
    part = LiftedPART(lifted, AT(), burn_in=0, mask_every=1)
    assert np.array_equal(part.perturb(view, *batch).numpy(), expected)
    trades = LiftedPART(lifted, TRADES(), burn_in=0, mask_every=1, seed=0)
    own = PART("trades", eps=EPS, eps_low=EPS / 2, alpha=EPS / 4, steps=5, burn_in=0, seed=0)
    assert torch.equal(trades.perturb(view, *batch), own.perturb(digits_net, *batch))


def test_the_range_is_the_classifiers(digits_net, batch):
    classifier = classify(digits_net, clip_values=(-1.0, 3.0), preprocessing=(-1.0, 4.0))
    part = LiftedPART(lift(pgd(classifier, eps=1.0, eps_step=0.5)), AT(), burn_in=0, mask_every=1)
    adv = part.perturb(classifier_view(classifier), 4 * batch[0] - 1, batch[1])
    assert adv.min() == -1
    assert 1 < adv.max() <= 3


def test_a_pgd_without_iterations_is_refused(digits_net):
    with pytest.raises(ValueError) as caught:
        LiftedPART(lift(pgd(classify(digits_net), max_iter=0)), AT(), burn_in=0, mask_every=1)
    assert str(caught.value) == "max_iter=0 is not allowed; it must be >= 1"
