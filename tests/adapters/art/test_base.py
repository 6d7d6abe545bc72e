"""What the ART attacks here share: budgets, settings, batches, a classifier left as it was found."""

import sys

import numpy as np
import pytest
import torch
from adapters.art.helpers import Terminal, classify, run
from art.attacks.evasion import (
    FastGradientMethod,
    MomentumIterativeMethod,
)
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import within

from part_plugin import (
    FixedBudget,
    PixelBudget,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)
from part_plugin.adapters.art.classifier import classifier_view

EPS = 0.2
EVERY = {
    "PixelProjectedGradientDescent": lambda c, eps, **options: PixelProjectedGradientDescent(
        c, eps=eps, eps_step=0.1, max_iter=3, verbose=False, **options
    ),
    "PixelEvasionAttack": lambda c, eps, **options: PixelEvasionAttack(FastGradientMethod(c, eps=eps), **options),
}


def test_label_formats_agree(digits_net, arrays):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=3, verbose=False)
    x, y = arrays
    expected = attack.generate(x, y)
    for labels in (y[:, None], np.eye(10)[y], np.eye(10, dtype=np.float32)[y]):
        assert np.array_equal(attack.generate(x, labels), expected)
    predicted = digits_net(torch.from_numpy(x)).argmax(1).numpy()
    assert np.array_equal(attack.generate(x), attack.generate(x, predicted))
    assert np.array_equal(attack.generate(x.astype(np.float64), y), expected)


@pytest.mark.parametrize("name", EVERY)
def test_options_and_labels_reach_the_budget(digits_net, batch, arrays, name):
    """Where a map of the (wrong) class that is passed lets no pixel move, none does."""
    labels = (batch[1] + 1) % 10
    options = {"cam": "layercam", "target": "true"}
    attack = EVERY[name](classify(digits_net), EPS, eps_low=0.0, **options)
    adv = attack.generate(arrays[0], labels.numpy())
    radii = PixelBudget(EPS, 0.0, **options)(digits_net, batch[0], labels).numpy()
    assert not np.array_equal(radii, PixelBudget(EPS, 0.0)(digits_net, batch[0]))
    assert (adv == arrays[0])[radii == 0].all()
    assert (adv != arrays[0]).any()


@pytest.mark.parametrize("name", EVERY)
def test_images_keep_to_their_range(digits_net, arrays, name):
    classifier = classify(digits_net, clip_values=(-1.0, 3.0), preprocessing=(-1.0, 4.0))
    x = 4 * arrays[0] - 1
    adv = EVERY[name](classifier, 1.0, eps_low=0.5).generate(x, arrays[1])
    assert adv.min() == -1
    assert 2 < adv.max() <= 3
    assert (np.abs(adv - x) <= 1 + 1e-6).all()


def test_a_mask_forbids_pixels(digits_net, arrays):
    attack = PixelProjectedGradientDescent(
        classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=3, num_random_init=1, batch_size=5
    )
    mask = np.zeros((1, 1, 8, 8))
    mask[..., :4] = 0.5  # only zero and not zero are told apart, as in ART
    adv = run(attack, *arrays, mask=mask)
    shift = np.abs(adv - arrays[0])
    assert shift[..., 4:].max() == 0
    assert shift[..., :4].max() > EPS / 2
    for same in (mask[0], mask[0, 0], np.tile(mask, (16, 1, 1, 1))):
        assert np.array_equal(run(attack, *arrays, mask=same), adv)
    with pytest.raises(ValueError) as caught:
        attack.generate(*arrays, mask=np.ones((3, 8, 7)))
    assert str(caught.value) == "mask has shape (3, 8, 7), which does not fit images of shape (16, 1, 8, 8)"


@pytest.mark.parametrize("name", ["PixelProjectedGradientDescent", "PixelEvasionAttack"])
def test_a_mask_of_its_own_for_each_image(digits_net, arrays, name):
    """In batches of 5, each image with its mask: as if its radii outside were 0."""
    mask = np.random.default_rng(0).integers(2, size=(16, 1, 8, 8))
    classifier = classify(digits_net)
    expected = EVERY[name](classifier, EPS, budget=FixedBudget(torch.from_numpy(EPS * mask))).generate(*arrays)
    attack = EVERY[name](classifier, EPS, eps_low=EPS)
    attack.set_params(batch_size=5)
    assert np.array_equal(attack.generate(*arrays, mask=mask), expected)


def test_what_generate_does_not_know_is_refused(digits_net, arrays):
    with pytest.raises(TypeError, match=r"^PixelEvasionBase.generate\(\) got an unexpected keyword argument 'masks'$"):
        PixelProjectedGradientDescent(classify(digits_net)).generate(*arrays, masks=None)


@pytest.mark.parametrize("verbose", [False, True])
def test_a_bar_is_for_terminals(digits_net, arrays, monkeypatch, capsys, verbose):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS, max_iter=1, verbose=verbose)
    attack.generate(*arrays)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", Terminal())
    attack.generate(*arrays)
    shown = sys.stderr.getvalue()
    assert ("PixelProjectedGradientDescent - Batches" in shown) == verbose
    assert shown.endswith("\r" if verbose else "")  # and wiped away


def test_settings_can_be_changed_as_in_art(digits_net, arrays):
    classifier = classify(digits_net)
    changed = PixelProjectedGradientDescent(classifier, eps=0.3, eps_step=0.02, max_iter=2, verbose=False)
    changed.set_params(eps=0.1, eps_low=0.05, max_iter=5)
    direct = PixelProjectedGradientDescent(classifier, eps=0.1, eps_low=0.05, eps_step=0.02, max_iter=5, verbose=False)
    assert np.array_equal(changed.generate(*arrays), direct.generate(*arrays))
    wrapped = PixelEvasionAttack(FastGradientMethod(classifier, eps=0.3), eps_low=0.05)
    wrapped.set_params(eps=0.1)
    again = PixelEvasionAttack(FastGradientMethod(classifier, eps=0.1), eps_low=0.05)
    assert np.array_equal(wrapped.generate(*arrays), again.generate(*arrays))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("way", ["attribute", "set_params"])
def test_an_eps_that_is_changed_takes_the_paper_s_ratio_with_it(digits_net, arrays, name, way):
    classifier = classify(digits_net)
    attack = EVERY[name](classifier, 0.25)
    if way == "attribute":
        attack.eps = 0.5
    else:
        attack.set_params(eps=0.5)
    assert (attack.eps, attack.eps_low, attack.budget.eps, attack.budget.eps_low) == (0.5, 0.4375, 0.5, 0.4375)
    assert np.array_equal(run(attack, *arrays), run(EVERY[name](classifier, 0.5), *arrays))
    if name == "PixelEvasionAttack":
        assert attack.attack.eps == 0.5


@pytest.mark.parametrize("name", EVERY)
def test_an_eps_low_that_was_given_is_kept(digits_net, name):
    attack = EVERY[name](classify(digits_net), 0.25, eps_low=0.125)
    attack.set_params(eps=0.5)
    assert (attack.eps, attack.eps_low) == (0.5, 0.125)
    for refused in ({"eps": 0.0625}, {"eps_low": 0.75}, {"eps": 0.25, "eps_low": 0.5}):
        with pytest.raises(ValueError) as caught:
            attack.set_params(**refused)
        eps, eps_low = refused.get("eps", 0.5), refused.get("eps_low", 0.125)
        assert str(caught.value) == f"eps_low={eps_low:g} is larger than eps={eps:g}; it must be <= eps"
        assert (attack.eps, attack.budget.eps, attack.eps_low) == (0.5, 0.5, 0.125)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("pair", [(0.0625, 0.03125), (0.5, 0.375), (0.5, 0.5), (0.5, None)])
def test_two_radii_are_changed_as_one(digits_net, name, pair):
    """In either order, whatever the radii were."""
    for order in (("eps", "eps_low"), ("eps_low", "eps")):
        attack = EVERY[name](classify(digits_net), 0.25, eps_low=0.125)
        attack.set_params(**{key: dict(zip(("eps", "eps_low"), pair, strict=True))[key] for key in order})
        assert (attack.eps, attack.eps_low) == (pair[0], 7 / 8 * pair[0] if pair[1] is None else pair[1])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (8, ValueError, "eps=8 is larger than the range of the images, 1; did you mean 8/255?"),
        (-0.1, ValueError, "eps=-0.1 is not allowed; it must be >= 0"),
        ("8/255", TypeError, "eps='8/255' is a str; a number is needed"),
    ],
)
def test_an_eps_that_is_not_allowed_is_not_set(digits_net, name, value, error, message):
    attack = EVERY[name](classify(digits_net), 0.25)
    with pytest.raises(error) as caught:
        attack.set_params(eps=value)
    assert str(caught.value) == message
    assert (attack.eps, attack.budget.eps) == (0.25, 0.25)


def test_a_budget_goes_before_eps(digits_net, batch, arrays):
    classifier = classify(digits_net)
    budget = PixelBudget(0.1, 0.05)
    radii = budget(digits_net, batch[0]).numpy()
    for attack in (
        PixelProjectedGradientDescent(classifier, eps_step=0.05, max_iter=5, budget=budget, verbose=False),
        PixelEvasionAttack(FastGradientMethod(classifier, eps=0.3), budget=budget),
    ):
        shift = np.abs(attack.generate(*arrays) - arrays[0])
        assert (shift <= radii + 1e-6).all()
        assert shift.max() > 0.09
    assert budget.eps == 0.1
    with pytest.raises(ValueError, match="budget reaches 0.1, further than eps=0.05 of FastGradientMethod"):
        PixelEvasionAttack(FastGradientMethod(classifier, eps=0.05), budget=budget)
    for attack in (
        PixelProjectedGradientDescent(classifier, budget=FixedBudget(0.1)),
        PixelEvasionAttack(FastGradientMethod(classifier, eps=0.1), budget=FixedBudget(0.1)),
    ):
        with pytest.raises(ValueError) as caught:
            attack.set_params(eps=0.2)
        assert str(caught.value) == "eps=0.2 cannot be set: FixedBudget(eps=0.1) keeps its radii; make a new attack"
        assert attack.eps == 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (255 * x, y), "images span [0, 255]; allowed is [0, 1]; divide them by 255"),
        (lambda x, y: (x, y[:5]), "labels have shape (5,); expected (16,), (16, 1) or (16, K)"),
        (lambda x, y: (x, np.full(16, 12)), "labels contain class 12; allowed is 0 to 9"),
        (
            lambda x, y: (x, np.full((16, 10), 0.2)),
            "labels of shape (16, 10) are neither one-hot nor probabilities; each row must sum to 1",
        ),
        (
            lambda x, y: (x[0], y),
            "images have shape (1, 8, 8); (N, C, H, W) with N >= 1 is needed: images[None] for one image, "
            "images[:, None] for grey ones",
        ),
        (lambda x, y: (x * np.nan, y), "images contain NaN or infinite values; they must be finite"),
    ],
)
def test_wrong_batches(digits_net, arrays, change, message):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS)
    with pytest.raises(ValueError) as caught:
        attack.generate(*change(*arrays))
    assert str(caught.value) == message


def test_a_targeted_attack_needs_targets(digits_net, arrays):
    classifier = classify(digits_net)
    for attack in (
        PixelProjectedGradientDescent(classifier, targeted=True),
        PixelEvasionAttack(FastGradientMethod(classifier, targeted=True)),
    ):
        with pytest.raises(ValueError) as caught:
            attack.generate(arrays[0])
        assert str(caught.value) == "y=None is not allowed for a targeted attack; pass the target classes"


@pytest.mark.parametrize("wrapped", [False, True])
def test_no_trace_on_the_model(lived_in, arrays, wrapped):
    classifier = classify(lived_in)
    before = snapshot(classifier._model)
    if wrapped:
        attack = PixelEvasionAttack(MomentumIterativeMethod(classifier, eps=EPS, max_iter=3, verbose=False))
    else:
        attack = PixelProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=3, verbose=False)
    expected = run(attack, *arrays)
    with torch.inference_mode():
        assert np.array_equal(run(attack, *arrays), expected)
    assert_untouched(classifier._model, before)

    calls = iter(range(2))

    def breaks(*_):
        if next(calls, None) is None:
            raise ArithmeticError("broken in the middle")

    lived_in.features[0].forward = lambda x, plain=lived_in.features[0].forward: (breaks(), plain(x))[1]
    with pytest.raises(ArithmeticError):
        run(attack, *arrays)
    del lived_in.features[0].forward
    assert_untouched(classifier._model, before)


@settings(max_examples=300)
@given(
    st.booleans(),
    st.integers(1, 3),
    st.floats(0.01, 0.6),
    st.floats(0, 1),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.1, 1.4)]),
    st.sampled_from(["map", "random"]),
    st.integers(0, 2),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_no_pixel_leaves_its_budget(wrapped, channels, relative_eps, ratio, clip, kind, starts, float64, seed):
    torch.manual_seed(seed)
    np.random.seed(seed)
    span = clip[1] - clip[0]
    eps = relative_eps * span
    classifier = classify(SmallNet(channels, num_classes=4, width=2).eval(), clip, (clip[0], span))
    images = clip[0] + span * np.random.rand(5, channels, 8, 8)
    images[0] = np.where(images[0] > clip[0] + span / 2, *clip[::-1])
    images = images.astype(np.float64 if float64 else np.float32)
    labels = np.random.randint(4, size=5)
    budget = PixelBudget(eps, ratio * eps) if kind == "map" else FixedBudget(eps * torch.rand(channels, 8, 8))
    if wrapped:
        attack = PixelEvasionAttack(
            MomentumIterativeMethod(classifier, eps=eps, eps_step=eps / 2, max_iter=3, verbose=False), budget=budget
        )
    else:
        attack = PixelProjectedGradientDescent(
            classifier, eps=eps, eps_step=eps / 2, max_iter=3, num_random_init=starts, batch_size=5, verbose=False,
            budget=budget,
        )  # fmt: skip
    adv = attack.generate(images, labels)
    given = torch.from_numpy(images.astype(np.float32))
    within(given, torch.from_numpy(adv), budget.radii(classifier_view(classifier), given), clip)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_weights_of_ones_own_take_the_place_of_a_map(digits_net, arrays, name, dtype):
    """Which give what a fixed budget of the same radii does, also in batches, and no map is made."""
    x, y = arrays
    weights = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
    weights = weights > 0.5 if dtype is bool else weights
    attack = EVERY[name](classify(digits_net), EPS, eps_low=EPS / 4)
    radii = torch.lerp(torch.tensor(EPS / 4), torch.tensor(EPS), torch.from_numpy(weights).float())
    adv = run(attack, x[:5], y[:5], important=weights[:5])
    fixed = EVERY[name](classify(digits_net), EPS, budget=FixedBudget(radii[:5].double().clamp(EPS / 4, EPS)))
    np.testing.assert_allclose(adv, run(fixed, x[:5], y[:5]), atol=1e-6)
    assert attack.budget.images == 0
    assert not np.array_equal(adv, run(attack, x[:5], y[:5]))
    whole = run(attack, x, y, important=torch.from_numpy(weights))
    within(torch.from_numpy(x), torch.from_numpy(whole), radii, (0.0, 1.0))
    for batch_size in (5, 16):
        attack.set_params(batch_size=batch_size)
        assert np.array_equal(run(attack, x, y, important=weights), whole)
    with pytest.raises(ValueError, match=r"^important is torch.bool \(16, 8, 8\); \(16, 1, 8, 8\), bool or in"):
        attack.generate(x, y, important=np.ones((16, 8, 8), bool))
