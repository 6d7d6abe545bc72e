"""PART whose attack is the minimum-margin attack."""

import copy

import pytest
import torch
import torchattacks
from conftest import SmallNet, assert_untouched, snapshot
from margins import accuracy, margins, run
from torch import nn

from part_plugin import PART, FixedBudget
from part_plugin.attacks.minimum_margin import MinimumMargin

EPS = 0.1
SETTINGS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.05, "steps": 4, "attack": "mma", "burn_in": 0}


@pytest.fixture(scope="module")
def _robust_net(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet(width=8)
        train(net, PART("at", eps=EPS, eps_low=0.8 * EPS, alpha=EPS / 2, steps=3, burn_in=4, seed=0), digits, epochs=8)
    return net.eval()


@pytest.fixture
def robust_net(_robust_net):
    """A network trained on digits with PART at EPS, on which attacks differ; a fresh copy for each test."""
    return copy.deepcopy(_robust_net)


def train(net, part, digits, epochs):
    """Adam on the first 1400 digits."""
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for epoch in range(epochs):
        net.train()
        part.set_epoch(epoch)
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            part.loss(net, digits[0][rows], digits[1][rows]).backward()
            optimizer.step()


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_one_batch_of_training(lived_in, batch, objective):
    part = PART(objective, seed=0, **SETTINGS)
    radii = part.budget(lived_in, *batch)
    before = snapshot(lived_in)
    adv = part.perturb(lived_in, *batch)
    assert_untouched(lived_in, before)
    assert ((adv - batch[0]).abs() <= radii + 1e-6).all()
    assert ((adv - batch[0]).abs() > 0.06).any()
    assert adv.min() >= 0
    assert adv.max() <= 1
    calm = copy.deepcopy(lived_in).eval()
    assert (margins(calm, adv, batch[1]) > margins(calm, *batch)).all()

    weights = copy.deepcopy(lived_in.head.weight.data)
    optimizer = torch.optim.SGD(lived_in.parameters(), 0.01)
    lived_in.zero_grad()
    loss = part.loss(lived_in, *batch)
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in lived_in.parameters())
    assert not torch.equal(lived_in.head.weight, weights)


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_its_examples_come_further_than_those_of_pgd(robust_net, digits, objective):
    images, labels = digits[0][1400:1528], digits[1][1400:1528]
    options = {"budget": FixedBudget(EPS), "alpha": EPS / 4, "steps": 10, "burn_in": 0, "seed": 0}
    pgd, mma = (
        margins(robust_net, PART(objective, attack=attack, **options).perturb(robust_net, images, labels), labels)
        for attack in ("pgd", "mma")
    )
    assert (mma > pgd + 1e-5).sum() > 2 * (pgd > mma + 1e-5).sum()  # by chance: each as often, of the 128
    assert mma.mean() > pgd.mean()


def test_it_is_the_core_attack_from_the_start_that_the_seed_gives(digits_net, batch):
    part = PART(seed=5, **SETTINGS)
    radii = part.budget(digits_net, *batch)
    start = part._start(batch[0], radii)
    expected = MinimumMargin(digits_net, *batch, radii, 0.05, start).advance(4)
    assert torch.equal(part.perturb(digits_net, *batch), expected)
    again, other = PART(seed=5, **SETTINGS), PART(seed=6, **SETTINGS)
    assert torch.equal(again.perturb(digits_net, *batch), expected)
    assert not torch.equal(other.perturb(digits_net, *batch), expected)
    assert not torch.equal(again.perturb(digits_net, *batch), expected)  # the next step starts elsewhere


def test_without_a_random_start_nothing_is_drawn(digits_net, batch):
    state = torch.random.get_rng_state()
    parts = [PART(random_start=False, **SETTINGS) for _ in range(2)]
    assert torch.equal(*(part.perturb(digits_net, *batch) for part in parts))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_of_another_range(robust_net, batch):
    """eps is in the units of the images, and the clip range is that of PART."""
    net, images, labels = robust_net.double(), batch[0].double(), batch[1]
    scaled = nn.Sequential(nn.Identity(), net)
    scaled[0].forward = lambda x: (x + 2) / 4
    options = {"attack": "mma", "burn_in": 0, "seed": 0, "steps": 3}
    near = PART(eps=0.2, eps_low=0.2, alpha=0.05, **options).perturb(net, images, labels)
    far = PART(eps=0.8, eps_low=0.8, alpha=0.2, clip=(-2.0, 2.0), **options).perturb(scaled, 4 * images - 2, labels)
    assert far.min() >= -2
    assert far.min() < -1
    assert torch.isclose((far + 2) / 4, near, atol=1e-6).float().mean() > 0.99


def test_samples_without_a_gradient_are_counted(batch):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(10)[batch[1]].repeat(len(x) // 16, 1) + 0 * x.mean((1, 2, 3))[:, None]

    part = PART(budget=FixedBudget(EPS), attack="mma", burn_in=0)
    adv = part.perturb(Constant(), *batch)
    assert part.zero_gradients == part.attacked > 0
    assert ((adv - batch[0]).abs() <= EPS + 1e-6).all()


def test_training_with_it_makes_a_model_robust(digits_net, digits):
    images, labels = digits[0][1400:1600], digits[1][1400:1600]

    def robust_error():
        digits_net.eval()
        adv = run(torchattacks.PGD(digits_net, eps=EPS, alpha=EPS / 4, steps=10), images, labels)
        return 1 - accuracy(digits_net, adv, labels)

    before = robust_error()
    torch.manual_seed(0)
    train(digits_net, PART(eps=EPS, eps_low=0.8 * EPS, alpha=EPS / 2, steps=3, attack="mma", burn_in=1), digits, 3)
    after = robust_error()
    print(f"robust error {before:.3f} -> {after:.3f}")
    assert after < before - 0.1
    assert accuracy(digits_net, images, labels) > 0.8


def test_attacks_that_are_not_known():
    with pytest.raises(ValueError, match="^attack='x' is not known; choose from 'pgd', 'mma'$"):
        PART(attack="x")
    assert "steps=10, attack=mma," in repr(PART(attack="mma"))
    assert "steps=10, attack=pgd," in repr(PART())
