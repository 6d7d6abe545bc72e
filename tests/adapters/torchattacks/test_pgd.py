"""`PixelPGD` and `PixelTPGD` against torchattacks' PGD and TPGD."""

import pytest
import torch
import torchattacks
from adapters.torchattacks.helpers import EPS, MEAN, STD, Normalised, run

from part_plugin import PixelPGD, PixelTPGD

MODES = {
    "default": lambda attack: None,
    "function": lambda attack: attack.set_mode_targeted_by_function(lambda x, y: (y + 1) % 10, quiet=True),
    "random": lambda attack: attack.set_mode_targeted_random(quiet=True),
    "least_likely": lambda attack: attack.set_mode_targeted_least_likely(quiet=True),
    "label": lambda attack: attack.set_mode_targeted_by_label(quiet=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("normalised", [False, True])
def test_equal_radii_give_torchattacks_pgd_bit_for_bit(digits_net, batch, mode, random_start, normalised):
    images, labels = batch
    net = Normalised(digits_net) if normalised else digits_net
    theirs = torchattacks.PGD(net, eps=EPS, alpha=EPS / 4, steps=7, random_start=random_start)
    ours = PixelPGD(net, eps=EPS, eps_low=EPS, alpha=EPS / 4, steps=7, random_start=random_start)
    for attack in (theirs, ours):
        if normalised:
            attack.set_normalization_used(MEAN, STD)
        MODES[mode](attack)
    if normalised:
        images = (images - MEAN[0]) / STD[0]
    expected = run(theirs, images, labels)
    assert not torch.equal(expected, images)
    assert torch.equal(run(ours, images, labels), expected)


@pytest.mark.parametrize("seed", range(5))
def test_equal_radii_give_torchattacks_pgd_on_cifar_resnet(cifar_net, photos, seed):
    labels = cifar_net(photos).argmax(1)
    expected = run(torchattacks.PGD(cifar_net, steps=3), photos, labels, seed=seed)
    assert torch.equal(run(PixelPGD(cifar_net, eps_low=8 / 255, steps=3), photos, labels, seed=seed), expected)


def test_equal_radii_give_torchattacks_tpgd_bit_for_bit(digits_net, batch):
    expected = run(torchattacks.TPGD(digits_net, eps=EPS), batch[0])
    assert torch.equal(run(PixelTPGD(digits_net, eps=EPS, eps_low=EPS), batch[0]), expected)


def test_labels_out_of_range(digits_net, batch):
    with pytest.raises(ValueError, match="labels contain class 10; allowed is 0 to 9"):
        PixelPGD(digits_net)(batch[0], torch.full((16,), 10))
