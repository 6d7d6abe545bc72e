"""Rows of every attack of torchattacks, and of the attacks here that are torchattacks' own by another name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchattacks
from common import EPS, EPS_LOW, batch, check_equal, check_within, network, seeded, untouched
from rows import Row
from torch import Tensor, nn

from part_plugin import MMA, PixelAttack, PixelBudget, PixelMMA, PixelPGD, PixelTPGD

Settings = dict[str, Any]
Make = Callable[[nn.Module, float], Any]
"""Model and eps_low -> an attack with a budget per pixel."""

_PATIENT = {"steps": 4}
SETTINGS: dict[str, Settings] = {
    **dict.fromkeys(("BIM", "PGD", "MIFGSM", "DIFGSM", "TIFGSM", "NIFGSM"), {"alpha": EPS / 4, **_PATIENT}),
    **dict.fromkeys(("VMIFGSM", "VNIFGSM", "SINIFGSM", "Jitter", "UPGD", "RFGSM"), {"alpha": EPS / 4, **_PATIENT}),
    **dict.fromkeys(("EOTPGD", "PGDRS", "TPGD"), {"alpha": EPS / 4, **_PATIENT}),
    **dict.fromkeys(("PIFGSM", "PIFGSMPP"), {"num_iter_set": 4}),
    **dict.fromkeys(("APGD", "APGDT", "FAB"), {"steps": 10}),
    "FFGSM": {"alpha": EPS},
    "Square": {"n_queries": 100},
    "SPSA": {"nb_sample": 32, "max_batch_size": 32, "nb_iter": 4, "lr": EPS / 2},
    "AutoAttack": {"version": "rand", "seed": 0},
}
"""What makes an attack of radius EPS short."""
NORMS = {"APGD": ("L2",), "APGDT": ("L2",), "FAB": ("L2", "L1"), "Square": ("L2",), "AutoAttack": ("L2",)}
OURS = {
    "PixelPGD": (PixelPGD, torchattacks.PGD, {"alpha": EPS / 4, "steps": 4}),
    "PixelTPGD": (PixelTPGD, torchattacks.TPGD, {"alpha": EPS / 4, "steps": 4}),
    "PixelMMA": (PixelMMA, MMA, {"alpha": EPS / 4, "steps": 4}),
}


def rows() -> list[Row]:
    """Return the rows, those of torchattacks in the order of the alphabet."""
    several = ("LGV", "MultiAttack")
    found = [
        Row(f"torchattacks {name}", partial(wrapped, name)) for name in torchattacks.__all__ if name not in several
    ]
    found += [
        Row(f"torchattacks {name}, norm={norm!r}", partial(wrapped, name, norm=norm))
        for name, norms in NORMS.items()
        for norm in norms
    ]
    found += [
        Row("torchattacks LGV", lgv, "LGV(..., attack_class=PixelPGD, n_grad=-1)"),
        Row("torchattacks MultiAttack", multi_attack, "MultiAttack([PixelAttack(attack), ...])"),
        Row("MMA in PixelAttack", partial(wrapped, "MMA", host=MMA, alpha=EPS / 4, steps=4)),
    ]
    found += [Row(name, partial(ours, name)) for name in OURS]
    return sorted(found)


def wrapped(name: str, host: Any = None, **settings: Any) -> str:
    """Check `PixelAttack` around an attack, and return how equal it is to the attack at equal radii.

    Args:
        name: of the attack.
        host: its class. (Default: that of torchattacks)
        **settings: of the attack, besides those in SETTINGS.
    """
    host = host or getattr(torchattacks, name)
    settings = SETTINGS.get(name, {}) | settings
    taken = inspect.signature(host).parameters
    settings |= {radius: EPS for radius in ("eps", "max_epsilon") if radius in taken}

    def plain(model: nn.Module) -> Any:
        return host(model, **settings)

    return check(plain, lambda model, eps_low: named(name, lambda: PixelAttack(plain(model), eps_low=eps_low)))


def ours(name: str) -> str:
    """Check one of our attacks against the host's.

    Args:
        name: of the attack.
    """
    made, host, settings = OURS[name]
    return check(
        lambda model: host(model, eps=EPS, **settings),
        lambda model, eps_low: made(model, eps=EPS, eps_low=eps_low, **settings),
    )


def check(plain: Callable[[nn.Module], Any], pixel: Make) -> str:
    """Check an attack with a budget per pixel against the plain one, and return how equal they are at equal radii.

    Args:
        plain: makes the host's attack.
        pixel: makes that with a budget per pixel.
    """
    model = network()
    images, labels = batch()
    attack, same = pixel(model, EPS_LOW), pixel(model, EPS)
    expected = seeded(lambda: plain(network())(images, labels))
    with untouched(model):
        adv, unchanged = (seeded(partial(each, images, labels)) for each in (attack, same))
    radii = PixelBudget(EPS, EPS_LOW)(model, images)
    check_moved(images, adv, radii)
    return check_equal(unchanged, expected)


def check_moved(images: Tensor, adv: Tensor, radii: Tensor) -> None:
    """Assert that adversarial images are in their budget, one of two radii, and make use of both.

    Args:
        images: (N, C, H, W).
        adv: the same shape.
        radii: (N, 1, H, W).
    """
    check_within(images, adv, radii)
    moved = (adv - images).abs().amax(1, keepdim=True)
    for radius in radii.unique().tolist():
        assert (moved[radii == radius] > 0.5 * radius).any(), f"no pixel with the radius {radius:.2f} moved far"


def named(name: str, make: Callable[[], Any]) -> Any:
    """Return what is made; where it is refused, assert that the sentence names the attack and says what is allowed.

    Args:
        name: of the attack.
        make: makes it.
    """
    try:
        return make()
    except (TypeError, ValueError) as error:
        assert name in str(error), f"the sentence does not name it: {error}"
        assert "needed" in str(error), f"the sentence does not say what is allowed: {error}"
        raise


def lgv() -> str:
    """Check LGV, which makes its attack itself, on networks of its own."""
    model, (images, labels) = network(), batch()
    attack = torchattacks.LGV(
        model, [(images, labels)] * 2, lr=1e-3, epochs=1, nb_models_epoch=2, verbose=False,
        attack_class=PixelPGD, n_grad=-1, eps=EPS, alpha=EPS / 4, eps_low=EPS_LOW,
    )  # fmt: skip
    with untouched(model):
        adv = attack(images, labels)
    check_within(images, adv, EPS)
    moved = (adv - images).abs().amax(1)
    assert (moved > 2 * EPS_LOW).any(), "no important pixel moved"
    assert (moved > 2 * EPS_LOW).float().mean() < 0.6, "the unimportant pixels moved as far"
    return "its networks give the maps"


def multi_attack() -> str:
    """Check MultiAttack, whose attacks are wrapped one by one."""
    model, (images, labels) = network(), batch()
    weak = PixelAttack(torchattacks.FGSM(model, eps=EPS_LOW))
    attack = torchattacks.MultiAttack([weak, PixelPGD(model, eps=EPS, eps_low=EPS_LOW)])
    with untouched(model):
        adv = attack(images, labels)
    check_within(images, adv, PixelBudget(EPS, EPS_LOW)(model, images))
    with torch.no_grad():
        assert (model(adv).argmax(1) != labels).any(), "no image fools the network"
    return "each attack keeps its own budget"
