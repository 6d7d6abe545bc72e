"""Rows of every attack of torchattacks, and of the attacks here that are torchattacks' own by another name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchattacks
from common import EPS, EPS_LOW, Shrunk, batch, check_equal, check_within, lived_in, network, seeded, untouched
from rows import Row
from torch import Tensor, nn

from part_plugin import MMA, PixelAttack, PixelBudget, PixelMMA, PixelPGD, PixelTPGD

Settings = dict[str, Any]
Make = Callable[[nn.Module, float], Any]
"""Model and eps_low -> an attack with a budget per pixel."""

_STEPS = {"alpha": EPS / 4, "steps": 4}
SHORT: tuple[tuple[str, Settings], ...] = (
    ("BIM PGD MIFGSM DIFGSM TIFGSM NIFGSM VMIFGSM VNIFGSM SINIFGSM Jitter UPGD RFGSM EOTPGD PGDRS TPGD", _STEPS),
    ("PIFGSM PIFGSMPP", {"num_iter_set": 4}),
    ("APGD APGDT FAB", {"steps": 10}),
    ("FFGSM", {"alpha": EPS}),
    ("Square", {"n_queries": 100}),
    ("SPSA", {"nb_sample": 32, "max_batch_size": 32, "nb_iter": 4, "lr": EPS / 2}),
    ("AutoAttack", {"version": "rand", "seed": 0}),
)
"""Names of attacks, and what makes them short."""
TARGETED = (
    "BIM", "DIFGSM", "EOTPGD", "FAB", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM", "PGD", "PGDRS", "PIFGSMPP",
    "RFGSM", "SINIFGSM", "SPSA", "Square", "TIFGSM", "UPGD", "VMIFGSM", "VNIFGSM",
)  # fmt: skip
"""Attacks that are also run towards the class after the true one."""
NORMS = {"APGD": ("L2",), "APGDT": ("L2",), "FAB": ("L2", "L1"), "Square": ("L2",), "AutoAttack": ("L2",)}
OURS = {
    "PixelPGD": (PixelPGD, torchattacks.PGD, _STEPS),
    "PixelTPGD": (PixelTPGD, torchattacks.TPGD, _STEPS),
    "PixelMMA": (PixelMMA, MMA, _STEPS),
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
    found += [Row(f"torchattacks {name}, targeted", partial(wrapped, name, targeted=True)) for name in TARGETED]
    found += [
        Row("torchattacks LGV", lgv, "LGV(..., attack_class=PixelPGD, n_grad=-1)"),
        Row("torchattacks MultiAttack", multi_attack, "MultiAttack([PixelAttack(attack), ...])"),
        Row("MMA in PixelAttack", partial(wrapped, "MMA", host=MMA, **_STEPS)),
    ]
    found += [Row(name, partial(ours, name)) for name in OURS]
    found.append(Row("PixelPGD, targeted", partial(ours, "PixelPGD", targeted=True)))
    return sorted(found, key=lambda row: row.name)


def wrapped(name: str, host: Any = None, targeted: bool = False, **settings: Any) -> str:
    """Check `PixelAttack` around an attack, and return how equal it is to the attack at equal radii.

    Args:
        name: of the attack.
        host: its class. (Default: that of torchattacks)
        targeted: towards the class after the true one.
        **settings: of the attack, besides those that make it short.
    """
    host = host or getattr(torchattacks, name)
    settings = next((short for names, short in SHORT if name in names.split()), {}) | settings
    taken = inspect.signature(host).parameters
    settings |= {radius: EPS for radius in ("eps", "max_epsilon") if radius in taken}

    def plain(model: nn.Module) -> Any:
        return aimed(host(model, **settings), targeted)

    def pixel(model: nn.Module, eps_low: float) -> Any:
        return named(name, lambda: PixelAttack(plain(model), eps_low=eps_low))

    note = check(plain, pixel)
    check_by_hand(lambda model, *batch: plain(model)(*batch), lambda model, *batch: pixel(model, EPS_LOW)(*batch))
    return note


def ours(name: str, targeted: bool = False) -> str:
    """Check one of our attacks against the host's.

    Args:
        name: of the attack.
        targeted: towards the class after the true one.
    """
    made, host, settings = OURS[name]
    return check(
        lambda model: aimed(host(model, eps=EPS, **settings), targeted),
        lambda model, eps_low: aimed(made(model, eps=EPS, eps_low=eps_low, **settings), targeted),
    )


def aimed(attack: Any, targeted: bool) -> Any:
    """Return an attack after it was told what it is aimed at.

    Args:
        attack: the attack.
        targeted: the class after the true one.
    """
    if targeted:
        attack.set_mode_targeted_by_function(lambda images, labels: (labels + 1) % 10, quiet=True)
    return attack


def check(plain: Callable[[nn.Module], Any], pixel: Make) -> str:
    """Check an attack with a budget per pixel against the plain one, and return how equal they are at equal radii.

    Args:
        plain: makes the host's attack.
        pixel: makes that with a budget per pixel.
    """
    model = lived_in()
    images, labels = batch()
    attack, same = pixel(model, EPS_LOW), pixel(model, EPS)
    expected = seeded(lambda: plain(network())(images, labels))
    with untouched(model):
        adv, unchanged = (seeded(partial(each, images, labels)) for each in (attack, same))
    check_moved(images, adv)
    return same_radii(unchanged, expected)


def same_radii(found: Tensor, expected: Tensor) -> str:
    """Assert that equal radii gave the plain attack, and return how exactly.

    Args:
        found: adversarial images.
        expected: those of the plain attack.
    """
    exact = check_equal(found, expected, "equal radii do not give the plain attack")
    return f"equal radii: the plain attack {'to the bit' if exact else 'but for one unit in the last place'}"


def check_by_hand(plain: Callable[..., Tensor], pixel: Callable[..., Tensor]) -> None:
    """Assert that a wrapped attack finds what it finds, plain, on the network behind a change of variable by hand.

    Args:
        plain: network, images, labels -> adversarial images.
        pixel: the same of the wrapped attack.
    """
    images, labels = batch(1)  # one, as some attacks send the rows that they have not fooled yet
    changed = Shrunk(network(), images, PixelBudget(EPS, EPS_LOW)(network(), images) / EPS).eval()
    z = seeded(lambda: plain(changed, images, labels))
    found = seeded(lambda: pixel(network(), images, labels))
    check_equal(found, changed.moved(z.detach()), "the attack does not search behind the change of variable")


def check_moved(images: Tensor, adv: Tensor, far: float = 0.5) -> None:
    """Assert that adversarial images are in their budget, one of two radii, and make use of both.

    Args:
        images: (N, C, H, W).
        adv: the same shape.
        far: share of its radius that some pixel of each radius moves.
    """
    radii = PixelBudget(EPS, EPS_LOW)(network(), images)
    check_within(images, adv, radii)
    moved = (adv - images).abs().amax(1, keepdim=True)
    for radius in (EPS, EPS_LOW):
        assert (moved[radii == radius] > far * radius).any(), f"no pixel with the radius {radius} moved far"


def named(name: str, make: Callable[[], Any]) -> Any:
    """Return what is made; where it is refused, assert that the sentence names the attack and says what is allowed.

    Args:
        name: of the attack.
        make: makes it.
    """
    try:
        return make()
    except (TypeError, ValueError) as error:
        sentence = str(error)
        if name in sentence and "needed" in sentence:
            raise
    raise AssertionError(f"it is refused, but not by name or without what is allowed: {sentence}")


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
