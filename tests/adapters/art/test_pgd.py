import copy

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    SquareAttack,
)
from art.defences.preprocessor import FeatureSqueezing
from art.estimators.classification import PyTorchClassifier
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from part_plugin import FixedBudget, PixelBudget, PixelEvasionAttack, PixelProjectedGradientDescent
from part_plugin.adapters.art import lift

EPS = 0.2


def classify(net, clip_values=(0.0, 1.0), preprocessing=(0.0, 1.0), optimizer=True, **options):
    shape = (net.features[0].in_channels, 8, 8)
    return PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=net.head.out_features,
        optimizer=torch.optim.SGD(net.parameters(), 0.05, momentum=0.9) if optimizer else None,
        clip_values=clip_values,
        preprocessing=preprocessing,
        **options,
    )


@pytest.fixture
def arrays(batch):
    return batch[0].numpy(), batch[1].numpy()


def run(attack, *arguments, seed=0, **options):
    np.random.seed(seed)
    torch.manual_seed(seed)
    return attack.generate(*arguments, **options)


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


def test_label_formats_agree(digits_net, arrays):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=3, verbose=False)
    x, y = arrays
    expected = attack.generate(x, y)
    for labels in (y[:, None], np.eye(10)[y], np.eye(10, dtype=np.float32)[y]):
        assert np.array_equal(attack.generate(x, labels), expected)
    predicted = digits_net(torch.from_numpy(x)).argmax(1).numpy()
    assert np.array_equal(attack.generate(x), attack.generate(x, predicted))
    assert np.array_equal(attack.generate(x.astype(np.float64), y), expected)


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


def test_a_mask_forbids_pixels(digits_net, arrays):
    attack = PixelProjectedGradientDescent(
        classify(digits_net), eps=EPS, eps_step=EPS / 4, max_iter=3, num_random_init=1
    )
    mask = np.zeros((1, 1, 8, 8))
    mask[..., :4] = 0.5  # only zero and not zero are told apart, as in ART
    shift = np.abs(run(attack, *arrays, mask=mask) - arrays[0])
    assert shift[..., 4:].max() == 0
    assert shift[..., :4].max() > EPS / 2


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


WRAPPED = {
    "FastGradientMethod": lambda c: FastGradientMethod(c, eps=EPS),
    "MomentumIterativeMethod": lambda c: MomentumIterativeMethod(
        c, eps=EPS, eps_step=EPS / 4, max_iter=5, verbose=False
    ),
    "APGD": lambda c: AutoProjectedGradientDescent(
        c, eps=EPS, eps_step=EPS / 4, max_iter=5, nb_random_init=1, loss_type="cross_entropy", verbose=False
    ),
    "Square": lambda c: SquareAttack(c, eps=EPS, max_iter=30, nb_restarts=1, verbose=False),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("preprocessing", [(0.0, 1.0), (0.3, 0.4)])
def test_wrapped_attacks(digits_net, batch, arrays, name, preprocessing):
    classifier = classify(digits_net, preprocessing=preprocessing)
    labels = np.eye(10)[arrays[1]]
    expected = run(WRAPPED[name](classifier), arrays[0], labels)
    same = PixelEvasionAttack(WRAPPED[name](classifier), eps_low=EPS)
    assert np.allclose(run(same, arrays[0], labels), expected, atol=1e-6)

    pixel = PixelEvasionAttack(WRAPPED[name](classifier), eps_low=EPS / 4)
    adv = run(pixel, arrays[0], labels)
    inputs = (batch[0] - preprocessing[0]) / preprocessing[1]
    radii = PixelBudget(EPS, EPS / 4)(digits_net.eval(), inputs).numpy()
    assert (np.abs(adv - arrays[0]) <= radii + 1e-6).all()
    assert np.abs(adv - arrays[0]).max() > EPS / 4 + 1e-3
    assert repr(pixel).startswith(f"PixelEvasionAttack[{type(pixel.attack).__name__}](")
    assert f"eps_low={EPS / 4}" in repr(pixel)


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


def test_lifting(digits_net):
    classifier = classify(digits_net)
    plain = ProjectedGradientDescent(
        classifier, eps=0.1, eps_step=0.03, max_iter=9, num_random_init=2, batch_size=77, verbose=False
    )
    lifted = lift(plain, eps_low=0.05)
    assert isinstance(lifted, PixelProjectedGradientDescent)
    read = (lifted.eps, lifted.eps_low, lifted.eps_step, lifted.max_iter, lifted.num_random_init, lifted.batch_size)
    assert read == (0.1, 0.05, 0.03, 9, 2, 77)
    assert lift(plain).eps_low == pytest.approx(0.1 * 7 / 8)
    assert lift(lifted) is lifted
    assert type(lift(BasicIterativeMethod(classifier, eps=0.1))) is PixelProjectedGradientDescent
    for other in (
        MomentumIterativeMethod(classifier, eps=0.1),
        ProjectedGradientDescent(classifier, eps=0.1, random_eps=True),
        FastGradientMethod(classifier, eps=0.1),
    ):
        assert type(lift(other)) is PixelEvasionAttack


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda c: FastGradientMethod(c, norm=2),
            "FastGradientMethod with norm=2 and eps=0.3 cannot be given a budget",
        ),
        (lambda c: ProjectedGradientDescent(c, norm=1), "with norm=1 and eps=0.3 cannot be given .*PART, Appendix A"),
        (lambda c: CarliniL2Method(c), "CarliniL2Method with norm=None and eps=None cannot be given"),
        (lambda c: DeepFool(c), "DeepFool with norm=None and eps=None cannot be given"),
        (
            lambda c: ProjectedGradientDescent(c, eps=np.full((1, 8, 8), 0.1), eps_step=np.full((1, 8, 8), 0.1)),
            "ProjectedGradientDescent with norm=inf and eps=an array cannot be given",
        ),
    ],
)
def test_what_cannot_be_lifted_is_refused_by_name(digits_net, make, message):
    with pytest.raises(ValueError, match=message):
        lift(make(classify(digits_net)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: classify(net, clip_values=None), "clip_values=None leaves the range of the images open"),
        (lambda net: classify(net, channels_first=False), "channels_first=False is not supported"),
        (
            lambda net: classify(net, preprocessing_defences=FeatureSqueezing(clip_values=(0, 1))),
            "preprocessing defence FeatureSqueezing is not supported",
        ),
    ],
)
def test_classifiers_that_are_refused(digits_net, make, message):
    with pytest.raises(ValueError, match=message):
        PixelProjectedGradientDescent(make(digits_net))


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
