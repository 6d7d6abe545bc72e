"""What the torchattacks classes here share: budgets, settings, a model left as it was found."""

import copy
import pickle
import re

import pytest
import torch
import torchattacks
from adapters.torchattacks.helpers import EPS, MEAN, STD, Normalised, run
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchattacks.attack import Attack

from part_plugin import MMA, FixedBudget, PixelAttack, PixelBudget, PixelMMA, PixelPGD, PixelTPGD

EVERY = {
    "PixelPGD": PixelPGD,
    "PixelTPGD": PixelTPGD,
    "PixelMMA": PixelMMA,
    "PixelAttack": lambda net, eps=8 / 255, **options: PixelAttack(torchattacks.FGSM(net, eps=eps), **options),
}


def test_multi_attack(digits_net, batch):
    pixel = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2, alpha=EPS / 4)
    multi = torchattacks.MultiAttack([pixel, PixelAttack(torchattacks.FGSM(digits_net, eps=EPS))])
    adv = run(multi, *batch)
    assert (digits_net(adv).argmax(1) != batch[1]).sum() >= (digits_net(run(pixel, *batch)).argmax(1) != batch[1]).sum()

    wrapped = PixelAttack(
        torchattacks.AutoAttack(digits_net, eps=EPS, version="standard", n_classes=10, seed=0), eps_low=EPS / 2
    )
    radii = PixelBudget(EPS, EPS / 2)(digits_net, batch[0][:2])
    assert ((run(wrapped, batch[0][:2], batch[1][:2]) - batch[0][:2]).abs() <= radii + 1e-6).all()


def test_multi_attack_normalised(digits_net, batch):
    images = (batch[0] - MEAN[0]) / STD[0]
    net = Normalised(digits_net)
    multi = torchattacks.MultiAttack([PixelPGD(net, eps=EPS, eps_low=EPS / 2), PixelPGD(net, eps=EPS, eps_low=EPS / 4)])
    multi.set_normalization_used(MEAN, STD)
    adv = multi(images, batch[1])
    assert ((adv - images).abs() * STD[0] <= EPS + 1e-6).all()
    assert all(attack._normalization_applied for attack in multi.attacks)


def test_both_normalisation_setups_agree(digits_net, batch):
    images, labels = batch
    inside = run(PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2), images, labels)
    outside = PixelPGD(Normalised(digits_net), eps=EPS, eps_low=EPS / 2)
    outside.set_normalization_used(MEAN, STD)
    adv = run(outside, (images - MEAN[0]) / STD[0], labels) * STD[0] + MEAN[0]
    assert torch.isclose(adv, inside, atol=1e-6).float().mean() > 0.995  # rounding can tip a gradient of zero


def test_save_and_load(digits_net, batch, tmp_path, capsys):
    attack = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2)
    attack.save(DataLoader(TensorDataset(*batch), batch_size=8), str(tmp_path / "adv.pt"), save_predictions=True)
    loaded = next(iter(attack.load(str(tmp_path / "adv.pt"), batch_size=16)))
    assert ((loaded[0] - batch[0]).abs().amax((1, 2, 3)) > EPS / 2).any()
    assert torch.equal(loaded[1], batch[1])
    assert "Robust accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("make", [PixelPGD, PixelTPGD, lambda net: PixelAttack(torchattacks.FGSM(net))])
def test_they_are_torchattacks_attacks(digits_net, batch, make):
    attack = make(digits_net)
    assert isinstance(attack, Attack)
    assert "eps=0.0313725" in repr(attack)
    assert "eps_low=0.0274509" in repr(attack)
    expected = run(attack, *batch)
    for twin in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        assert torch.equal(run(twin, *batch), expected)


def test_attributes_can_be_changed_as_in_torchattacks(digits_net, batch):
    attack = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2)
    attack.eps_low, attack.eps, attack.steps = EPS / 4, EPS / 4, 3
    assert torch.equal(run(attack, *batch), run(torchattacks.PGD(digits_net, eps=EPS / 4, steps=3), *batch))


@pytest.mark.parametrize("name", EVERY)
def test_an_eps_that_is_changed_takes_the_paper_s_ratio_with_it(digits_net, batch, name):
    attack = EVERY[name](digits_net)
    attack.eps = 0.5
    assert (attack.eps, attack.eps_low, attack.budget.eps, attack.budget.eps_low) == (0.5, 0.4375, 0.5, 0.4375)
    assert torch.equal(run(attack, *batch), run(EVERY[name](digits_net, eps=0.5), *batch))
    if name == "PixelAttack":
        assert attack.base_attack.eps == 0.5


@pytest.mark.parametrize("name", EVERY)
def test_an_eps_low_that_was_given_is_kept(digits_net, name):
    attack = EVERY[name](digits_net, eps_low=6 / 255)
    attack.eps = 16 / 255
    assert (attack.eps, attack.eps_low) == (16 / 255, 6 / 255)
    with pytest.raises(ValueError) as caught:
        attack.eps = 4 / 255
    assert str(caught.value) == "eps_low=0.0235294 is larger than eps=0.0156863; it must be <= eps"
    assert (attack.eps, attack.budget.eps, attack.eps_low) == (16 / 255, 16 / 255, 6 / 255)
    with pytest.raises(ValueError) as caught:
        attack.eps_low = 20 / 255
    assert str(caught.value) == "eps_low=0.0784314 is larger than eps=0.0627451; it must be <= eps"
    attack.eps_low = None
    assert attack.eps_low == 14 / 255


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
    attack = EVERY[name](digits_net)
    with pytest.raises(error) as caught:
        attack.eps = value
    assert str(caught.value) == message
    assert (attack.eps, attack.budget.eps) == (8 / 255, 8 / 255)


@pytest.mark.parametrize("name", EVERY)
def test_a_fixed_budget_keeps_its_radii(digits_net, name):
    attack = EVERY[name](digits_net, budget=FixedBudget(4 / 256))
    for setting in ("eps", "eps_low"):
        with pytest.raises(ValueError) as caught:
            setattr(attack, setting, 0.01)
        assert str(caught.value) == (
            f"{setting}=0.01 cannot be set: FixedBudget(eps=0.015625) keeps its radii; make a new attack"
        )
    assert attack.budget.eps == 4 / 256


def test_the_attack_follows_the_weights(digits_net, batch):
    attack = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2)
    first = run(attack, *batch)
    nn.init.normal_(digits_net.head.weight)
    assert not torch.equal(run(attack, *batch), first)


def test_without_labels_the_prediction_is_attacked(digits_net, batch):
    attack = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2)
    assert torch.equal(run(attack, batch[0]), run(attack, batch[0], digits_net(batch[0]).argmax(1)))


def test_the_attack_goes_where_the_model_is(digits_net, batch):
    attack = PixelPGD(digits_net, eps=EPS)
    expected = run(attack, *batch)
    attack.set_device(torch.device("meta"))  # as if the model had been moved since
    assert torch.equal(run(attack, *batch), expected)
    assert attack.device == torch.device("cpu")


def test_an_argument_too_many_is_refused(digits_net, batch):
    attack = PixelPGD(digits_net)
    with pytest.raises(TypeError, match="takes from 2 to 3 positional arguments but 4 were given"):
        attack(*batch, 5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'eps'"):
        attack(*batch, eps=0.1)


@pytest.mark.parametrize("name", EVERY)
def test_options_and_labels_reach_the_budget(digits_net, batch, name):
    """Where a map of the (wrong) class that is passed lets no pixel move, none does."""
    images, labels = batch[0], (batch[1] + 1) % 10
    options = {"cam": "layercam", "target": "true"}
    adv = run(EVERY[name](digits_net, EPS, eps_low=0.0, **options), images, labels)
    radii = PixelBudget(EPS, 0.0, **options)(digits_net, images, labels)
    assert not torch.equal(radii, PixelBudget(EPS, 0.0)(digits_net, images))
    assert (adv == images)[radii == 0].all()
    assert (adv != images).any()


@pytest.mark.parametrize(
    ("make", "name", "modes"),
    [
        (PixelPGD, "PixelPGD", ["default", "targeted"]),
        (PixelTPGD, "PixelTPGD", ["default"]),
        (PixelMMA, "PixelMMA", ["default"]),
    ],
)
def test_names_and_modes(digits_net, make, name, modes):
    attack = make(digits_net)
    assert (attack.attack, attack.supported_mode) == (name, modes)
    assert repr(attack).startswith(f"{name}(")


def test_a_model_may_have_no_parameters(batch):
    class Means(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)

    attack = PixelPGD(Means(), budget=FixedBudget(0.1))
    attack.set_device(torch.device("cpu"))
    assert (attack(batch[0], batch[1] % 2) != batch[0]).any()


ATTACKS = {
    "PixelPGD": lambda net: PixelPGD(net, eps=EPS, eps_low=EPS / 2),
    "PixelTPGD": lambda net: PixelTPGD(net, eps=EPS, eps_low=EPS / 2),
    "PixelAttack": lambda net: PixelAttack(torchattacks.MIFGSM(net, eps=EPS)),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_no_trace_on_the_model(lived_in, batch, name, context):
    attack = ATTACKS[name](lived_in)
    before = snapshot(lived_in)
    with context():
        adv = run(attack, batch[0] * 1, batch[1])
    assert_untouched(lived_in, before)
    assert torch.equal(adv, run(attack, *batch))


def test_no_trace_after_saving(lived_in, batch, tmp_path, capsys):
    attack = PixelPGD(lived_in, eps=EPS, eps_low=EPS / 2, steps=2)
    attack.set_mode_targeted_least_likely(quiet=True)
    before = snapshot(lived_in)
    capsys.readouterr()
    attack.save(DataLoader(TensorDataset(*batch), batch_size=8), str(tmp_path / "adv.pt"), verbose=False)
    assert capsys.readouterr().out == ""
    assert_untouched(lived_in, before)


def test_a_compiled_model(digits_net, batch):
    expected = run(PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2), *batch)
    compiled = torch.compile(digits_net, backend="eager")
    assert torch.equal(run(PixelPGD(compiled, eps=EPS, eps_low=EPS / 2), *batch), expected)


class Fragile(SmallNet):
    """Breaks at a forward pass of choice, with its mode changed and gradients on."""

    countdown = 10**9

    def forward(self, x):
        self.countdown -= 1
        if self.countdown == 0:
            raise ArithmeticError("broken in the middle")
        return super().forward(x)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("calls", range(1, 7))
def test_no_trace_after_an_exception_in_the_middle(batch, name, calls):
    torch.manual_seed(0)
    net = Fragile()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    net(batch[0]).sum().backward()
    attack = ATTACKS[name](net)
    attack.set_normalization_used(MEAN, STD)
    before = snapshot(net)
    net.countdown = calls
    with torch.no_grad(), pytest.raises(ArithmeticError):
        attack((batch[0] - MEAN[0]) / STD[0], batch[1])
    assert_untouched(net, before)
    assert attack._normalization_applied is True
    assert all(nested._normalization_applied is True for nested in attack._attacks.values())


def test_model_training_mode_is_honoured(lived_in, batch):
    """The map is made in eval mode all the same; dropout runs in the attack, and the modes come back."""
    attack = PixelPGD(lived_in, eps=EPS, eps_low=EPS / 2, random_start=False, steps=2)
    calm = attack(*batch)
    attack.set_model_training_mode(model_training=True, dropout_training=True)
    before = snapshot(lived_in)
    noisy = [run(attack, *batch, seed=seed) for seed in range(2)]
    assert_untouched(lived_in, before)
    assert not torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], calm)


@settings(max_examples=750)
@given(
    st.sampled_from(["PixelPGD", "PixelTPGD", "PixelAttack"]),
    st.integers(1, 3),
    st.integers(3, 9),
    st.integers(3, 9),
    st.floats(0, 0.6),
    st.floats(0, 1),
    st.sampled_from(["map", "random", "quadrant"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["gradcam", "xgradcam", "layercam"]),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_no_pixel_leaves_its_budget(name, channels, height, width, eps, ratio, kind, dtype, cam, normalised, seed):
    torch.manual_seed(seed)
    net = SmallNet(channels, num_classes=4, width=2).to(dtype).eval()
    images = torch.rand(3, channels, height, width, dtype=dtype)
    images[0] = images[0].round()  # pixels at both ends of the range
    labels = torch.randint(4, (3,))
    eps_low = eps * ratio
    budget = {
        "map": lambda: PixelBudget(eps, eps_low, cam=cam),
        "random": lambda: FixedBudget(eps * torch.rand(3, 1, height, width)),
        "quadrant": lambda: FixedBudget.quadrant("top-right", eps, eps_low, (height, width)),
    }[kind]()
    attack = {
        "PixelPGD": lambda: PixelPGD(net, budget=budget, alpha=max(eps / 3, 1e-3), steps=3),
        "PixelTPGD": lambda: PixelTPGD(net, budget=budget, alpha=max(eps / 3, 1e-3), steps=3),
        "PixelAttack": lambda: PixelAttack(
            torchattacks.PGD(net, eps=budget.eps, alpha=max(eps / 3, 1e-3), steps=3), budget=budget
        ),
    }[name]()
    radii = budget(net, images)
    tolerance = 2 * torch.finfo(dtype).eps
    given_images = images
    if normalised:
        mean, std = [0.4] * channels, [0.5] * channels
        attack.set_normalization_used(mean, std)
        attack.model.features[0].weight.data *= 0.5
        given_images, tolerance = (images - 0.4) / 0.5, 1e-6
        radii = budget(net, given_images)
    adv = attack(given_images, labels)
    if normalised:
        adv = adv * 0.5 + 0.4
    assert ((adv - images).abs() <= radii + tolerance).all()
    assert adv.min() >= -tolerance
    assert adv.max() <= 1 + tolerance


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: (3 * x - 1, y),
            ValueError,
            "images span [-1, 2]; allowed is [0, 1]; "
            "call set_normalization_used(mean, std) or move the normalisation into the model",
        ),
        (
            lambda x, y: ((x * 255).long(), y),
            TypeError,
            "images are torch.int64; a floating-point tensor is needed (uint8 / 255 for pictures)",
        ),
        (lambda x, y: (x * torch.nan, y), ValueError, "images contain NaN or infinite values; they must be finite"),
        (
            lambda x, y: (x[0], y),
            ValueError,
            "images have shape (1, 8, 8); (N, C, H, W) with N >= 1 is needed: images[None] for one image, "
            "images[:, None] for grey ones",
        ),
        (
            lambda x, y: (x.numpy(), y),
            TypeError,
            "images are a ndarray; a floating-point tensor is needed (torch.from_numpy(x).float() makes one)",
        ),
        (lambda x, y: (x, y[:-1]), ValueError, "labels have shape (15,); expected (16,), (16, 1) or (16, K)"),
        (lambda x, y: (x, y + 0.5), ValueError, "labels are not whole numbers; class indices are needed"),
    ],
)
def test_wrong_batches(digits_net, batch, name, change, error, message):
    with pytest.raises(error) as caught:
        ATTACKS[name](digits_net)(*change(*batch))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (0.5, 0.5, "mean=0.5 and std=0.5 are not allowed; one number per channel is needed"),
        ("x", [0.5], "mean='x' and std=[0.5] are not allowed; one number per channel is needed"),
        ([0.5], [0.5, 0.5], "mean=[0.5] and std=[0.5, 0.5] are not allowed; one number per channel is needed"),
        ([0.5], [0.0], "mean=[0.5] and std=[0.0] are not allowed; std must be > 0, both finite"),
        ([0.5], [-1.0], "mean=[0.5] and std=[-1.0] are not allowed; std must be > 0, both finite"),
        ([torch.nan], [1.0], "mean=[nan] and std=[1.0] are not allowed; std must be > 0, both finite"),
        ([0.5], [torch.inf], "mean=[0.5] and std=[inf] are not allowed; std must be > 0, both finite"),
    ],
)
def test_wrong_normalisations(digits_net, batch, name, mean, std, message):
    attack = EVERY[name](digits_net)
    before = run(attack, *batch)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        attack.set_normalization_used(mean, std)
    assert torch.equal(run(attack, *batch), before)


def test_a_normalisation_of_other_channels(digits_net, batch):
    attack = PixelPGD(digits_net)
    attack.set_normalization_used([0.3, 0.3, 0.3], [0.4, 0.4, 0.4])
    with pytest.raises(ValueError, match="^images have 1 channels; set_normalization_used was given 3 means$"):
        attack(*batch)
    net = SmallNet(3).eval()
    one, three = PixelPGD(net), PixelPGD(net)
    one.set_normalization_used([0.3], [0.4])
    three.set_normalization_used([0.3] * 3, [0.4] * 3)
    images = ((batch[0] - 0.3) / 0.4).expand(-1, 3, -1, -1)
    assert torch.equal(run(one, images, batch[1]), run(three, images, batch[1]))


def test_images_that_are_not_normalised_although_that_was_said(digits_net, batch, caplog):
    attack = PixelPGD(digits_net, eps_low=8 / 255)
    attack.set_normalization_used([0.1], [0.5])
    for _ in range(2):
        attack(*batch)
    (record,) = caplog.records
    assert record.getMessage() == (
        "PixelPGD: all images are inside [0, 1], and set_normalization_used is for images that are normalised already; "
        "for others the model must normalise them"
    )
    caplog.clear()
    other = PixelPGD(digits_net, eps_low=8 / 255)
    other.set_normalization_used([0.1], [0.5])
    other((batch[0] - 0.1) / 0.5, batch[1])
    attack(*batch)
    assert caplog.records == []


@pytest.mark.parametrize("name", ["PixelPGD", "PixelAttack"])
def test_targets_that_are_missing(digits_net, batch, name):
    attack = EVERY[name](digits_net)
    attack.set_mode_targeted_by_label(quiet=True)
    message = "labels=None does not go with set_mode_targeted_by_label; pass the target classes"
    with pytest.raises(ValueError, match=f"^{message}$"):
        attack(batch[0])
    attack.set_mode_default()
    attack(batch[0])


def test_attacks_without_a_targeted_mode_say_why(digits_net):
    for attack, why in (
        (PixelTPGD(digits_net), "PixelTPGD has no targeted mode: it leaves the natural output, whatever class that is"),
        (
            PixelAttack(torchattacks.TPGD(digits_net)),
            "PixelAttack[TPGD] has no targeted mode: TPGD has none",
        ),
    ):
        for mode in (attack.set_mode_targeted_random, attack.set_mode_targeted_by_label):
            with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
                mode(quiet=True)
        assert not attack.targeted


def test_a_target_function_of_another_shape(digits_net, batch):
    attack = PixelPGD(digits_net)
    attack.set_mode_targeted_by_function(lambda images, labels: labels[:3], quiet=True)
    with pytest.raises(ValueError, match=r"^labels have shape \(3,\); expected \(16,\), \(16, 1\) or \(16, K\)$"):
        attack(*batch)


@pytest.mark.parametrize("make", [PixelPGD, PixelMMA, MMA])
def test_a_radius_where_the_host_has_random_start(digits_net, make):
    with pytest.raises(TypeError, match=r"^random_start=0.03 is a float; True or False is needed$"):
        make(digits_net, 8 / 255, 2 / 255, 10, 0.03)


IMPORTANT = {
    "PixelPGD": lambda model, **given: PixelPGD(model, eps=EPS, alpha=EPS / 4, **given),
    "PixelTPGD": lambda model, **given: PixelTPGD(model, eps=EPS, alpha=EPS / 4, **given),
    "PixelMMA": lambda model, **given: PixelMMA(model, eps=EPS, alpha=EPS / 4, **given),
    "PixelAttack": lambda model, **given: PixelAttack(torchattacks.MIFGSM(model, eps=EPS), **given),
}


@pytest.mark.parametrize("name", IMPORTANT)
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_weights_of_ones_own_take_the_place_of_a_map(digits_net, batch, name, dtype):
    """Which give what a fixed budget of the same radii does, and no map is made."""
    weights = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = weights > 0.5 if dtype == torch.bool else weights
    attack = IMPORTANT[name](digits_net, eps_low=EPS / 4)
    radii = torch.lerp(torch.tensor(EPS / 4), torch.tensor(EPS), weights.float())
    fixed = IMPORTANT[name](digits_net, budget=FixedBudget(radii.double().clamp(EPS / 4, EPS)))
    adv = run(lambda x, y: attack(x, y, important=weights), *batch)
    torch.testing.assert_close(adv, run(fixed, *batch), atol=1e-6, rtol=0)
    assert not torch.equal(adv, run(attack, *batch))
    assert attack.budget.images == 16  # of the line before
    with pytest.raises(ValueError, match=r"^important is torch.bool \(16, 8, 8\); \(16, 1, 8, 8\), bool or in"):
        attack(*batch, important=torch.ones(16, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^important does not go with FixedBudget"):
        fixed(*batch, important=weights)
