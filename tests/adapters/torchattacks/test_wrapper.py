"""`PixelAttack` around the l_inf attacks of torchattacks."""

import re

import pytest
import torch
import torchattacks
from adapters.torchattacks.helpers import EPS, MEAN, STD, Normalised, run
from conftest import SmallNet
from torch import nn

from part_plugin import FixedBudget, PixelAttack, PixelBudget, PixelPGD

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
    pixel.eps_low = EPS / 2  # first: an eps below a given eps_low is refused
    pixel.eps = EPS / 2
    expected = torchattacks.BIM(digits_net, eps=EPS / 2, alpha=EPS / 8)(images, labels)
    assert torch.equal(pixel(images, labels), expected)


LINF = (
    "APGD", "APGDT", "BIM", "DIFGSM", "EOTPGD", "FAB", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS",
    "RFGSM", "SINIFGSM", "SPSA", "Square", "TIFGSM", "TPGD", "UPGD", "VMIFGSM", "VNIFGSM", "PIFGSM", "PIFGSMPP",
)  # fmt: skip
OTHERS = (  # of another norm, or without a radius
    "VANILA", "GN", "CW", "PGDL2", "PGDRSL2", "DeepFool", "EADEN", "EADL1", "SparseFool", "OnePixel", "Pixle", "JSMA",
)  # fmt: skip


def test_no_attack_of_torchattacks_is_forgotten():
    tried = {*LINF, *OTHERS, "AutoAttack", "MultiAttack", "LGV"}
    assert set(torchattacks.__all__) <= tried


@pytest.mark.parametrize("name", LINF)
def test_every_linf_attack_of_torchattacks_keeps_the_budget(batch, name):
    torch.manual_seed(0)
    net = SmallNet(3).eval()
    images = batch[0][:4].expand(-1, 3, -1, -1) * 0.9
    labels = net(images).argmax(1)  # Square leaves alone what is misclassified already
    fewer = {"Square": {"n_queries": 20}, "SPSA": {"max_batch_size": 8, "nb_iter": 1, "nb_sample": 8}}.get(name, {})
    base = getattr(torchattacks, name)(net, **{"max_epsilon" if "PIF" in name else "eps": EPS}, **fewer)
    adv = run(PixelAttack(base, eps_low=EPS / 4), images, labels)
    radii = PixelBudget(EPS, EPS / 4)(net, images)
    assert ((adv - images).abs() <= radii + 1e-6).all()
    assert (adv != images).any() or name == "FAB"  # which looks further away than eps first


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_attack_of_torchattacks_is_refused(name):
    message = (
        f"attack={name} cannot be given a budget per pixel; an l_inf attack with a number eps is needed "
        "(PART, Appendix A)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PixelAttack(getattr(torchattacks, name)(SmallNet(3)))


@pytest.mark.parametrize("name", ["PIFGSM", "PIFGSMPP"])
def test_a_radius_of_another_name(batch, name):
    torch.manual_seed(0)
    net = SmallNet(3).eval()
    images, labels = batch[0].expand(-1, 3, -1, -1), batch[1]
    base = getattr(torchattacks, name)(net, max_epsilon=EPS)
    expected = base(images, labels)
    pixel = PixelAttack(base)
    assert (pixel.eps, pixel.eps_low) == (EPS, EPS * 7 / 8)
    pixel.eps_low = EPS
    assert torch.equal(pixel(images, labels), expected)
    pixel.eps_low = None
    pixel.eps = 0.1
    assert (base.max_epsilon, pixel.eps, pixel.eps_low) == (0.1, 0.1, 0.1 * 7 / 8)
    adv = pixel(images, labels)
    assert 0.0999 < (adv - images).abs().max() < 0.1001
    assert getattr(base, "eps", None) is None


def test_a_radius_is_that_of_every_attack_inside(digits_net, batch):
    """AutoAttack gives it to its attacks when it is made."""
    pixel = PixelAttack(torchattacks.AutoAttack(digits_net, eps=0.01, version="rand", seed=0), eps_low=0.01)
    pixel.eps_low = None
    pixel.eps = EPS
    wanted = PixelAttack(torchattacks.AutoAttack(digits_net, eps=EPS, version="rand", seed=0))
    adv = run(pixel, *batch)
    assert torch.equal(adv, run(wanted, *batch))
    assert (adv - batch[0]).abs().max() > 0.1


def test_several_attacks(digits_net, batch):
    """MultiAttack runs on what the attacks before left over; LGV makes its attack itself, on networks of its own."""
    weak, strong = PixelAttack(torchattacks.FGSM(digits_net, eps=0.02)), PixelPGD(digits_net, eps=EPS)
    adv = run(torchattacks.MultiAttack([weak, strong]), *batch)
    radii = PixelBudget(EPS)(digits_net, batch[0])
    assert ((adv - batch[0]).abs() <= radii + 1e-6).all()
    with torch.no_grad():
        fooled = digits_net(adv).argmax(1) != batch[1]
    assert fooled.sum() > 3
    lgv = torchattacks.LGV(
        digits_net, [batch] * 2, lr=1e-3, epochs=1, nb_models_epoch=2, verbose=False,
        attack_class=PixelPGD, n_grad=-1, eps=EPS, alpha=EPS / 4,
    )  # fmt: skip
    adv = run(lgv, *batch)
    assert (adv - batch[0]).abs().max() == pytest.approx(EPS, rel=1e-5)
    assert lgv.base_attack.budget.images == 16


@pytest.mark.parametrize("name", ["PIFGSM", "PIFGSMPP", "TIFGSM"])
def test_attacks_for_three_channels_alone(digits_net, batch, name):
    with pytest.raises(ValueError, match=f"^images have 1 channels; {name} takes 3 alone$"):
        PixelAttack(getattr(torchattacks, name)(digits_net))(*batch)


def test_labels_that_the_network_does_not_have(digits_net, batch):
    attack = PixelAttack(torchattacks.BIM(digits_net, eps=EPS))
    with pytest.raises(ValueError, match="^labels contain class 10; allowed is 0 to 9$"):
        attack(batch[0], torch.full((16,), 10))


G_OF_Z = {
    "FGSM": lambda net: torchattacks.FGSM(net, eps=0.25),
    "BIM": lambda net: torchattacks.BIM(net, eps=0.25, alpha=0.0625, steps=6),
    "MIFGSM": lambda net: torchattacks.MIFGSM(net, eps=0.25, alpha=0.0625, steps=6),
}


@pytest.mark.parametrize("name", G_OF_Z)
@pytest.mark.parametrize("normalised", [False, True])
def test_the_change_of_variable_equals_one_by_hand(digits_net, batch, name, normalised):
    """The attack on g(z) = f(x + m * (z - x)), written out; every number is a fraction of 2, so to the bit."""
    images, labels = batch
    mean, std = ([0.25], [0.5]) if normalised else ([0.0], [1.0])
    torch.manual_seed(0)
    radii = 0.25 * torch.randint(5, (16, 1, 8, 8)) / 4

    class G(nn.Module):
        def forward(self, z):
            return digits_net((images + radii / 0.25 * (z - images) - mean[0]) / std[0])

    z = G_OF_Z[name](G())(images, labels)
    expected = images + radii / 0.25 * (z - images)
    attack = PixelAttack(G_OF_Z[name](digits_net), budget=FixedBudget(radii))
    if normalised:
        attack.set_normalization_used(mean, std)
    adv = attack((images - mean[0]) / std[0], labels)
    assert (expected != images).any()
    assert torch.equal(adv * std[0] + mean[0], expected)


@pytest.mark.parametrize("name", ["APGD", "Square"])  # which send the rows that they have not fooled yet
def test_radii_of_a_single_image_are_those_of_every_image(digits_net, batch, name):
    radii = EPS * torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    assert float(radii.max()) > EPS  # by a rounding, which is forgiven
    single, each = (
        run(PixelAttack(WRAPPED[name](digits_net), budget=FixedBudget(given)), *batch)
        for given in (radii, radii.expand(16, 1, 8, 8))
    )
    assert (single != batch[0]).any()
    assert torch.equal(single, each)


def test_settings_of_the_wrapped_attack(digits_net):
    base = torchattacks.FGSM(digits_net, eps=EPS)
    base.set_normalization_used(MEAN, STD)
    base.set_mode_targeted_least_likely(quiet=True)
    base.set_model_training_mode(model_training=True, batchnorm_training=True, dropout_training=True)
    pixel = PixelAttack(base)
    assert pixel.attack == "PixelAttack[FGSM]"
    assert pixel.model is digits_net
    for name in (
        "device", "attack_mode", "supported_mode", "targeted", "_target_map_function", "normalization_used",
        "_normalization_applied", "_model_training", "_batchnorm_training", "_dropout_training",
    ):  # fmt: skip
        assert getattr(pixel, name) is getattr(base, name), name


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda net: PixelAttack("PGD"), TypeError, "attack is a str; a torchattacks Attack is needed"),
        (
            lambda net: PixelAttack(torchattacks.PGD),
            TypeError,
            "attack is the class PGD; an attack is needed: PGD(model)",
        ),
        (
            lambda net: PixelAttack(torchattacks.MultiAttack([torchattacks.FGSM(net), torchattacks.PGD(net)])),
            ValueError,
            "attack=MultiAttack has no radius; wrap its attacks: MultiAttack([PixelAttack(attack), ...])",
        ),
        (
            lambda net: PixelAttack(torchattacks.LGV(net, [])),
            ValueError,
            "attack=LGV makes its attack later: LGV(..., attack_class=PixelPGD, n_grad=-1) has a budget per pixel",
        ),
        *(
            (
                lambda net, make=make: PixelAttack(make(net)),
                ValueError,
                f"attack={name} cannot be given a budget per pixel; "
                "an l_inf attack with a number eps is needed (PART, Appendix A)",
            )
            for name, make in {
                "PGDL2": torchattacks.PGDL2,
                "CW": torchattacks.CW,
                "APGD": lambda net: torchattacks.APGD(net, norm="L2"),
                "DeepFool": torchattacks.DeepFool,
                "FGSM": lambda net: torchattacks.FGSM(net, eps=torch.full((1, 8, 8), 0.1)),
            }.items()
        ),
        (
            lambda net: PixelAttack(PixelPGD(net)),
            ValueError,
            "attack=PixelPGD has a budget per pixel already",
        ),
        (
            lambda net: PixelAttack(torchattacks.FGSM(net, eps=8)),
            ValueError,
            "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
        ),
        (
            lambda net: PixelAttack(torchattacks.FGSM(net, eps=0.1), eps_low=0.2),
            ValueError,
            "eps_low=0.2 is larger than eps=0.1; it must be <= eps",
        ),
        (
            lambda net: PixelAttack(torchattacks.FGSM(net, eps=0.1), budget=FixedBudget(0.15)),
            ValueError,
            "budget reaches 0.15, further than eps=0.1 of FGSM",
        ),
    ],
)
def test_wrong_settings(digits_net, make, error, message):
    with pytest.raises(error) as caught:
        make(digits_net)
    assert str(caught.value) == message


def test_an_attack_that_changes_the_size_is_refused(digits_net, batch):
    class Larger(torchattacks.FGSM):
        def forward(self, images, labels):
            return super().forward(nn.functional.interpolate(images, size=(9, 9)), labels)

    message = (
        "the attack sends inputs of shape (16, 1, 9, 9) for images of shape (16, 1, 8, 8); "
        "an attack that changes the image size cannot be given a budget per pixel"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        PixelAttack(Larger(digits_net, eps=EPS))(*batch)
