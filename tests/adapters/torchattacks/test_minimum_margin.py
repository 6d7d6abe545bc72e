"""MMA and PixelMMA: the conventions of torchattacks, their budget, their strength."""

import copy
import pickle

import pytest
import torch
import torchattacks
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from margins import accuracy, margins, run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchattacks.attack import Attack

from part_plugin import MMA, FixedBudget, PixelAttack, PixelBudget, PixelMMA
from part_plugin.attacks.minimum_margin import MinimumMargin
from part_plugin.network.view import ModelView

EPS = 0.1
MEAN, STD = [0.3], [0.4]


@pytest.mark.parametrize("name", ["MMA", "PixelMMA"])
@settings(max_examples=300)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(3, 9),
    st.integers(3, 9),
    st.floats(0, 0.6),
    st.floats(0, 1),
    st.floats(0.01, 3),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from(["map", "random", "random per channel", "quadrant"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_no_pixel_leaves_its_budget(
    name, n, channels, height, width, eps, ratio, alpha, steps, random_start, targets, kind, dtype, normalised, seed
):
    torch.manual_seed(seed)
    net = SmallNet(channels, num_classes=4, width=2).to(dtype).eval()
    images = torch.rand(n, channels, height, width, dtype=dtype)
    images[0] = images[0].round()  # pixels at both ends of the range
    labels = torch.randint(4, (n,))
    options = {
        "alpha": min(max(alpha * eps, 1e-3), 1.0),
        "steps": steps,
        "random_start": random_start,
        "targets": targets,
    }
    if name == "MMA":
        attack = MMA(net, eps=eps, **options)
    elif kind == "map":
        attack = PixelMMA(net, eps=eps, eps_low=eps * ratio, **options)
    else:
        budget = {
            "random": lambda: FixedBudget(eps * torch.rand(n, 1, height, width)),
            "random per channel": lambda: FixedBudget(eps * torch.rand(channels, height, width)),
            "quadrant": lambda: FixedBudget.quadrant("top-right", eps, eps * ratio, (height, width)),
        }[kind]()
        attack = PixelMMA(net, budget=budget, **options)
    if normalised:
        attack.set_normalization_used([0.4] * channels, [0.5] * channels)
        adv = attack.inverse_normalize(attack((images - 0.4) / 0.5, labels))
        images = attack.inverse_normalize((images - 0.4) / 0.5)
        radii, slack = attack.budget(ModelView(net, attack.normalize), images), 1e-6
        rounding = slack
    else:
        adv = attack(images, labels)
        radii, slack = attack.budget(net, images), 0
        rounding = torch.finfo(dtype).eps * torch.maximum(images, adv)
    assert adv.dtype == dtype
    assert adv.isfinite().all()
    assert ((adv - images).abs() <= radii + rounding).all()
    assert adv.min() >= -slack
    assert adv.max() <= 1 + slack


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("normalised", [False, True])
def test_equal_radii_give_mma_bit_for_bit(digits_net, batch, random_start, normalised):
    options = {"eps": EPS, "alpha": EPS / 4, "steps": 7, "random_start": random_start}
    plain, pixel = MMA(digits_net, **options), PixelMMA(digits_net, eps_low=EPS, **options)
    images = batch[0]
    if normalised:
        images = (images - MEAN[0]) / STD[0]
        for attack in (plain, pixel):
            attack.set_normalization_used(MEAN, STD)
    expected = run(plain, images, batch[1])
    assert (expected != images).any((1, 2, 3)).all()
    assert torch.equal(run(pixel, images, batch[1]), expected)
    pixel.eps_low = EPS / 2
    assert not torch.equal(run(pixel, images, batch[1]), expected)


def test_both_normalisation_setups_agree(robust_net, batch):
    class Normalised(nn.Module):
        def forward(self, x):
            return net(x * STD[0] + MEAN[0])

    net, images = robust_net.double(), batch[0].double()
    outside = PixelMMA(Normalised(), eps=EPS, eps_low=EPS / 2, target_layers=net.features, steps=5)
    outside.set_normalization_used(MEAN, STD)
    outside.budget = FixedBudget(EPS * torch.rand(1, 8, 8))
    inside = PixelMMA(net, budget=outside.budget, steps=5)
    adv = run(outside, (images - MEAN[0]) / STD[0], batch[1]) * STD[0] + MEAN[0]
    assert torch.isclose(adv, run(inside, *(images, batch[1])), atol=1e-6).float().mean() > 0.995


def test_it_is_stronger_than_pgd_and_almost_autoattack(robust_net, digits):
    """On 100 digits and a network trained to withstand EPS, as the paper has it for CIFAR-10."""
    import pyautoattack

    images, labels = digits[0][1400:1500], digits[1][1400:1500]
    options = {"eps": EPS, "alpha": EPS / 4, "steps": 20}
    pgd = run(torchattacks.PGD(robust_net, **options), images, labels)
    mma = run(MMA(robust_net, **options), images, labels)
    pixel = run(PixelMMA(robust_net, eps_low=EPS / 2, **options), images, labels)
    judge = pyautoattack.AutoAttack(robust_net, eps=EPS, seed=0, version="standard")
    autoattack, _ = judge.run_standard_evaluation(images, labels, batch_size=200)
    natural, pgd, mma, pixel, autoattack = (
        accuracy(robust_net, adv, labels) for adv in (images, pgd, mma, pixel, autoattack)
    )
    print(f"natural {natural:.3f} PGD {pgd:.3f} MMA {mma:.3f} PixelMMA {pixel:.3f} AutoAttack {autoattack:.3f}")
    assert natural > pgd > 0.5  # a network on which there is something to tell apart
    assert mma < pgd
    assert autoattack <= mma <= autoattack + 0.05
    assert mma < pixel < natural


def test_it_is_at_least_as_strong_as_pgd_on_cifar_resnet(cifar_net, photos):
    images = photos[::2]
    labels = cifar_net(images).argmax(1)
    options = {"eps": 1 / 255, "alpha": 0.5 / 255, "steps": 3}
    pgd = run(torchattacks.PGD(cifar_net, **options), images, labels)
    mma = run(MMA(cifar_net, targets=2, **options), images, labels)
    assert ((mma - images).abs() <= 1 / 255 + 1e-7).all()
    assert accuracy(cifar_net, mma, labels) <= accuracy(cifar_net, pgd, labels)
    assert (margins(cifar_net, mma, labels) > margins(cifar_net, images, labels)).all()
    assert margins(cifar_net, mma, labels).mean() > margins(cifar_net, pgd, labels).mean()


ATTACKS = {
    "MMA": lambda net, **options: MMA(net, **{"eps": EPS, "steps": 4} | options),
    "PixelMMA": lambda net, **options: PixelMMA(net, **{"eps": EPS, "eps_low": EPS / 2, "steps": 4} | options),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_they_are_torchattacks_attacks(digits_net, batch, name):
    attack = ATTACKS[name](digits_net, alpha=0.03, targets=2)
    assert isinstance(attack, Attack)
    assert repr(attack).startswith(f"{name}(")
    for setting in ("eps=0.1", "alpha=0.03", "steps=4", "targets=2", "random_start=True", "attack_mode=default"):
        assert setting in repr(attack)
    assert ("eps_low=0.05" in repr(attack)) == (name == "PixelMMA")
    expected = run(attack, *batch)
    for twin in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        assert torch.equal(run(twin, *batch), expected)


@pytest.mark.parametrize("targets", [1, 9])
def test_they_are_the_core_attack(robust_net, batch, targets):
    options = {"alpha": 0.03, "targets": targets, "random_start": False}
    for name, make in ATTACKS.items():
        radii = FixedBudget(EPS) if name == "MMA" else PixelBudget(EPS, EPS / 2)
        core = MinimumMargin(robust_net, *batch, radii(robust_net, batch[0]), 0.03, targets=targets)
        assert torch.equal(make(robust_net, **options)(*batch), core.advance(4))


@pytest.mark.parametrize("name", ATTACKS)
def test_there_is_no_targeted_mode(digits_net, batch, name):
    attack = ATTACKS[name](digits_net)
    assert attack.supported_mode == ["default"]
    for mode in ("by_function", "random", "least_likely", "by_label"):
        arguments = (lambda x, y: y,) if mode == "by_function" else ()
        with pytest.raises(
            ValueError,
            match=f"^{name} has no targeted mode: it chooses its targets itself, the most likely wrong classes$",
        ):
            getattr(attack, f"set_mode_targeted_{mode}")(*arguments, quiet=True)
    assert attack.get_mode() == "default"
    assert (margins(digits_net, attack(*batch), batch[1]) > margins(digits_net, *batch)).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_save_and_load(lived_in, batch, name, tmp_path, capsys):
    attack = ATTACKS[name](lived_in)
    before = snapshot(lived_in)
    loader = DataLoader(TensorDataset(*batch), batch_size=8)
    attack.save(loader, str(tmp_path / "adv.pt"), save_predictions=True)
    assert_untouched(lived_in, before)
    assert "Robust accuracy" in capsys.readouterr().out
    adv, labels, predictions = next(iter(attack.load(str(tmp_path / "adv.pt"), batch_size=16, load_predictions=True)))
    assert torch.equal(labels, batch[1])
    assert torch.equal(lived_in.eval()(adv).argmax(1), predictions)
    assert ((adv - batch[0]).abs().amax((1, 2, 3)) > EPS / 2).all()
    assert ((adv - batch[0]).abs() <= EPS + 1e-6).all()


def test_multi_attack(robust_net, digits):
    images, labels = digits[0][1400:1464], digits[1][1400:1464]
    attacks = [torchattacks.PGD(robust_net, eps=EPS, steps=4), *(make(robust_net) for make in ATTACKS.values())]
    adv = run(torchattacks.MultiAttack(attacks), images, labels)
    assert ((adv - images).abs() <= EPS + 1e-6).all()
    assert accuracy(robust_net, adv, labels) <= accuracy(robust_net, run(attacks[0], images, labels), labels)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_labels_the_prediction_is_attacked(digits_net, batch, name):
    attack = ATTACKS[name](digits_net)
    wrong = (digits_net(batch[0]).argmax(1) + 1) % 10
    predicted = run(attack, batch[0])
    assert torch.equal(predicted, run(attack, batch[0], digits_net(batch[0]).argmax(1)))
    assert not torch.equal(predicted, run(attack, batch[0], wrong))


def test_label_formats(digits_net, batch):
    x, y = batch
    attack = ATTACKS["MMA"](digits_net)
    expected = run(attack, x, y)
    for labels in (y[:, None], y.int(), nn.functional.one_hot(y, 10), nn.functional.one_hot(y, 10).float()):
        assert torch.equal(run(attack, x, labels), expected)


def test_attributes_can_be_changed_as_in_torchattacks(digits_net, batch):
    attack = MMA(digits_net, eps=EPS, steps=9)
    attack.eps, attack.steps, attack.alpha, attack.targets = 2 * EPS, 3, 0.06, 2
    assert attack.eps == attack.eps_low == 2 * EPS
    expected = run(MMA(digits_net, eps=2 * EPS, alpha=0.06, steps=3, targets=2), *batch)
    assert torch.equal(run(attack, *batch), expected)
    assert ((expected - batch[0]).abs().amax((1, 2, 3)) > 1.5 * EPS).all()
    attack.eps = EPS / 4
    assert ((run(attack, *batch) - batch[0]).abs() <= EPS / 4 + 1e-6).all()

    pixel = PixelMMA(digits_net, eps=EPS, eps_low=EPS / 2, steps=3)
    pixel.eps, pixel.eps_low = 2 * EPS, EPS / 4
    expected = run(PixelMMA(digits_net, eps=2 * EPS, eps_low=EPS / 4, steps=3), *batch)
    assert torch.equal(run(pixel, *batch), expected)
    with pytest.raises(ValueError, match="eps=-1 is not allowed; it must be >= 0"):
        attack.eps = -1
    assert attack.eps == EPS / 4


def test_a_budget_per_pixel_around_mma(digits_net, batch):
    options = {"eps": EPS, "alpha": EPS / 4, "steps": 5}
    expected = run(MMA(digits_net, **options), *batch)
    assert torch.equal(run(PixelAttack(MMA(digits_net, **options), eps_low=EPS), *batch), expected)

    pixel = PixelAttack(MMA(digits_net, **options), eps_low=EPS / 4)
    adv = run(pixel, *batch)
    radii = PixelBudget(EPS, EPS / 4)(digits_net, batch[0])
    assert ((adv - batch[0]).abs() <= radii + 1e-6).all()
    assert ((adv - batch[0]).abs() > EPS / 4 + 1e-3).any()
    natural, reached, full = (margins(digits_net, images, batch[1]) for images in (batch[0], adv, expected))
    assert (reached > natural).all()
    assert natural.mean() < reached.mean() < full.mean()

    pixel.eps, pixel.eps_low = EPS / 2, EPS / 2
    assert torch.equal(run(pixel, *batch), run(MMA(digits_net, **options | {"eps": EPS / 2}), *batch))


def test_a_budget_per_pixel_around_pixel_mma_is_refused(digits_net):
    with pytest.raises(ValueError, match="^attack=PixelMMA has a budget per pixel already$"):
        PixelAttack(PixelMMA(digits_net))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": 0}, ValueError, "targets=0 is not allowed; it must be >= 1"),
        ({"targets": 2.5}, TypeError, "targets=2.5 is a float; an integer is needed"),
        ({"steps": 0}, ValueError, "steps=0 is not allowed; it must be >= 1"),
        ({"alpha": 0}, ValueError, "alpha=0 is not allowed; it must be > 0"),
        ({"eps": -1}, ValueError, "eps=-1 is not allowed; it must be >= 0"),
        ({"eps": float("nan")}, ValueError, "eps=nan is not allowed; it must be >= 0"),
        ({"eps": "8/255"}, TypeError, "eps='8/255' is a str; a number is needed"),
    ],
)
def test_wrong_settings(digits_net, name, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        ATTACKS[name](digits_net, **options)


def test_radii_in_the_wrong_order(digits_net):
    with pytest.raises(ValueError, match="^eps_low=0.027451 is larger than eps=0.0156863; it must be <= eps$"):
        PixelMMA(digits_net, eps=4 / 255, eps_low=7 / 255)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x, y.clamp(10, 10)), ValueError, "^labels contain class 10; allowed is 0 to 9$"),
        (lambda x, y: (x, -1 - y), ValueError, r"^labels contain class -\d+; allowed is 0 and above$"),
        (lambda x, y: (x, y[:-1]), ValueError, r"^labels have shape \(15,\); expected \(16,\)"),
        (lambda x, y: (3 * x - 1, y), ValueError, r"^images span \[-1, 2\]; allowed is \[0, 1\]; call set_norm"),
        (lambda x, y: ((255 * x).byte(), y), TypeError, "^images are torch.uint8"),
        (lambda x, y: (x * torch.nan, y), ValueError, "^images contain NaN"),
    ],
)
def test_wrong_batches(lived_in, batch, name, change, error, message):
    before = snapshot(lived_in)
    with pytest.raises(error, match=message):
        ATTACKS[name](lived_in)(*change(*batch))
    assert_untouched(lived_in, before)


def test_a_model_that_returns_no_logits(batch):
    with pytest.raises(ValueError, match=r"the model's output is \(16, 1, 8, 8\); logits of shape \(16, K\)"):
        MMA(nn.Conv2d(1, 1, 1))(*batch)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_no_trace_on_the_model(lived_in, batch, name, context):
    attack = ATTACKS[name](lived_in)
    before = snapshot(lived_in)
    with context():
        adv = run(attack, batch[0] * 1, batch[1] * 1)
    assert_untouched(lived_in, before)
    assert torch.equal(adv, run(attack, *batch))
    assert (adv != batch[0]).any((1, 2, 3)).all()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 6])
def test_no_trace_after_an_exception_in_the_middle(lived_in, batch, name, calls):
    class Fragile(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.left = net, [None] * calls  # a list is shared with replicas

        def forward(self, x):
            if self.left and not self.left.pop() and not self.left:
                raise ArithmeticError("broken in the middle")
            return self.net(x)

    net = Fragile(lived_in)
    attack = ATTACKS[name](net)
    attack.set_normalization_used(MEAN, STD)
    before = snapshot(net)
    with torch.no_grad(), pytest.raises(ArithmeticError):
        attack((batch[0] - MEAN[0]) / STD[0], batch[1])
    assert_untouched(net, before)
    assert attack._normalization_applied is True
    assert attack((batch[0] - MEAN[0]) / STD[0], batch[1]).isfinite().all()


def test_one_class_is_refused(batch):
    net = SmallNet(num_classes=1).eval()
    with pytest.raises(ValueError, match="^the model has 1 class; a margin is between at least 2$"):
        MMA(net)(batch[0])


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError])
def test_no_memory_at_all_is_an_error(batch, error):
    class Full(nn.Module):
        def forward(self, x):
            raise error(f"no room for {len(x)}")

    with pytest.raises(error, match="no room for 1$"):
        MMA(Full())(*batch)


def test_the_defaults_are_those_of_the_paper(digits_net):
    """PART, Appendix H.4: 20 steps of 2/255 for each of 3 targets, from a random start."""
    for attack in (MMA(digits_net), PixelMMA(digits_net)):
        assert (attack.eps, attack.alpha, attack.steps) == (8 / 255, 2 / 255, 20)
        assert (attack.random_start, attack.targets) == (True, 3)
    assert PixelMMA(digits_net).eps_low == 7 / 255
