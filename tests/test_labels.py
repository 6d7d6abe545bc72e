"""Labels as class indices, or as probabilities of all classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from part_plugin import PART
from part_plugin.labels import check_columns, classes_of, labels_of

SETTINGS = {"eps": 0.1, "alpha": 0.05, "steps": 2, "burn_in": 0, "seed": 0}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([0, 2, 1]), [0, 2, 1]),
        (np.array([[0.0], [2.0], [1.0]]), [0, 2, 1]),
        ([0, 2, 1], [0, 2, 1]),
        (np.eye(3)[[0, 2, 1]], [0, 2, 1]),
        (np.eye(3, dtype=bool)[[0, 2, 1]], [0, 2, 1]),
        (np.eye(3, dtype=np.uint8)[[0, 2, 1]][::-1], [1, 2, 0]),
        (np.array([[0.5, 0.2, 0.3], [0, 0, 1], [0.1, 0.8, 0.1]]), [0, 2, 1]),
    ],
)
def test_labels_of_any_form(labels, expected):
    found = labels_of(labels if isinstance(labels, list) else labels.copy(), 3, 3)
    assert classes_of(found).tolist() == expected
    assert found.dtype == (torch.int64 if found.dim() == 1 else torch.float32)
    assert (found.dim() == 2) == bool(np.ndim(labels) == 2 and (np.asarray(labels) % 1).any())


def test_columns():
    check_columns(torch.tensor([3, 12]), 10)
    check_columns(torch.full((2, 10), 0.1), 10)
    with pytest.raises(ValueError, match=r"^labels have shape \(2, 9\); the model has 10 classes$"):
        check_columns(torch.full((2, 9), 1 / 9), 10)


@pytest.fixture
def mixed(batch):
    """Two classes an image, as of Mixup; the first is the likelier one."""
    one, other = F.one_hot(batch[1], 10), F.one_hot((batch[1] + 1) % 10, 10)
    return 0.7 * one.double() + 0.3 * other


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize("attack", ["pgd", "mma"])
def test_labels_of_one_class_each_are_classes(digits_net, batch, objective, attack):
    adv = [
        PART(objective, attack=attack, **SETTINGS).perturb(digits_net, batch[0], labels)
        for labels in (batch[1], F.one_hot(batch[1], 10).double())
    ]
    assert torch.equal(*adv)


def test_at_with_mixed_labels(digits_net, batch, mixed):
    x, part = batch[0], PART(**SETTINGS | {"eps_low": 0.1}, random_start=False)
    adv = x.clone()
    for _ in range(2):  # by hand
        adv.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(digits_net(adv), mixed.float()), adv)
        adv = (x + (adv.detach() + 0.05 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    found = part.perturb(digits_net, x, mixed)
    torch.testing.assert_close(found, adv, atol=1e-6, rtol=0)
    loss = PART(**SETTINGS | {"eps_low": 0.1}, random_start=False).loss(digits_net, x, mixed)
    assert loss.item() == pytest.approx(F.cross_entropy(digits_net(found), mixed.float()).item(), rel=1e-5)


def test_trades_with_mixed_labels(digits_net, batch, mixed):
    """The attack of TRADES asks for no label, and of its loss only the first term does."""
    x, part = batch[0], PART("trades", beta=6.0, **SETTINGS)
    adv = part.perturb(digits_net, x, mixed)
    assert torch.equal(adv, PART("trades", beta=6.0, **SETTINGS).perturb(digits_net, x, batch[1]))
    losses = [part.training_pass(digits_net, x, adv, labels).loss for labels in (mixed, batch[1])]
    terms = [F.cross_entropy(digits_net(x), labels) for labels in (mixed.float(), batch[1])]
    torch.testing.assert_close(losses[0] - losses[1], terms[0] - terms[1])


def test_the_likeliest_class_is_the_true_one(digits_net, batch, mixed):
    options = SETTINGS | {"eps_low": 0.02, "target": "true", "attack": "mma"}
    for y in (mixed, batch[1]):
        part = PART(**options)
        adv = part.perturb(digits_net, batch[0], y)
        assert part.attacked > 0
        if y is mixed:
            expected = adv
    assert torch.equal(adv, expected)
