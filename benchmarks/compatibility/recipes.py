"""The table of recipes: adversarial training in a loop of one's own, with torchattacks, and with ART's trainers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import device_recipes as devices
import loop_recipes as loops
import torch
import torch.nn.functional as F
import torchattacks
import trainer_recipes
from common import EPS, EPS_LOW, check_within, network
from methods import (
    ALPHA,
    AT,
    MART,
    SETTINGS,
    STEPS,
    TRADES,
    Method,
    Noted,
    batches,
    check_recipe,
    check_same,
    pgd,
    trained,
)
from own_budgets import AnyObject, Framed, frame
from rows import Row
from torch import Tensor, nn

from part_plugin import MMA, FixedBudget, PixelBudget, PixelPGD
from part_plugin.objectives import AT as Criterion
from part_plugin.recipes.augmentation import MovedMasks, augmentation


def rows() -> list[Row]:
    """Return the rows: of loops, then of trainers."""
    found = [
        Row(title, partial(check_recipe, recipe, part, rounding=rounding))
        for title, (recipe, rounding) in {
            "PART": (loops.steps, 1e-3),
            "half of each batch natural": (loops.half_natural, 1e-3),
            "AdamW, a schedule, clipped gradients": (loops.clipped_gradients, 1e-2),
            "accumulated gradients": (loops.accumulated, 1e-3),
            "adversarial weight perturbation (AWP)": (loops.weight_perturbation, 1e-3),
            "sharpness-aware minimisation (SAM)": (loops.sharpness_aware, 1e-3),
            "attacks on averaged weights (EMA)": (loops.averaged_weights, 1e-3),
            "Mixup": (loops.mixed(loops.mixup), 1e-3),
            "CutMix": (loops.mixed(loops.cutmix), 1e-3),
            "bfloat16 autocast around the training pass": (devices.bfloat16, 1e-3),
            "bfloat16 autocast around attack and training pass": (devices.all_in_bfloat16, 1e-3),
            "GradScaler": (devices.scaled_loss, 1e-3),
            "torch.compile": (devices.compiled, 1e-3),
            "channels-last weights and images": (devices.channels_last, 1e-3),
            "DistributedDataParallel": (devices.distributed, 1e-3),
            "frozen features": (loops.frozen_features, 1e-3),
        }.items()
    ]
    found += [
        Row("PART-T (TRADES)", partial(check_recipe, loops.steps, partial(part, "trades"), TRADES)),
        Row("PART-M (MART)", partial(check_recipe, loops.steps, partial(part, "mart"), MART)),
        Row(
            "PART-T with AWP",
            partial(check_recipe, loops.weight_perturbation, partial(part, "trades"), TRADES, rounding=1e-2),
        ),
        Row("PART with the minimum-margin attack", minimum_margin, 'attack="mma"'),
        Row("label smoothing", smoothed),
        Row("one step (fast adversarial training, FBF)", one_step, "steps=1, alpha=1.25 * eps"),
        Row("free adversarial training", free),
        Row("eps that grows", growing),
        Row("a loop with torchattacks", with_torchattacks),
        Row("normalised images", normalised, "clip=(smallest, largest)"),
        Row("a budget of your own, a subclass", partial(own_budget, lambda eps_low: Framed(eps_low)), "budget="),
        Row("a budget of your own, any object", partial(own_budget, lambda eps_low: AnyObject(eps_low)), "budget="),
        Row(
            "a radius for each pixel, fixed",
            partial(own_budget, lambda eps_low: FixedBudget(frame(eps_low))),
            "budget=",
        ),
        Row("masks of your own", own_masks, "important="),
        Row("remembered masks that move with crops and flips", moved_masks, "mask_every=, MovedMasks"),
        Row('fast="fold"', partial(check_recipe, loops.steps, partial(part, fast="fold"), rounding=1e-2)),
    ]
    return [*found, *trainer_recipes.rows()]


def part(objective: Any = "at", eps_low: float = EPS_LOW, **settings: Any) -> Noted:
    """Return PART.

    Args:
        objective: see `PART`.
        eps_low: radius of the unimportant pixels.
        **settings: see `PART`.
    """
    return Noted(objective, eps_low=eps_low, **SETTINGS | settings)


def minimum_margin() -> str:
    """Check the minimum-margin attack in PART against the plain one, `MMA`."""

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return MMA(model, EPS, ALPHA, STEPS)(x, y)

    return check_recipe(loops.steps, partial(part, attack="mma"), Method(perturb, AT.loss))


def smoothed() -> str:
    """Check a loss with smoothed labels."""
    criterion = partial(F.cross_entropy, label_smoothing=0.1)
    plain = Method(partial(pgd, criterion=criterion), lambda model, x, adv, y: criterion(model(adv), y))
    return check_recipe(loops.steps, partial(part, Criterion(criterion)), plain)


def one_step() -> str:
    """Check an attack of one long step from a random start, as ART's FBF trainer makes it by itself."""
    settings = {"steps": 1, "alpha": 1.25 * EPS}
    return check_recipe(loops.steps, partial(part, **settings), Method(partial(pgd, **settings), AT.loss))


def free() -> str:
    """Check that examples made beside the training keep the radii of a budget, which is asked once for each batch."""
    model, (x, y) = network(), batches(1)[0]
    radii = PixelBudget(EPS, EPS_LOW).radii(model, x, y)
    check_within(x, (x + torch.full_like(x, EPS).clamp(-radii, radii)).clamp(0, 1), radii)
    assert len(radii.unique()) == 2, "there is one radius"
    lowered, equal = (trained(loops.free(eps_low), AT, batches()) for eps_low in (EPS_LOW, EPS))
    assert not torch.equal(lowered, equal), "the lower radius makes no difference"
    return "PixelBudget.radii in the loop"


def growing() -> str:
    """Check that eps_low keeps its ratio while eps grows."""
    grown = part(eps_low=None)
    trained(lambda model, method, given: loops.steps(model, loops.growing_eps(grown), given), AT, batches())
    expected = {share * EPS / 4 * step for step in (1, 2) for share in (1, 7 / 8)}
    assert all(min(abs(radius - each) for each in expected) < 1e-7 for radius in grown.seen), f"radii {grown.seen}"
    assert len(grown.seen) == 4, f"radii {grown.seen}"
    return "eps_low stays at its ratio"


def with_torchattacks() -> str:
    """Check `PixelPGD` in place of torchattacks' PGD."""

    def method(make: Any, **settings: Any) -> Method:
        def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            radii = PixelBudget(EPS, settings.get("eps_low", EPS))(model, x)
            adv = make(model, EPS, ALPHA, STEPS, **settings)(x, y)
            check_within(x, adv, radii)
            return adv

        return Method(perturb, AT.loss)

    trained(loops.steps, method(PixelPGD, eps_low=EPS_LOW), batches())
    ours, plain = method(PixelPGD, eps_low=EPS), method(torchattacks.PGD)
    return check_same(trained(loops.steps, ours, batches()), trained(loops.steps, plain, batches()))


def normalised() -> str:
    """Check images in [-1, 1], with radii in their units, against the same network behind a normalisation."""
    given = [(2 * x - 1, y) for x, y in batches()]

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return 2 * pgd(nn.Sequential(_Halved(), model).train(), (x + 1) / 2, y) - 1

    settings = {"clip": (-1, 1), "eps": 2 * EPS, "alpha": 2 * ALPHA}
    return check_recipe(
        loops.steps, lambda eps_low: part(eps_low=2 * eps_low, **settings), Method(perturb, AT.loss), given
    )


class _Halved(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * images - 1


def own_budget(make: Callable[[float], Any]) -> str:
    """Check a budget that is no `PixelBudget`.

    Args:
        make: makes it, of an eps_low.
    """
    settings = {name: value for name, value in SETTINGS.items() if name != "eps"}
    return check_recipe(loops.steps, lambda eps_low: Noted(budget=make(eps_low), **settings))


def own_masks() -> str:
    """Check masks that come with the images, instead of maps."""

    def masked(made: Noted) -> Method:
        def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            important = x.mean(1, keepdim=True) > 0.5
            adv = made.perturb(model, x, y, important=important)
            check_within(x, adv, torch.where(important, made.budget.eps, made.budget.eps_low))
            return adv

        return Method(perturb, made.method().loss)

    made = part()
    trained(loops.steps, masked(made), batches())
    assert made.budget.images == 0, "maps were made"
    return check_same(trained(loops.steps, masked(part(eps_low=EPS)), batches()), trained(loops.steps, AT, batches()))


def moved_masks() -> str:
    """Check masks that are made once for images as they are, and moved as their images are."""
    images, labels = (torch.cat(each) for each in zip(*batches(), strict=True))
    whole = list(zip(images, labels.tolist(), strict=True))
    made = part(mask_every=10)
    loader = torch.utils.data.DataLoader(MovedMasks(whole, made, augmentation("cifar10", (8, 8))), batch_size=16)

    def recipe(model: nn.Module, method: Method, given: Any) -> list[Tensor]:
        optimizer, losses = loops.sgd(model), []
        for epoch in range(2):
            made.set_epoch(epoch)
            if made.masks_due():
                made.remember(model, images, labels, torch.arange(len(images)))
            for x, y, index, important in loader:
                adv = made.perturb(model, x, y, index, important)
                check_within(x, adv, torch.where(important, EPS, EPS_LOW))
                losses += loops.steps(model, Method(lambda *_, adv=adv: adv, method.loss), [(x, y)], optimizer)
        return losses

    trained(recipe, made.method(), batches())
    assert made.budget.images == len(images), f"{made.budget.images} maps were made of {len(images)} images"
    return "each image mapped once in two epochs"
