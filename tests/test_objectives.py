import math

import pytest
import torch

from part_plugin import AT, MART, PART, TRADES
from part_plugin.objectives import kl_per_sample


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


def test_wrong_objectives():
    with pytest.raises(ValueError, match=r"objective='tradse' is not known; choose from \['at', 'trades', 'mart'\]"):
        PART("tradse")
    with pytest.raises(ValueError, match="beta=-1 is not allowed; it must be >= 0"):
        PART("trades", beta=-1)
