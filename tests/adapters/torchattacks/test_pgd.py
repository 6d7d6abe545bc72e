"""`PixelPGD` and `PixelTPGD` against torchattacks' PGD and TPGD."""

import numpy as np
import pytest
import torch
import torchattacks
from adapters.torchattacks.helpers import EPS, MEAN, STD, Normalised, run
from conftest import assert_untouched, snapshot
from torch import nn

from part_plugin import FixedBudget, PixelBudget, PixelPGD, PixelTPGD

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


@pytest.mark.parametrize("normalised", [False, True])
def test_equal_radii_give_torchattacks_tpgd_bit_for_bit(digits_net, batch, normalised):
    net = Normalised(digits_net) if normalised else digits_net
    theirs, ours = torchattacks.TPGD(net, eps=EPS), PixelTPGD(net, eps=EPS, eps_low=EPS)
    images = batch[0]
    if normalised:
        images = (images - MEAN[0]) / STD[0]
        theirs.set_normalization_used(MEAN, STD)
        ours.set_normalization_used(MEAN, STD)
    expected = run(theirs, images)
    assert not torch.equal(expected, images)
    assert torch.equal(run(ours, images), expected)


@pytest.mark.parametrize(("ours", "theirs"), [(PixelPGD, torchattacks.PGD), (PixelTPGD, torchattacks.TPGD)])
def test_equal_radii_give_every_step_of_torchattacks(digits_net, batch, ours, theirs):
    """Arguments by position, as in a call of theirs; each step takes the iterate further."""
    before = batch[0]
    for steps in range(1, 11):
        expected = run(theirs(digits_net, 8 / 255, 2 / 255, steps), *batch)
        assert torch.equal(run(ours(digits_net, 8 / 255, 2 / 255, steps, eps_low=8 / 255), *batch), expected)
        assert not torch.equal(expected, before)
        before = expected


def test_defaults_are_those_of_torchattacks_and_7_8(digits_net, batch):
    attack = PixelPGD(digits_net)
    assert (attack.eps, attack.eps_low, attack.alpha, attack.steps) == (8 / 255, 7 / 255, 2 / 255, 10)
    spelled = PixelPGD(digits_net, 8 / 255, 2 / 255, 10, True, eps_low=7 / 255)
    assert torch.equal(run(attack, *batch), run(spelled, *batch))
    assert not torch.equal(run(attack, *batch), run(torchattacks.PGD(digits_net), *batch))


@pytest.mark.parametrize("targeted", [False, True])
def test_pixel_pgd_equals_a_loop_by_hand(digits_net, batch, targeted):
    """A radius per pixel from the map, the start inside it, the element-wise clip of Eq. 4."""
    images, labels = batch
    radii = PixelBudget(EPS, EPS / 2)(digits_net, images)
    torch.manual_seed(0)
    noise = torch.empty_like(images).uniform_(-EPS, EPS)
    adv = (images + noise * torch.where(radii == radii.max(), 1.0, radii / EPS)).clamp(0, 1)
    aim = (labels + 1) % 10 if targeted else labels
    for _ in range(5):
        adv.requires_grad_()
        loss = nn.functional.cross_entropy(digits_net(adv), aim) * (-1 if targeted else 1)
        adv = adv.detach() + EPS / 4 * torch.autograd.grad(loss, adv)[0].sign()
        adv = (images + torch.maximum(torch.minimum(adv - images, radii), -radii)).clamp(0, 1)
    attack = PixelPGD(digits_net, EPS, EPS / 4, 5, eps_low=EPS / 2)
    if targeted:
        attack.set_mode_targeted_by_function(lambda x, y: (y + 1) % 10, quiet=True)
    assert torch.equal(run(attack, images, labels), adv)


def test_pixel_tpgd_equals_a_loop_by_hand(digits_net, batch):
    images, _ = batch
    radii = PixelBudget(EPS, EPS / 2)(digits_net, images)
    natural = digits_net(images).detach().softmax(1)
    torch.manual_seed(0)
    adv = (images + (0.001 * torch.randn_like(images)).clamp(-EPS / 2, EPS / 2)).clamp(0, 1)
    for _ in range(5):
        adv.requires_grad_()
        loss = nn.functional.kl_div(digits_net(adv).log_softmax(1), natural, reduction="sum")
        adv = adv.detach() + EPS / 4 * torch.autograd.grad(loss, adv)[0].sign()
        adv = (images + torch.maximum(torch.minimum(adv - images, radii), -radii)).clamp(0, 1)
    assert torch.equal(run(PixelTPGD(digits_net, EPS, EPS / 4, 5, eps_low=EPS / 2), images), adv)


def test_fast_is_near_and_leaves_the_model_alone(lived_in, batch):
    exact = run(PixelPGD(lived_in, eps=EPS, alpha=EPS / 4), *batch)
    before = snapshot(lived_in)
    folded, rounded = (run(PixelPGD(lived_in, eps=EPS, alpha=EPS / 4, fast=f), *batch) for f in ("fold", "bfloat16"))
    assert_untouched(lived_in, before)
    assert torch.isclose(folded, exact, atol=1e-5).float().mean() > 0.99
    assert not torch.equal(rounded, exact)
    assert torch.isclose(rounded, exact, atol=1e-5).float().mean() > 0.8


def test_pixel_tpgd_looks_at_labels_where_the_map_is_of_the_true_class(digits_net, batch):
    images, labels = batch[0], (batch[1] + 1) % 10
    attack = PixelTPGD(digits_net, EPS, eps_low=0.0, target="true")
    unmoved = (run(attack, images, labels) == images).all(1)
    assert unmoved[PixelBudget(EPS, 0.0, target="true")(digits_net, images, labels)[:, 0] == 0].all()
    with pytest.raises(ValueError, match="labels=None does not go with target='true'; pass labels or target='predic"):
        attack(images)


@pytest.mark.parametrize("make", [PixelPGD, PixelTPGD])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": 8}, ValueError, "eps=8 is larger than the range of the images, 1; did you mean 8/255?"),
        ({"eps": -0.1}, ValueError, "eps=-0.1 is not allowed; it must be >= 0"),
        ({"eps": float("nan")}, ValueError, "eps=nan is not allowed; it must be >= 0"),
        ({"eps": "8/255"}, TypeError, "eps='8/255' is a str; a number is needed"),
        ({"eps": torch.tensor([0.1])}, TypeError, "eps=tensor([0.1000]) is a Tensor; a number is needed"),
        ({"eps": np.array([0.1])}, TypeError, "eps=array([0.1]) is a ndarray; a number is needed"),
        ({"alpha": 2}, ValueError, "alpha=2 is larger than the range of the images, 1; did you mean 2/255?"),
        ({"alpha": -1}, ValueError, "alpha=-1 is not allowed; it must be > 0"),
        ({"alpha": 0}, ValueError, "alpha=0 is not allowed; it must be > 0"),
        ({"steps": 0}, ValueError, "steps=0 is not allowed; it must be >= 1"),
        ({"steps": 2.5}, TypeError, "steps=2.5 is a float; an integer is needed"),
        ({"eps_low": 0.2}, ValueError, "eps_low=0.2 is larger than eps=0.0313725; it must be <= eps"),
        ({"eps_low": -0.1}, ValueError, "eps_low=-0.1 is not allowed; it must be >= 0"),
        (
            {"budget": FixedBudget(8)},
            ValueError,
            "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
        ),
        (
            {"budget": FixedBudget(0.1), "eps_low": 0.1},
            ValueError,
            "eps_low=0.1 does not go with budget=FixedBudget(eps=0.1), which has its own",
        ),
    ],
)
def test_wrong_settings(digits_net, make, options, error, message):
    with pytest.raises(error) as caught:
        make(digits_net, **options)
    assert str(caught.value) == message


def test_what_is_no_fast_option(digits_net):
    with pytest.raises(ValueError, match="fast holds 'turbo'; choose from 'fold', 'compile', 'bfloat16', 'float16'"):
        PixelPGD(digits_net, fast="turbo")


def test_ours_come_by_keyword_alone(digits_net):
    with pytest.raises(TypeError, match="takes from 2 to 6 positional arguments but 7 were given"):
        PixelPGD(digits_net, 8 / 255, 2 / 255, 10, True, 7 / 255)


def test_labels_out_of_range(digits_net, batch):
    with pytest.raises(ValueError, match="labels contain class 10; allowed is 0 to 9"):
        PixelPGD(digits_net)(batch[0], torch.full((16,), 10))
