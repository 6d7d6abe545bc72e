"""Radii that ask no map, a user's own budgets, and what is refused where they enter."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from part_plugin import PART, Budget, FixedBudget, PixelBudget
from part_plugin.budget import AdoptedBudget, set_radius

IMAGES = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))


def test_fixed_budgets(digits_net):
    assert torch.equal(FixedBudget(0.1)(digits_net, IMAGES), torch.full((2, 1, 5, 6), 0.1))
    per_channel = FixedBudget(torch.tensor([0.1, 0.3, 0.2])[:, None, None])
    radii = per_channel(digits_net, IMAGES)
    assert torch.equal(radii, torch.tensor([0.1, 0.3, 0.2])[None, :, None, None].expand(2, 3, 5, 6))
    assert torch.equal(per_channel.radii(None, IMAGES), radii)
    assert (per_channel.eps_low, per_channel.eps) == (pytest.approx(0.1), pytest.approx(0.3))
    assert repr(per_channel) == f"FixedBudget({per_channel.eps_low} to {per_channel.eps})"
    assert repr(FixedBudget(0.25)) == "FixedBudget(eps=0.25)"
    with pytest.raises(ValueError, match=r"^radii of shape \(5, 7\) do not fit images of shape \(2, 3, 5, 6\)$"):
        FixedBudget(torch.ones(5, 7))(digits_net, IMAGES)


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("top-left", (0, 1), (0, 1, 2)),
        ("top-right", (0, 1), (3, 4, 5, 6)),
        ("bottom-left", (2, 3, 4), (0, 1, 2)),
        ("bottom-right", (2, 3, 4), (3, 4, 5, 6)),
    ],
)
def test_quadrants(name, rows, columns):
    """Pixel by pixel, on an image with an odd number of rows and of columns."""
    budget = FixedBudget.quadrant(name, eps=0.2, eps_low=0.1, size=(5, 7))
    radii = budget(None, torch.rand(2, 3, 5, 7, dtype=torch.float64))
    expected = [[0.2 if row in rows and column in columns else 0.1 for column in range(7)] for row in range(5)]
    assert radii.tolist() == [[expected], [expected]]
    assert (budget.eps, budget.eps_low) == (0.2, 0.1)


def test_a_fixed_budget_keeps_the_radii_it_was_made_with():
    radii = torch.full((5, 6), 0.2, dtype=torch.float64, requires_grad=True)
    budget = FixedBudget(radii)
    with torch.no_grad():
        radii.fill_(5.0)
    assert budget.eps == 0.2
    assert torch.equal(budget(None, IMAGES), torch.full((2, 1, 5, 6), 0.2))
    assert not budget(None, IMAGES).requires_grad
    assert FixedBudget(np.full((5, 6), 0.3)).eps == 0.3
    assert not FixedBudget(0)(None, IMAGES).any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FixedBudget(-1.0), ValueError, "eps=-1 is not allowed; every radius must be finite and >= 0"),
        (lambda: FixedBudget(float("inf")), ValueError, "eps=inf is not allowed; every radius must be finite and >= 0"),
        (lambda: FixedBudget(float("nan")), ValueError, "eps=nan is not allowed; every radius must be finite and >= 0"),
        (
            lambda: FixedBudget(torch.tensor([0.1, torch.inf])),
            ValueError,
            "eps=0.1 to inf is not allowed; every radius must be finite and >= 0",
        ),
        (
            lambda: FixedBudget(torch.tensor([0.5, torch.nan])),
            ValueError,
            "eps=nan to nan is not allowed; every radius must be finite and >= 0",
        ),
        (lambda: FixedBudget(torch.ones(0, 3)), ValueError, "eps has shape (0, 3); at least one radius is needed"),
        (lambda: FixedBudget("8/255"), TypeError, "eps='8/255' is a str; a number or a tensor of radii is needed"),
        (
            lambda: FixedBudget.quadrant("left", 1, 0, (4, 4)),
            ValueError,
            "name='left' is not known; choose from 'top-left', 'top-right', 'bottom-left', 'bottom-right'",
        ),
        (
            lambda: FixedBudget.quadrant("top-left", 0.1, 0.2, (4, 4)),
            ValueError,
            "eps_low=0.2 is larger than eps=0.1; it must be <= eps",
        ),
        (lambda: PART(budget=Own(eps="8")), TypeError, "budget.eps='8' is a str; a number is needed"),
        (lambda: PART(budget=Own(eps=-1)), ValueError, "budget.eps=-1 is not allowed; it must be >= 0"),
        (lambda: PART(budget=Own(eps=np.nan)), ValueError, "budget.eps=nan is not allowed; it must be >= 0"),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


# A budget of the user's own


class Own:
    """Any object with `eps` and a call."""

    def __init__(self, eps=0.2, returns=None):
        self.eps, self.returns, self.asked = eps, returns, []

    def __call__(self, model, images, labels=None):
        self.asked.append((model, images, labels))
        return torch.full_like(images[:, :1], self.eps) if self.returns is None else self.returns(images)

    def __repr__(self):
        return "Own()"


class Derived(Budget):
    """A subclass that says no more than it must."""

    def __init__(self, returns):
        self.returns = returns

    @property
    def eps(self):
        return 0.2

    def __call__(self, model, images, labels=None):
        return self.returns(images)


RADII = (
    torch.rand(8, 8, generator=torch.Generator().manual_seed(1))
    .mul(0.2)
    .index_put_((torch.tensor(3),) * 2, torch.tensor(0.2))
)


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize(
    "own", [Own(returns=lambda images: RADII), Derived(lambda images: RADII.expand(len(images), 1, 8, 8))]
)
def test_a_budget_of_ones_own_attacks_as_a_fixed_one_does(digits_net, batch, objective, own):
    options = {"burn_in": 0, "seed": 3, "alpha": 0.05, "steps": 3}
    ours = PART(objective, budget=FixedBudget(RADII), **options)
    theirs = PART(objective, budget=own, **options)
    adv = theirs.perturb(digits_net, *batch)
    assert torch.equal(adv, ours.perturb(digits_net, *batch))
    assert not torch.equal(adv, batch[0])


def test_a_budget_of_ones_own_is_asked_with_what_is_attacked(digits_net, batch):
    own = Own()
    PART(budget=own, burn_in=0).perturb(digits_net, batch[0], nn.functional.one_hot(batch[1], 10))
    ((model, images, labels),) = own.asked
    assert model is digits_net
    assert torch.equal(images, batch[0])
    assert torch.equal(labels, batch[1])


def test_what_an_adopted_budget_tells():
    own = Own()
    adopted = AdoptedBudget(own)
    assert (adopted.eps, adopted.eps_low, repr(adopted), adopted.has_weights) == (0.2, 0.2, "Own()", False)
    own.eps_low = None
    assert adopted.eps_low == 0.2
    own.eps, own.eps_low = 0.3, 0.1
    assert (adopted.eps, adopted.eps_low) == (0.3, 0.1)
    assert copy.deepcopy(adopted).eps == 0.3


@pytest.mark.parametrize("make", [lambda returns: Own(returns=returns), Derived])
@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        (
            lambda x: 0 * x[:, :1] + torch.nan,
            ValueError,
            "budget returned radii from nan to nan; they must be in [0, eps=0.2]",
        ),
        (lambda x: 0 * x + 0.21, ValueError, "budget returned radii from 0.21 to 0.21; they must be in [0, eps=0.2]"),
        (lambda x: 0 * x - 0.1, ValueError, "budget returned radii from -0.1 to -0.1; they must be in [0, eps=0.2]"),
        (lambda x: 0.1, TypeError, "budget returned float; a floating-point tensor of radii is needed"),
        (lambda x: x[:, :1] > 0.5, TypeError, "budget returned torch.bool; a floating-point tensor of radii is needed"),
        (lambda x: x[:0], ValueError, "radii of shape (0, 1, 8, 8) do not fit images of shape (16, 1, 8, 8)"),
        (
            lambda x: torch.zeros(3, 1, 8, 8),
            ValueError,
            "radii of shape (3, 1, 8, 8) do not fit images of shape (16, 1, 8, 8)",
        ),
    ],
)
def test_radii_are_checked_where_they_enter(digits_net, batch, make, returns, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        PART(budget=make(returns), burn_in=0).perturb(digits_net, *batch)


def test_what_has_no_weights_says_so(digits_net, batch):
    for budget in (FixedBudget(0.1), AdoptedBudget(Own())):
        with pytest.raises(NotImplementedError, match=f"^{re.escape(repr(budget))} has no weights$"):
            budget.weights(digits_net, *batch)
        with pytest.raises(NotImplementedError, match=f"^{re.escape(repr(budget))} has no weights$"):
            budget.radii_of(torch.ones(16, 1, 8, 8), batch[0])


def test_radii_are_set_on_a_budget_that_can_change():
    budget = PixelBudget(0.2, 0.1)
    set_radius(budget, "eps", 0.3)
    set_radius(budget, "eps_low", 0.2)
    assert (budget.eps, budget.eps_low) == (0.3, 0.2)
    for name in ("eps", "eps_low"):
        message = f"{name}=0.3 cannot be set: FixedBudget(eps=0.1) keeps its radii; make a new attack"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            set_radius(FixedBudget(0.1), name, 0.3)
