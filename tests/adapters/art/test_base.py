"""What the ART attacks here share: budgets, settings, batches, a classifier left as it was found."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import classify, run
from art.attacks.evasion import (
    FastGradientMethod,
    MomentumIterativeMethod,
)
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from part_plugin import (
    FixedBudget,
    PixelBudget,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)

EPS = 0.2


def test_label_formats_agree(digits_net, arrays):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=3, verbose=False)
    x, y = arrays
    expected = attack.generate(x, y)
    for labels in (y[:, None], np.eye(10)[y], np.eye(10, dtype=np.float32)[y]):
        assert np.array_equal(attack.generate(x, labels), expected)
    predicted = digits_net(torch.from_numpy(x)).argmax(1).numpy()
    assert np.array_equal(attack.generate(x), attack.generate(x, predicted))
    assert np.array_equal(attack.generate(x.astype(np.float64), y), expected)


def test_a_mask_forbids_pixels(digits_net, arrays):
    attack = PixelProjectedGradientDescent(
        classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=3, num_random_init=1
    )
    mask = np.zeros((1, 1, 8, 8))
    mask[..., :4] = 0.5  # only zero and not zero are told apart, as in ART
    shift = np.abs(run(attack, *arrays, mask=mask) - arrays[0])
    assert shift[..., 4:].max() == 0
    assert shift[..., :4].max() > EPS / 2


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
    with pytest.raises(AttributeError, match="eps"):
        PixelProjectedGradientDescent(classifier, budget=FixedBudget(0.1)).set_params(eps=0.2)


def test_what_is_no_classifier_and_no_attack(digits_net):
    with pytest.raises(TypeError, match="classifier is a SmallNet; an ART PyTorchClassifier is needed"):
        PixelProjectedGradientDescent(digits_net)
    with pytest.raises(TypeError, match="attack is a str; an ART EvasionAttack is needed"):
        PixelEvasionAttack("PGD")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (255 * x, y), r"images span \[0, 255\]; allowed is \[0, 1\]"),
        (lambda x, y: (x, y[:5]), r"labels have shape \(5,\); expected \(16,\)"),
        (lambda x, y: (x, y + 10), r"labels contain class 1\d; allowed is 0 to 9"),
        (lambda x, y: (x * np.nan, y), "images contain NaN"),
    ],
)
def test_wrong_batches(digits_net, arrays, change, message):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS)
    with pytest.raises(ValueError, match=message):
        attack.generate(*change(*arrays))


def test_a_targeted_attack_needs_targets(digits_net, arrays):
    with pytest.raises(ValueError, match="y=None is not allowed for a targeted attack"):
        PixelProjectedGradientDescent(classify(digits_net), targeted=True).generate(arrays[0])


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
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]),
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
    given_images = torch.from_numpy(images.astype(np.float32))
    radii = budget(classifier.model, (given_images - clip[0]) / span).numpy()
    assert (np.abs(adv - given_images.numpy()) <= radii + 2e-7 * span).all()
    assert adv.min() >= clip[0]
    assert adv.max() <= clip[1]
