"""`PixelProjectedGradientDescent` against ART's PGD and torchattacks'."""

import copy

import numpy as np
import pytest
import torch
from adapters.art.helpers import classify, run
from art.attacks.evasion import (
    ProjectedGradientDescent,
)
from torch import nn

from part_plugin import (
    PixelBudget,
    PixelProjectedGradientDescent,
)

EPS = 0.2


@pytest.mark.parametrize("targeted", [False, True])
def test_equal_radii_give_arts_pgd(digits_net, arrays, targeted):
    classifier = classify(digits_net)
    x, y = arrays
    y = (y + 1) % 10 if targeted else y
    settings = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 7, "targeted": targeted, "verbose": False}
    theirs = ProjectedGradientDescent(classifier, **settings).generate(x, y)
    ours = PixelProjectedGradientDescent(classifier, **settings, eps_low=EPS).generate(x, y)
    assert np.abs(theirs - x).max() > EPS / 2
    assert ours.dtype == theirs.dtype
    assert np.isclose(ours, theirs, atol=1e-6).mean() > 0.999  # their projection rounds differently


def test_pixel_pgd_is_as_strong_as_torchattacks(digits_net, digits):
    """The same attack through two toolkits: equal loss, up to the random start."""
    from part_plugin import PixelPGD

    x, y = digits[0][1500:], digits[1][1500:]
    art = PixelProjectedGradientDescent(
        classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=10, num_random_init=1, eps_low=EPS / 2, verbose=False
    )
    through_art = torch.from_numpy(run(art, x.numpy(), y.numpy()))
    torch.manual_seed(0)
    through_torchattacks = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2, alpha=EPS / 4)(x, y)
    digits_net.requires_grad_(False)
    losses = [float(nn.functional.cross_entropy(digits_net(a), y)) for a in (through_art, through_torchattacks)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_budget_of_the_map_is_kept(digits_net, batch, arrays):
    attack = PixelProjectedGradientDescent(
        classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=10, num_random_init=1, eps_low=EPS / 4, batch_size=5
    )
    adv = run(attack, *arrays)
    radii = PixelBudget(EPS, EPS / 4)(digits_net, batch[0]).numpy()
    shift = np.abs(adv - arrays[0])
    assert (shift <= radii + 1e-6).all()
    assert (shift[np.broadcast_to(radii == np.float32(EPS), shift.shape)] > EPS / 4 + 1e-3).any()
    assert (attack.budget.images, attack.budget.eps_low) == (16, EPS / 4)


def test_more_starts_are_stronger(digits_net, digits):
    x, y = digits[0][1500:1700].numpy(), digits[1][1500:1700].numpy()
    classifier = classify(digits_net)
    accuracy = []
    for starts in (1, 5):
        attack = PixelProjectedGradientDescent(
            classifier, eps=0.06, eps_step=0.02, max_iter=5, num_random_init=starts, verbose=False, batch_size=200
        )
        accuracy.append(np.mean(classifier.predict(run(attack, x, y)).argmax(1) == y))
    assert accuracy[1] <= accuracy[0]


def test_other_ranges_and_preprocessing(digits_net, batch, arrays):
    """255 * x in clip_values (0, 255) behind a normalisation is the same problem, 255 times as large."""
    x, y = arrays
    near = PixelProjectedGradientDescent(classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=5, eps_low=EPS / 2)
    scaled = classify(copy.deepcopy(digits_net), clip_values=(0, 255), preprocessing=(0.0, 255.0))
    far = PixelProjectedGradientDescent(
        scaled, eps=255 * EPS, eps_step=255 * EPS / 4, max_iter=5, eps_low=255 * EPS / 2
    )
    adv = far.generate(255 * x, y)
    assert np.isclose(adv / 255, near.generate(x, y), atol=1e-5).mean() > 0.99
    assert adv.max() <= 255
    radii = PixelBudget(EPS, EPS / 2)(digits_net, batch[0]).numpy()
    assert (np.abs(adv - 255 * x) <= 255 * radii + 1e-3).all()
    whole = (255 * x).astype(np.uint8)
    assert np.abs(far.generate(whole, y) - whole).max() > 20  # integer images are fine where they are pixels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": 2}, "norm=2"),
        ({"decay": 0.5}, "decay=0.5 is not supported; wrap ART's own attack in PixelEvasionAttack"),
        ({"random_eps": True}, "random_eps=True is not supported"),
        ({"eps": 0.1, "eps_low": 0.2}, "eps_low=0.2 is larger than eps=0.1"),
        ({"eps": -0.1}, "eps=-0.1 is not allowed"),
    ],
)
def test_wrong_settings(digits_net, options, message):
    with pytest.raises(ValueError, match=message):
        PixelProjectedGradientDescent(classify(digits_net), **options)
