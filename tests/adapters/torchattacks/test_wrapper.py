"""`PixelAttack` around the l_inf attacks of torchattacks."""

import pytest
import torch
import torchattacks
from adapters.torchattacks.helpers import EPS, MEAN, STD, Normalised, run
from conftest import SmallNet
from torch import nn

from part_plugin import PixelAttack, PixelBudget

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


def test_what_is_no_attack():
    with pytest.raises(TypeError, match="attack is a str; a torchattacks Attack is needed"):
        PixelAttack("PGD")
