"""Adversarial training in a loop: PART, which checks its examples, and plain methods, which it is at equal radii."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from common import EPS, EPS_LOW, check_within, digits, network, seeded
from torch import Tensor, nn

from part_plugin import PART

ALPHA, STEPS, BETA = EPS / 4, 3, 6.0
SETTINGS: dict[str, Any] = {"eps": EPS, "alpha": ALPHA, "steps": STEPS, "burn_in": 0}


class Method(NamedTuple):
    """What a recipe is made with.

    Args:
        perturb: network, images, labels -> adversarial images.
        loss: network, images, adversarial images, labels -> scalar.
    """

    perturb: Callable[[nn.Module, Tensor, Tensor], Tensor]
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


Recipe = Callable[[nn.Module, Method, Sequence[tuple[Tensor, Tensor]]], list[Tensor]]
"""Network, method, batches -> the losses; it trains the network."""


class Noted(PART):
    """PART that checks every example that it makes, and notes which radii there were."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.seen: set[float] = set()

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        """Return what `PART.attack` does; the arguments `model`, `x`, `y`, `radii` and `natural_logits` are its."""
        adv = super().attack(model, x, y, radii, natural_logits)
        check_within(x, adv, radii, self.clip)
        assert not torch.equal(adv, x), "no pixel moved"
        self.seen |= set(radii.unique().tolist())
        return adv

    def method(self) -> Method:
        """Return it as what a recipe is made with."""
        return Method(self.perturb, lambda model, x, adv, y: self.training_pass(model, x, adv, y).loss)


def batches(n: int = 2, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Return batches of digits and their classes.

    Args:
        n: how many.
        size: of each.
    """
    images, labels = digits()
    return [(images[rows].clone(), labels[rows].clone()) for rows in torch.arange(n * size).split(size)]


def trained(recipe: Recipe, method: Method, given: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the weights of the network after a recipe, if its losses are finite and it moved them.

    Args:
        recipe: what trains.
        method: what it is made with.
        given: batches.
    """
    model = network().train()
    before = weights_of(model)
    losses = seeded(lambda: recipe(model, method, given))
    assert len(losses) >= 2, "no two losses"
    assert all(loss.isfinite() for loss in losses), "a loss is not finite"
    after = weights_of(model)
    assert not torch.equal(before, after), "no weight moved"
    return after


def weights_of(model: nn.Module) -> Tensor:
    """Return the weights of a network as one vector.

    Args:
        model: the network.
    """
    return torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])


def check_recipe(
    recipe: Recipe,
    ours: Callable[..., Noted],
    plain: Method | None = None,
    given: Sequence[tuple[Tensor, Tensor]] | None = None,
    rounding: float = 1e-3,
) -> str:
    """Check a recipe with PART, and at equal radii against the plain method.

    Args:
        recipe: what trains.
        ours: makes PART, of a keyword eps_low.
        plain: the same at equal radii, written out. (Default: adversarial training)
        given: batches.
        rounding: how far weights may differ, as a share of how far they moved.
    """
    given = batches() if given is None else given
    part = ours(eps_low=EPS_LOW)
    trained(recipe, part.method(), given)
    assert len(part.seen) == 2, f"the radii were {sorted(part.seen)}"
    return check_same(trained(recipe, ours(eps_low=EPS).method(), given), trained(recipe, plain or AT, given), rounding)


def check_same(found: Tensor, expected: Tensor, rounding: float = 1e-3) -> str:
    """Assert that two trainings of the network gave the same weights.

    Args:
        found: weights of ours.
        expected: weights of the plain one.
        rounding: how far they may differ, as a share of how far they moved.
    """
    moved = (expected - weights_of(network())).abs().max()
    apart = (found - expected).abs().max()
    assert apart <= rounding * moved, f"equal radii do not give the plain recipe: {float(apart / moved):.1g} of the way"
    return "equal radii: the weights of the plain recipe"


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    criterion: Any = F.cross_entropy,
    start: str = "uniform",
    alpha: float = ALPHA,
    steps: int = STEPS,
) -> Tensor:
    """Return the examples of plain PGD, written out.

    Args:
        model: network, attacked in eval mode.
        x: images.
        y: classes or probabilities.
        criterion: what is maximised, of logits and y.
        start: "uniform", or "gaussian" as in TRADES.
        alpha: step size.
        steps: number of steps.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    noise = torch.empty_like(x).uniform_(-EPS, EPS) if start == "uniform" else 0.001 * torch.randn_like(x)
    adv = (x + noise).clamp(0, 1)
    for _ in range(steps):
        adv.requires_grad_()
        gradient = torch.autograd.grad(criterion(model(adv), y), adv)[0]
        adv = (x + (adv.detach() + alpha * gradient.sign() - x).clamp(-EPS, EPS)).clamp(0, 1)
    for module, training in modes.items():
        module.training = training
    return adv.detach()


AT = Method(pgd, lambda model, x, adv, y: F.cross_entropy(model(adv), y))
"""Adversarial training, written out."""


def _kl(adv_logits: Tensor, natural: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(adv_logits, 1), natural, reduction="sum")


def _trades_pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    training = model.training
    with torch.no_grad():
        natural = model.eval()(x).softmax(1)
    model.train(training)
    return pgd(model, x, natural, _kl, "gaussian")


def _trades_loss(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    natural, robust = model(x), model(adv)
    return F.cross_entropy(natural, y) + BETA / len(x) * _kl(robust, natural.softmax(1))


def _mart_loss(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Tensor:
    natural, robust = model(x).softmax(1), model(adv)
    rows = torch.arange(len(x))
    others = robust.softmax(1).clone()
    others[rows, y] = 0
    boosted = F.cross_entropy(robust, y) - torch.log(1.0001 - others.max(1)[0]).mean()
    gap = F.kl_div(robust.log_softmax(1), natural, reduction="none").sum(1)
    return boosted + BETA * (gap * (1 - natural[rows, y])).mean()


TRADES = Method(_trades_pgd, _trades_loss)
"""TRADES, written out."""
MART = Method(lambda model, x, y: pgd(model, x, y, start="gaussian"), _mart_loss)
"""MART, written out."""
