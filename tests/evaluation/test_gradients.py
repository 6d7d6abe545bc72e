"""The five checks tell a network that hides its gradients from one that does not."""

import numpy as np
import pytest
import torch
import torchattacks
from conftest import assert_untouched, snapshot
from torch import nn

from part_plugin.evaluation import GradientChecks, evaluate, gradient_checks
from part_plugin.evaluation.gradients import _fools_more

EPS = 0.1


@pytest.fixture
def held_out(digits):
    return digits[0][1400:1500], digits[1][1400:1500]


class Quantised(nn.Module):
    """A network behind an input of few levels, which has no gradient anywhere."""

    def __init__(self, net, levels):
        super().__init__()
        self.net = net
        self.levels = levels

    def forward(self, x):
        return self.net((x * self.levels).round() / self.levels)


class Saturated(nn.Module):
    """A network whose logits are so large that cross-entropy has no gradient left."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return 1e4 * self.net(x)


def test_an_honest_network_passes(robust_net, held_out):
    checks = gradient_checks(robust_net, *held_out, EPS, samples=20, verbose=False)
    assert checks.passed, str(checks)
    assert [check.passed for check in checks.checks] == [True] * 5
    assert checks.verdict == "no sign of obfuscated gradients"
    assert checks.zero_gradients == 0


@pytest.mark.parametrize("levels", [4, 16])
def test_a_quantiser_is_found_out(robust_net, digits, levels):
    net = Quantised(robust_net, levels)
    checks = gradient_checks(net, digits[0][1400:1700], digits[1][1400:1700], EPS, samples=20, verbose=False)
    assert not checks.passed
    assert checks.zero_gradients == 1
    failed = [number for number, check in enumerate(checks.checks, 1) if not check.passed]
    assert {2, 3} <= set(failed)
    assert checks.verdict.startswith("obfuscated gradients: check 2 and 3")
    assert "FAIL" in str(checks)
    assert "| FAIL |" in checks.markdown()


def test_saturated_logits_are_found_out(digits_net, held_out):
    checks = gradient_checks(Saturated(digits_net), *held_out, EPS, samples=5, verbose=False)
    assert not checks.passed
    assert checks.zero_gradients > 0.5


def test_the_numbers_are_those_of_attacks(robust_net, held_out):
    """One step of size eps is FGSM; the white-box accuracy is that of `evaluate`; the surrogate's is a transfer."""
    x, y = held_out
    surrogate = torch.nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        surrogate[1].weight.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    checks = gradient_checks(robust_net, x, y, EPS, surrogate=surrogate, samples=3, verbose=False).checks
    fgsm = (robust_net(torchattacks.FGSM(robust_net, eps=EPS)(x, y)).argmax(1) == y).float().mean().item()
    pgd = evaluate(robust_net, x, y, EPS, ["pgd20"], verbose=False)["pgd20"].accuracy
    assert checks[0].measured == f"accuracy {fgsm:.2%} after 1 step, {pgd:.2%} after 20"
    assert checks[1].measured.endswith(f"on examples of the given surrogate, {pgd:.2%} on its own")
    assert checks[2].measured == "accuracy 0.00% at eps = 1"
    assert checks[3].measured == f"0 of {round(pgd * len(x))} fooled by 3 points each"
    larger = [evaluate(robust_net, x, y, k * EPS, ["pgd20"], verbose=False)["pgd20"].accuracy for k in (2, 3, 4)]
    assert checks[4].measured.startswith(f"accuracy {', '.join(f'{a:.2%}' for a in (pgd, *larger))} at eps = ")


@pytest.mark.parametrize(
    ("better", "worse", "more"),
    [(0, 0, False), (4, 0, False), (5, 0, True), (9, 2, True), (8, 2, False), (0, 9, False)],
)
def test_better_means_by_more_than_chance(better, worse, more):
    """A one-sided sign test: 5 of 5 has p = 1/32, 9 of 11 has p = 0.033, 8 of 10 has p = 0.055."""
    one = np.r_[np.zeros(better, bool), np.ones(worse, bool), np.ones(5, bool)]
    other = np.r_[np.ones(better, bool), np.zeros(worse, bool), np.ones(5, bool)]
    assert _fools_more(one, other) is more


def test_the_same_again_and_nothing_left_behind(lived_in, held_out):
    before, state = snapshot(lived_in), torch.random.get_rng_state()
    first, second = (gradient_checks(lived_in, *held_out, EPS, samples=2, verbose=False) for _ in range(2))
    assert first == second
    assert GradientChecks.from_dict(first.to_dict()) == first
    assert_untouched(lived_in, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps=0 is not allowed; it must be > 0"),
        ({"steps": 0}, "steps=0 is not allowed; it must be >= 1"),
        ({"samples": 0}, "samples=0 is not allowed"),
        ({"batch_size": 0}, "batch_size=0 is not allowed"),
    ],
)
def test_wrong_arguments(robust_net, held_out, options, message):
    with pytest.raises(ValueError, match=message):
        gradient_checks(robust_net, *held_out, **options, verbose=False)
