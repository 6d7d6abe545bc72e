import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from part_plugin import AT, MART, PART, TRADES, Objective
from part_plugin.objectives import ascent, kl_per_sample, make_objective


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 2])


def softmax(row):
    exponents = [math.exp(value) for value in row.tolist()]
    return [value / sum(exponents) for value in exponents]


def by_hand(adv, natural, labels):
    """All terms of the three losses, by loops over samples and classes."""
    rows = []
    for a, n, y in zip(adv, natural, labels.tolist(), strict=True):
        pa, pn = softmax(a), softmax(n)
        rival = max(p for k, p in enumerate(pa) if k != y)
        kl = sum(q * math.log(q / p) for q, p in zip(pn, pa, strict=True))
        rows.append((-math.log(pa[y]), -math.log(pn[y]), -math.log(1.0001 - rival), kl, 1 - pn[y]))
    return rows


def test_losses_against_hand_written_ones(logits):
    adv, natural, labels = logits
    rows = by_hand(adv, natural, labels)
    mean = len(rows)
    assert float(AT().loss(adv, labels, None)) == pytest.approx(sum(r[0] for r in rows) / mean)
    assert float(TRADES(3.0).loss(adv, labels, natural)) == pytest.approx(sum(r[1] + 3 * r[3] for r in rows) / mean)
    expected = sum(r[0] + r[2] + 5 * r[3] * r[4] for r in rows) / mean
    assert float(MART(5.0).loss(adv, labels, natural)) == pytest.approx(expected)


def test_attack_losses(logits):
    adv, natural, labels = logits
    rows = by_hand(adv, natural, labels)
    assert float(MART().attack_loss(adv, labels, None)) == pytest.approx(sum(r[0] for r in rows) / len(rows))
    assert float(TRADES().attack_loss(adv, labels, natural)) == pytest.approx(sum(r[3] for r in rows))


def test_labels_that_are_probabilities(logits):
    """Of two mixed labels: a mean of the cross-entropies, and everything else of the likelier class."""
    adv, natural, labels = logits
    soft = 0.7 * torch.eye(4, dtype=torch.float64)[labels] + 0.3 * torch.eye(4, dtype=torch.float64)[(labels + 1) % 4]
    rows, others = by_hand(adv, natural, labels), by_hand(adv, natural, (labels + 1) % 4)
    rows = [(0.7 * r[0] + 0.3 * o[0], 0.7 * r[1] + 0.3 * o[1], *r[2:]) for r, o in zip(rows, others, strict=True)]
    for objective in (AT(), MART()):
        assert float(objective.attack_loss(adv, soft, None)) == pytest.approx(sum(r[0] for r in rows) / 5)
    assert float(AT().loss(adv, soft, None)) == pytest.approx(sum(r[0] for r in rows) / 5)
    assert float(TRADES(3.0).loss(adv, soft, natural)) == pytest.approx(sum(r[1] + 3 * r[3] for r in rows) / 5)
    expected = sum(r[0] + r[2] + 5 * r[3] * r[4] for r in rows) / 5
    assert float(MART(5.0).loss(adv, soft, natural)) == pytest.approx(expected)


@pytest.mark.parametrize("objective", [AT(), TRADES(), MART()], ids=repr)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_logits_stay_finite(objective, size):
    adv = torch.tensor([[size, -size, 0.0], [-size, size, -size]], requires_grad=True)
    natural = torch.tensor([[-size, size, size], [-size, size, -size]], requires_grad=True)
    for loss, inputs in ((objective.loss, [adv, natural]), (objective.attack_loss, [adv])):
        value = loss(adv, torch.tensor([1, 1]), natural)
        assert value.isfinite()
        for gradient in torch.autograd.grad(value, inputs, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_kl_is_zero_only_for_equal_rows(logits):
    adv, natural, _ = logits
    assert torch.allclose(kl_per_sample(adv, adv), torch.zeros(5, dtype=torch.float64))
    assert (kl_per_sample(adv, natural) > 0.01).all()


def test_a_loss_does_not_depend_on_how_the_batch_is_split(logits):
    adv, natural, labels = logits
    for objective in (AT(), TRADES(), MART()):
        parts = [objective.loss(adv[i : i + 1], labels[i : i + 1], natural[i : i + 1]) for i in range(5)]
        torch.testing.assert_close(objective.loss(adv, labels, natural), torch.stack(parts).mean())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: PART("tradse"),
            ValueError,
            "objective='tradse' is not known; choose from ['at', 'trades', 'mart'] or pass an Objective",
        ),
        (lambda: PART("trades", beta=-1), ValueError, "beta=-1 is not allowed; it must be >= 0"),
        (
            lambda: PART("at", beta=3),
            ValueError,
            "beta=3 does not go with objective='at'; it weighs the second term of the others",
        ),
        (lambda: PART("mart", beta="6"), TypeError, "beta='6' is a str; a number is needed"),
        (lambda: TRADES(-1), ValueError, "beta=-1 is not allowed; it must be >= 0"),
        (lambda: MART(float("nan")), ValueError, "beta=nan is not allowed; it must be >= 0"),
        (
            lambda: PART(TRADES(3.0), beta=6.0),
            ValueError,
            "beta=6.0 does not go with objective=TRADES(beta=3.0); give it to the objective",
        ),
        (
            lambda: PART(AT),
            TypeError,
            f"objective={AT!r} is a type; a name or an Objective instance is needed",
        ),
        (lambda: PART(None), TypeError, "objective=None is a NoneType; a name or an Objective instance is needed"),
        (
            lambda: PART(Odd()),
            ValueError,
            "objective.start='normal' is not known; choose from 'uniform', 'gaussian'",
        ),
    ],
)
def test_wrong_objectives(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()


class Odd(Objective):
    start = "normal"


def test_objectives_by_name():
    assert type(make_objective("at")) is AT
    for name, kind in (("trades", TRADES), ("mart", MART)):
        assert type(make_objective(name)) is kind
        assert (make_objective(name).beta, make_objective(name, 2.5).beta) == (6.0, 2.5)
    assert TRADES().beta == MART().beta == 6.0
    own = MART(1.0)
    assert make_objective(own) is own


def test_what_training_and_attack_need():
    """The starts of the papers, and whose logits they take."""
    found = {name: make_objective(name) for name in ("at", "trades", "mart")}
    assert {name: objective.start for name, objective in found.items()} == {
        "at": "uniform",
        "trades": "gaussian",
        "mart": "gaussian",
    }
    assert {name: (o.needs_natural, o.attacks_natural) for name, o in found.items()} == {
        "at": (False, False),
        "trades": (True, True),
        "mart": (True, False),
    }
    assert [repr(objective) for objective in found.values()] == ["AT()", "TRADES(beta=6.0)", "MART(beta=6.0)"]
    own = TRADES(2.0)
    own.gamma = 3
    assert repr(own) == "TRADES(beta=2.0, gamma=3)"


def test_natural_logits_that_are_missing(logits):
    adv, _, labels = logits
    for call in (TRADES().loss, TRADES().attack_loss, MART().loss):
        objective = call.__self__
        message = f"natural_logits=None does not go with {objective!r}, which needs those of the natural images"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call(adv, labels, None)
    with pytest.raises(NotImplementedError):
        Objective().loss(adv, labels, None)


def test_criteria_of_ones_own(logits):
    adv, natural, labels = logits

    def criterion(scores, classes):
        return scores.gather(1, classes[:, None]).sum()

    at, trades = AT(criterion), TRADES(2.0, criterion)
    true = [float(adv[row, label]) for row, label in enumerate(labels.tolist())]
    assert float(at.loss(adv, labels, None)) == float(at.attack_loss(adv, labels, None)) == pytest.approx(sum(true))
    rows = by_hand(adv, natural, labels)
    expected = sum(float(natural[row, label]) for row, label in enumerate(labels.tolist()))
    expected += 2 * sum(row[3] for row in rows) / len(rows)
    assert float(trades.loss(adv, labels, natural)) == pytest.approx(expected)
    plain = Objective().attack_loss(adv, labels, None)
    assert float(plain) == pytest.approx(sum(row[0] for row in rows) / len(rows))


@pytest.mark.parametrize("objective", [AT(), TRADES(), MART()], ids=repr)
def test_what_an_attack_climbs(digits_net, batch, objective):
    images, labels = batch
    with torch.no_grad():
        logits, natural = digits_net(images), digits_net(1 - images)
    expected = objective.attack_loss(logits, labels, natural)
    assert float(ascent(digits_net, objective, labels, natural)(images).detach()) == pytest.approx(float(expected))
    for sign in (1, -1):
        found = ascent(digits_net, objective, labels, natural, sign)(images)
        assert float(found.detach()) == pytest.approx(sign * float(expected))
    message = "^labels contain class 10; allowed is 0 to 9$"
    with pytest.raises(ValueError, match=message):
        ascent(digits_net, objective, torch.full((16,), 10), natural)(images)


class Sure(nn.Module):
    """A network whose predictions are surer, by a factor for each image."""

    def __init__(self, net, factor):
        super().__init__()
        self.net, self.factor = net, factor

    def forward(self, x):
        return self.net(x) * self.factor.to(x.dtype)


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_an_attack_in_float16_follows_the_gradients_of_sure_predictions(digits_net, batch, objective):
    """Whose losses are far below what float16 can tell from 0; the signs are those of double precision."""
    images, labels = batch[0], digits_net(batch[0]).argmax(1)
    images = (images + 0.01 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    model = Sure(digits_net, 14 / -torch.topk(digits_net(images).detach(), 2).values.diff())  # losses about exp(-14)
    objective, gradients, losses = make_objective(objective), {}, None
    for dtype in (torch.float16, torch.float64):
        network = copy.deepcopy(model).to(dtype)
        x = images.to(dtype)
        natural = network(batch[0].to(dtype)).detach()
        x.requires_grad_()
        loss = ascent(network, objective, labels, natural)(x)
        losses = F.cross_entropy(network(x), labels, reduction="none")
        (gradients[dtype],) = torch.autograd.grad(loss, x)
    assert losses.max() < 1e-5
    half, double = gradients[torch.float16].double(), gradients[torch.float64]
    assert (half.flatten(1).abs().amax(1) > 0).all()
    large = double.abs() > 0.05 * double.abs().amax((1, 2, 3), keepdim=True)
    assert (half.sign() == double.sign())[large].double().mean() > 0.97
