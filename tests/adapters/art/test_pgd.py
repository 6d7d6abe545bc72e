"""`PixelProjectedGradientDescent` against ART's PGD and torchattacks'."""

import copy

import numpy as np
import pytest
import torch
from adapters.art.helpers import classify, run
from art.attacks.evasion import (
    ProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
)
from torch import nn

from part_plugin import (
    FixedBudget,
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


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.25, 0.5)])
def test_equal_radii_give_every_step_of_arts_pgd(digits_net, arrays, targeted, preprocessing):
    """Every number is a fraction of 2, so to the bit; arguments by position, as in a call of theirs."""
    classifier = classify(digits_net, preprocessing=preprocessing)
    x, y = arrays
    y = (y + 1) % 10 if targeted else y
    before = x
    for steps in range(1, 8):
        settings = (classifier, np.inf, 0.25, 0.0625, None, steps, targeted, 0, 32, False, False, False)
        theirs = ProjectedGradientDescentPyTorch(*settings).generate(x, y)
        assert np.array_equal(PixelProjectedGradientDescent(*settings, eps_low=0.25).generate(x, y), theirs)
        assert not np.array_equal(theirs, before)
        before = theirs


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("starts", [0, 1])
def test_pixel_pgd_equals_a_loop_by_hand(digits_net, batch, arrays, targeted, starts):
    """Behind a preprocessing, in another range: the map, the radii, the start inside them, the element-wise clip."""
    classifier = classify(digits_net, clip_values=(-1.0, 1.0), preprocessing=(-1.0, 2.0))
    images, labels = 2 * batch[0] - 1, (batch[1] + targeted) % 10

    def net(x):
        return digits_net((x + 1) / 2)

    radii = PixelBudget(EPS, EPS / 2)(digits_net, (images + 1) / 2)
    adv = images
    np.random.seed(0)
    if starts:
        noise = torch.from_numpy(np.random.uniform(-EPS, EPS, (16, 64)).astype(np.float32)).reshape(images.shape)
        adv = (images + noise * torch.where(radii == radii.max(), 1.0, radii / EPS)).clamp(-1, 1)
    for _ in range(5):
        adv = adv.detach().requires_grad_()
        loss = nn.functional.cross_entropy(net(adv), labels) * (-1 if targeted else 1)
        adv = adv.detach() + EPS / 4 * torch.autograd.grad(loss, adv)[0].sign()
        adv = (images + torch.maximum(torch.minimum(adv - images, radii), -radii)).clamp(-1, 1)
    attack = PixelProjectedGradientDescent(
        classifier, eps=EPS, eps_step=EPS / 4, max_iter=5, targeted=targeted, num_random_init=starts, verbose=False,
        eps_low=EPS / 2,
    )  # fmt: skip
    assert np.array_equal(run(attack, images.numpy(), labels.numpy()), adv.numpy())


@pytest.mark.parametrize("targeted", [False, True])
def test_of_several_starts_the_last_success_is_kept(digits_net, digits, targeted):
    """Each start alone, from the same stream of random numbers, put together by hand."""
    x, y = digits[0][1500:1600].numpy(), (digits[1][1500:1600].numpy() + targeted) % 10
    classifier = classify(digits_net)
    settings = {
        "eps": 0.15 if targeted else 0.08, "eps_step": 0.04, "max_iter": 3, "targeted": targeted, "batch_size": 100,
        "verbose": False,
    }  # fmt: skip
    single = PixelProjectedGradientDescent(classifier, num_random_init=1, **settings)
    np.random.seed(0)
    runs = [single.generate(x, y) for _ in range(4)]
    hits = [classifier.predict(adv).argmax(1) == y for adv in runs]
    expected = runs[0]
    for adv, hit in zip(runs[1:], hits[1:], strict=True):
        expected = np.where((hit if targeted else ~hit)[:, None, None, None], adv, expected)
    assert sum((a != b).sum() for a, b in zip(hits[1:], hits[:-1], strict=True)) > 0  # starts differ in success
    several = PixelProjectedGradientDescent(classifier, num_random_init=4, **settings)
    assert np.array_equal(run(several, x, y), expected)


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
        (
            {"norm": 2},
            "PixelProjectedGradientDescent with norm=2 and eps=0.3 cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)",
        ),
        (
            {"eps": np.full((1, 8, 8), 0.1), "eps_step": np.full((1, 8, 8), 0.05)},
            "PixelProjectedGradientDescent with norm=inf and eps=an array cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)",
        ),
        ({"decay": 0.5}, "decay=0.5 is not supported; wrap ART's own attack in PixelEvasionAttack"),
        ({"random_eps": True}, "random_eps=True is not supported; wrap ART's own attack in PixelEvasionAttack"),
        ({"summary_writer": True}, "summary_writer=True is not supported; wrap ART's own attack in PixelEvasionAttack"),
        ({"eps": 0.1, "eps_low": 0.2}, "eps_low=0.2 is larger than eps=0.1; it must be <= eps"),
        ({"eps": -0.1}, "eps=-0.1 is not allowed; it must be >= 0"),
        ({"eps": 8}, "eps=8 is larger than the range of the images, 1; did you mean 8/255?"),
        ({"eps_step": 2}, "eps_step=2 is larger than the range of the images, 1; did you mean 2/255?"),
        ({"eps_step": np.nan}, "eps_step=nan is not allowed; it must be > 0"),
        (
            {"budget": FixedBudget(0.1), "cam": "layercam"},
            "cam=layercam does not go with budget=FixedBudget(eps=0.1), which has its own",
        ),
    ],
)
def test_wrong_settings(digits_net, options, message):
    with pytest.raises(ValueError) as caught:
        PixelProjectedGradientDescent(classify(digits_net), **options)
    assert str(caught.value) == message
    if "cam" not in options:  # which is settled when the attack is made
        attack = PixelProjectedGradientDescent(classify(digits_net), eps_low=0.1)
        before = {name: getattr(attack, name) for name in attack.attack_params}
        with pytest.raises(ValueError) as caught:
            attack.set_params(max_iter=7, batch_size=3, **options)
        assert str(caught.value) == message.replace("norm=inf and eps=0.3", "norm=inf and eps=an array")
        assert {name: getattr(attack, name) for name in attack.attack_params} == before


def test_radii_and_steps_are_in_the_units_of_the_clip_values(digits_net):
    classifier = classify(digits_net, clip_values=(0, 255), preprocessing=(0.0, 255.0))
    attack = PixelProjectedGradientDescent(classifier, eps=8, eps_step=2)
    assert (attack.eps, attack.eps_low, attack.eps_step) == (8, 7, 2)
    with pytest.raises(ValueError) as caught:
        attack.set_params(eps_step=256)
    assert str(caught.value) == "eps_step=256 is larger than the range of the images, 255"


def test_ours_come_by_keyword_alone(digits_net):
    with pytest.raises(TypeError, match="takes from 2 to 13 positional arguments but 14 were given"):
        PixelProjectedGradientDescent(
            classify(digits_net), np.inf, 0.3, 0.1, None, 100, False, 0, 32, False, False, True, 0.2
        )
