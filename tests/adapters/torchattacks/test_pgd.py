import copy
import pickle

import pytest
import torch
import torchattacks
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchattacks.attack import Attack

from part_plugin import FixedBudget, PixelAttack, PixelBudget, PixelPGD, PixelTPGD

EPS = 0.2
MEAN, STD = [0.3], [0.4]
MODES = {
    "default": lambda attack: None,
    "function": lambda attack: attack.set_mode_targeted_by_function(lambda x, y: (y + 1) % 10, quiet=True),
    "random": lambda attack: attack.set_mode_targeted_random(quiet=True),
    "least_likely": lambda attack: attack.set_mode_targeted_least_likely(quiet=True),
    "label": lambda attack: attack.set_mode_targeted_by_label(quiet=True),
}


class Normalised(nn.Module):
    """A network trained on normalised images, as torchattacks' users have them."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x * STD[0] + MEAN[0])


def run(attack, *inputs, seed=0):
    torch.manual_seed(seed)
    return attack(*inputs)


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


WRAPPED = {
    "FGSM": lambda net: torchattacks.FGSM(net, eps=EPS),
    "BIM": lambda net: torchattacks.BIM(net, eps=EPS, alpha=EPS / 4),
    "MIFGSM": lambda net: torchattacks.MIFGSM(net, eps=EPS, alpha=EPS / 4),
    "PGD": lambda net: torchattacks.PGD(net, eps=EPS, alpha=EPS / 4),
    "APGD": lambda net: torchattacks.APGD(net, eps=EPS, steps=10),
    "VMIFGSM": lambda net: torchattacks.VMIFGSM(net, eps=EPS, alpha=EPS / 4, steps=4),
    "Square": lambda net: torchattacks.Square(net, eps=EPS, n_queries=50),
    "AutoAttack": lambda net: torchattacks.AutoAttack(net, eps=EPS, version="rand", seed=0),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("normalised", [False, True])
def test_wrapped_attacks(digits_net, batch, name, normalised):
    """With equal radii nothing changes, to the bit; with others the budget holds and the attack still works."""
    images, labels = batch
    net = Normalised(digits_net) if normalised else digits_net
    given = (images - MEAN[0]) / STD[0] if normalised else images
    plain = WRAPPED[name](net)
    if normalised:
        plain.set_normalization_used(MEAN, STD)
    expected = run(plain, given, labels)
    same = PixelAttack(WRAPPED[name](net) if not normalised else plain, eps_low=EPS)
    unchanged = run(same, given, labels)
    assert torch.equal(unchanged, expected)
    assert not unchanged.requires_grad

    pixel = PixelAttack(WRAPPED[name](net), eps_low=EPS / 4)
    if normalised:
        pixel.set_normalization_used(MEAN, STD)  # also reaches the wrapped attack
    adv = run(pixel, given, labels)
    radii = PixelBudget(EPS, EPS / 4)(digits_net, images)
    shift = (adv - given).abs() * (STD[0] if normalised else 1)
    assert (shift <= radii + 1e-6).all()
    assert (shift > EPS / 4 + 1e-3).any()
    before, after, full = (nn.functional.cross_entropy(net(x), labels) for x in (given, adv, expected))
    assert before < after < full


def test_wrapped_attacks_take_over_mode_and_settings(digits_net, batch):
    images, labels = batch
    base = torchattacks.BIM(digits_net, eps=EPS, alpha=EPS / 8)
    base.set_mode_targeted_by_function(lambda x, y: (y + 1) % 10, quiet=True)
    pixel = PixelAttack(base, eps_low=EPS)
    assert torch.equal(pixel(images, labels), base(images, labels))
    pixel.set_mode_default()
    assert torch.equal(pixel(images, labels), torchattacks.BIM(digits_net, eps=EPS, alpha=EPS / 8)(images, labels))
    pixel.eps = EPS / 2
    pixel.eps_low = EPS / 2
    expected = torchattacks.BIM(digits_net, eps=EPS / 2, alpha=EPS / 8)(images, labels)
    assert torch.equal(pixel(images, labels), expected)


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
    attack.eps, attack.eps_low, attack.steps = EPS / 4, EPS / 4, 3
    assert torch.equal(run(attack, *batch), run(torchattacks.PGD(digits_net, eps=EPS / 4, steps=3), *batch))


def test_the_attack_follows_the_weights(digits_net, batch):
    attack = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2)
    first = run(attack, *batch)
    nn.init.normal_(digits_net.head.weight)
    assert not torch.equal(run(attack, *batch), first)


def test_without_labels_the_prediction_is_attacked(digits_net, batch):
    attack = PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2)
    assert torch.equal(run(attack, batch[0]), run(attack, batch[0], digits_net(batch[0]).argmax(1)))


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


def test_no_trace_after_saving(lived_in, batch, tmp_path):
    attack = PixelPGD(lived_in, eps=EPS, eps_low=EPS / 2, steps=2)
    attack.set_mode_targeted_least_likely(quiet=True)
    before = snapshot(lived_in)
    attack.save(DataLoader(TensorDataset(*batch), batch_size=8), str(tmp_path / "adv.pt"), verbose=False)
    assert_untouched(lived_in, before)


def test_a_compiled_model(digits_net, batch):
    expected = run(PixelPGD(digits_net, eps=EPS, eps_low=EPS / 2), *batch)
    compiled = torch.compile(digits_net, backend="eager")
    assert torch.equal(run(PixelPGD(compiled, eps=EPS, eps_low=EPS / 2), *batch), expected)


LINF = (
    "APGD", "APGDT", "BIM", "DIFGSM", "EOTPGD", "FAB", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS",
    "RFGSM", "SINIFGSM", "SPSA", "Square", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM",
)  # fmt: skip


@pytest.mark.parametrize("name", LINF)
def test_every_linf_attack_of_torchattacks_keeps_the_budget(batch, name):
    torch.manual_seed(0)
    net = SmallNet(3).eval()
    images = batch[0][:4].expand(-1, 3, -1, -1) * 0.9
    labels = net(images).argmax(1)  # Square leaves alone what is misclassified already
    fewer = {"Square": {"n_queries": 20}, "SPSA": {"max_batch_size": 8, "nb_iter": 1, "nb_sample": 8}}.get(name, {})
    base = getattr(torchattacks, name)(net, eps=EPS, **fewer)
    adv = run(PixelAttack(base, eps_low=EPS / 4), images, labels)
    radii = PixelBudget(EPS, EPS / 4)(net, images)
    assert ((adv - images).abs() <= radii + 1e-6).all()
    assert (adv != images).any() or name == "FAB"  # which looks further away than eps first


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
        "map": lambda: PixelBudget(eps, eps_low, cam),
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda net: PixelPGD(net, steps=0), "steps=0 is not allowed; it must be >= 1"),
        (lambda net: PixelPGD(net, alpha=-1), "alpha=-1 is not allowed; it must be > 0"),
        (lambda net: PixelPGD(net, eps=4 / 255), "eps_low=0.027451 is larger than eps=0.0156863"),
        (lambda net: PixelTPGD(net, steps=0), "steps=0 is not allowed; it must be >= 1"),
        (lambda net: PixelAttack(torchattacks.PGDL2(net)), "attack=PGDL2 cannot be given a budget per pixel"),
        (lambda net: PixelAttack(torchattacks.CW(net)), "attack=CW cannot be given .*PART, Appendix A"),
        (lambda net: PixelAttack(torchattacks.APGD(net, norm="L2")), "attack=APGD cannot be given"),
        (lambda net: PixelAttack(torchattacks.DeepFool(net)), "attack=DeepFool cannot be given"),
        (lambda net: PixelAttack(PixelPGD(net)), "attack=PixelPGD has a budget per pixel already"),
        (
            lambda net: PixelAttack(torchattacks.FGSM(net), budget=FixedBudget(0.5)),
            "budget reaches 0.5, further than eps=0.0313725 of FGSM",
        ),
    ],
)
def test_wrong_settings(digits_net, make, message):
    with pytest.raises(ValueError, match=message):
        make(digits_net)


def test_what_is_no_attack():
    with pytest.raises(TypeError, match="attack is a str; a torchattacks Attack is needed"):
        PixelAttack("PGD")


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda x, y: (3 * x - 1, y),
            ValueError,
            r"images span \[-1, 2\]; allowed is \[0, 1\]; call set_normalization",
        ),
        (lambda x, y: ((x * 255).long(), y), TypeError, "images are torch.int64"),
        (lambda x, y: (x, y[:-1]), ValueError, r"labels have shape \(15,\); expected \(16,\)"),
    ],
)
def test_wrong_batches(digits_net, batch, name, change, error, message):
    with pytest.raises(error, match=message):
        ATTACKS[name](digits_net)(*change(*batch))


def test_labels_out_of_range(digits_net, batch):
    with pytest.raises(ValueError, match="labels contain class 10; allowed is 0 to 9"):
        PixelPGD(digits_net)(batch[0], torch.full((16,), 10))
