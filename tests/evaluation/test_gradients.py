"""The five checks tell a network that hides its gradients from one that does not."""

import numpy as np
import pytest
import torch
import torchattacks
from conftest import assert_untouched, snapshot
from evaluation.conftest import EPS
from torch import nn

from part_plugin.evaluation import GradientChecks, evaluate, gradient_checks, gradients, surrogate
from part_plugin.evaluation.chance import fools_more, is_better
from part_plugin.evaluation.common import random_start
from part_plugin.radii import uniform


@pytest.fixture(scope="module")
def samples(digits):
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


class Constant(nn.Module):
    """A network that always gives the same answer."""

    def __init__(self, answer):
        super().__init__()
        self.bias = nn.Parameter(nn.functional.one_hot(torch.tensor(answer), 10).float())

    def forward(self, x):
        return self.bias + 0 * x.flatten(1).sum(1, keepdim=True)


class Noisy(nn.Module):
    """A network whose answers, or those of another that it adds them to, are drawn anew in every call."""

    def __init__(self, net=None):
        super().__init__()
        self.net = net

    def forward(self, x):
        noise = torch.randn(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)
        return noise if self.net is None else self.net(x) + 0.1 * noise


def failed(checks):
    return [number for number, check in enumerate(checks.checks, 1) if not check.passed]


def test_an_honest_network_passes(narrow_net, other_net, samples):
    checks = gradient_checks(narrow_net, *samples, EPS, surrogate=other_net, samples=20, verbose=False)
    assert checks.passed, str(checks)
    assert [check.passed for check in checks.checks] == [True] * 5
    assert checks.verdict == "no sign of obfuscated gradients"
    assert checks.zero_gradients == 0


@pytest.mark.parametrize("levels", [4, 16])
def test_a_quantiser_is_found_out(narrow_net, samples, levels):
    """The same network without its quantiser makes better examples."""
    net = Quantised(narrow_net, levels)
    checks = gradient_checks(net, *samples, EPS, surrogate=narrow_net, samples=20, verbose=False)
    assert not checks.passed
    assert checks.zero_gradients == 1
    assert {2, 3} <= set(failed(checks))
    assert checks.verdict.startswith("obfuscated gradients: check 2 and 3")
    assert all(check.remedy in str(checks) and check.remedy for check in checks.checks if not check.passed)
    assert "FAIL" in str(checks)
    assert "| FAIL |" in checks.markdown()


def test_saturated_logits_are_found_out(digits_net, other_net, samples):
    checks = gradient_checks(Saturated(digits_net), *samples, EPS, surrogate=other_net, samples=5, verbose=False)
    assert not checks.passed
    assert checks.zero_gradients > 0.5


@pytest.mark.parametrize("answer", [1, 11])
def test_a_constant_answer_is_too_weak_to_judge(samples, answer):
    """Also one that is right about nothing, and so passes all checks."""
    x, y = samples
    y = (y == 1) * 2 + 1 if answer == 11 else y  # classes 1 and 3, never 2
    net = Constant(2 if answer == 11 else 1)
    checks = gradient_checks(
        net, x, y, EPS, surrogate=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), samples=2, verbose=False
    )
    share = float(np.bincount(y).max()) / len(y)
    right = float((y == net.bias.argmax()).float().mean())
    where = "natural images" if answer == 11 else "images under PGD"
    assert checks.too_weak == f"it is right about {right:.2%} of 100 {where}, a constant answer about {share:.2%}"
    assert checks.verdict.startswith("too weak to judge: it is right about ")
    assert not checks.passed
    assert (failed(checks) == []) is (answer == 11)


def test_a_hardly_robust_network_is_not_accused(digits_net, other_net, samples):
    """Although its gradients are poor: its logits have a limit, but PGD leaves it few samples all the same."""
    net = nn.Sequential(digits_net, nn.Hardtanh(-3, 3))
    checks = gradient_checks(net, *samples, 3 * EPS, surrogate=other_net, samples=2, verbose=False)
    honest = gradient_checks(digits_net, *samples, 3 * EPS, surrogate=other_net, samples=2, verbose=False)
    assert honest.verdict == "no sign of obfuscated gradients"
    assert honest.passed
    assert failed(checks) != []
    assert checks.verdict.startswith("too weak to judge: ")


@pytest.mark.parametrize("alone", [True, False])
def test_answers_that_change_are_found_out(narrow_net, other_net, samples, alone):
    torch.manual_seed(0)
    net = Noisy() if alone else Noisy(narrow_net)
    checks = gradient_checks(net, *samples, EPS, surrogate=other_net, samples=2, verbose=False)
    assert checks.changes
    assert checks.verdict.startswith("obfuscated gradients: the logits change from call to call")
    assert not checks.passed


def test_a_weak_network_without_any_gradient_is_judged(samples):
    """Its answers differ, so it is no constant, whatever its accuracy is worth."""
    torch.manual_seed(0)
    net = Quantised(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 4)
    checks = gradient_checks(net, *samples, EPS, surrogate=net.net, samples=2, verbose=False)
    assert checks.zero_gradients == 1
    assert checks.too_weak == ""
    assert 3 in failed(checks)
    assert checks.verdict.startswith("obfuscated gradients: ")


@pytest.mark.parametrize(
    ("right", "share", "better"), [(8, 0.2, True), (7, 0.2, False), (0, 0.2, False), (20, 1, False)]
)
def test_better_than_a_constant_means_by_more_than_chance(right, share, better):
    """A one-sided binomial test: 8 of 20 at 0.2 has p = 0.032, 7 of 20 has p = 0.087."""
    assert is_better(np.arange(20) < right, share) is better


def test_samples_that_are_fooled_or_stuck_are_left_alone(narrow_net, samples):
    """After a quarter of the steps; the others go on to where PGD in one go would take them."""
    x, y = samples[0][:40], samples[1][:40]
    seen = []

    class Watched(nn.Module):
        def forward(self, images):
            if images.requires_grad:
                seen.append(len(images))
            return narrow_net(images)

    measurements = gradients._Measurements(Watched(), x, y, EPS, 8, 40, 0)
    few = gradients._Measurements(narrow_net, x, y, EPS, 2, 40, 0)
    early = few.flags(lambda a, b: few.ascend(narrow_net, a, b, EPS, EPS / 4, 2, random_start(a, uniform(a, EPS), 0)))
    late = measurements.flags(measurements.pgd(narrow_net, EPS))
    found = measurements.survivors(EPS)
    assert found.tolist() == (early & late).tolist()
    assert sorted(set(seen)) == sorted({40, int(early.sum())})
    assert seen.count(40) == 2
    assert 0 < early.sum() < 40
    seen.clear()
    stuck = gradients._Measurements(Quantised(Watched(), 4), x, y, EPS, 8, 40, 0)
    assert np.array_equal(stuck.survivors(EPS), stuck.flags(stuck.pgd(stuck.model, EPS)))
    assert seen == [40, 40] + 8 * [40]


def test_a_surrogate_is_trained_where_none_is_given(narrow_net, samples):
    """A quantiser is found out by it too."""
    net = Quantised(narrow_net, 4)
    x, y = samples[0][:48], samples[1][:48]
    checks = gradient_checks(net, x, y, 2 * EPS, samples=2, batch_size=10, seed=3, verbose=False)
    assert {2, 3} <= set(failed(checks))


def test_a_trained_surrogate_is_that_of_the_seed(narrow_net, samples, monkeypatch):
    """The same checks as with it given, twice the same, and nothing is left behind."""
    monkeypatch.setattr(surrogate, "UPDATES", 5)
    narrow_net.train()
    before, state = snapshot(narrow_net), torch.random.get_rng_state()
    options = {"samples": 2, "batch_size": 10, "seed": 3, "verbose": False}
    x, y = samples[0][:24], samples[1][:24]
    checks, repeated = (gradient_checks(narrow_net, x, y, EPS, **options) for _ in range(2))
    assert_untouched(narrow_net, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert checks == repeated
    network = surrogate.train_surrogate(narrow_net.eval(), x, EPS, 10, 3)
    given = gradient_checks(narrow_net, x, y, EPS, surrogate=network, **options)
    given.checks[1].measured = given.checks[1].measured.replace("the given", "a trained")
    assert checks == given


def test_the_numbers_are_those_of_attacks(narrow_net, samples):
    """One step of size eps is FGSM; the white-box accuracy is that of `evaluate`; the surrogate's is a transfer."""
    x, y = samples
    surrogate = torch.nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        surrogate[1].weight.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(0)))
    checks = gradient_checks(narrow_net, x, y, EPS, surrogate=surrogate, samples=3, verbose=False).checks
    fgsm = (narrow_net(torchattacks.FGSM(narrow_net, eps=EPS)(x, y)).argmax(1) == y).float().mean().item()
    pgd = evaluate(narrow_net, x, y, EPS, ["pgd20"], verbose=False)["pgd20"].accuracy
    assert checks[0].measured == f"accuracy {fgsm:.2%} after 1 step, {pgd:.2%} after 20"
    assert checks[1].measured.endswith(f"on examples of the given surrogate, {pgd:.2%} on its own")
    assert checks[2].measured == "accuracy 0.00% at eps = 1"
    assert checks[3].measured == f"0 of {round(pgd * len(x))} fooled by 3 points each"
    larger = [evaluate(narrow_net, x, y, k * EPS, ["pgd20"], verbose=False)["pgd20"].accuracy for k in (2, 3, 4)]
    assert checks[4].measured.startswith(f"accuracy {', '.join(f'{a:.2%}' for a in (pgd, *larger))} at eps = ")


@pytest.mark.parametrize(
    ("better", "worse", "more"),
    [(0, 0, False), (4, 0, False), (5, 0, True), (9, 2, True), (8, 2, False), (0, 9, False)],
)
def test_better_means_by_more_than_chance(better, worse, more):
    """A one-sided sign test: 5 of 5 has p = 1/32, 9 of 11 has p = 0.033, 8 of 10 has p = 0.055."""
    one = np.r_[np.zeros(better, bool), np.ones(worse, bool), np.ones(5, bool)]
    other = np.r_[np.ones(better, bool), np.zeros(worse, bool), np.ones(5, bool)]
    assert fools_more(one, other) is more


def test_nothing_is_left_behind(lived_in, other_net, samples):
    other_net.train()
    before, surrogate_before, state = snapshot(lived_in), snapshot(other_net), torch.random.get_rng_state()
    x, y = samples[0].clone().requires_grad_(), samples[1].clone()
    options = {"surrogate": other_net, "samples": 2, "verbose": False}
    first, second = (gradient_checks(lived_in, x, y, EPS, **options) for _ in range(2))
    assert first == second
    assert GradientChecks.from_dict(first.to_dict()) == first
    assert_untouched(lived_in, before)
    assert_untouched(other_net, surrogate_before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(x, samples[0])
    assert x.grad is None


def survivors(*counts, n=20):
    return [np.arange(n) < count for count in counts]


@pytest.mark.parametrize(
    ("curve", "passed"),
    [
        ((10, 8, 4, 0), True),
        ((10, 10, 10, 9), True),
        ((10, 10, 10, 10), False),  # it never fell
        ((10, 5, 12, 0), False),  # a larger radius fools fewer
        ((10, 8, 9, 7), True),  # by no more than chance
        ((0, 0, 0, 0), True),  # there was nothing left to fall
        ((9, 4, 2, 14), False),
    ],
)
def test_success_must_grow_with_eps(curve, passed):
    white_box, *others = survivors(*curve)
    measurements = gradients._Measurements(nn.Flatten(), torch.zeros(20, 1, 1, 1), torch.zeros(20), EPS, 3, 7, 0)
    radii = []
    measurements.survivors = lambda eps: radii.append(eps) or others[len(radii) - 1]
    check = measurements.growth(white_box)
    assert check.passed is passed
    assert radii == pytest.approx([2 * EPS, 3 * EPS, 4 * EPS])
    accuracies = ", ".join(f"{count / 20:.2%}" for count in curve)
    assert check.measured == f"accuracy {accuracies} at eps = 25.5/255, 51/255, 76.5/255, 102/255"


def test_random_points_are_counted_by_hand(samples):
    """A network that is right about a pixel unless it is moved up by more than 0.05: half of a budget of 0.1 fools."""

    class Threshold(nn.Module):
        def forward(self, x):
            up = (x[:, 0, 0, 0] > 0.55).float()
            return torch.stack([1 - up, up], 1)

    x = torch.full((40, 1, 1, 1), 0.5)
    y = torch.tensor([0, 1]).repeat(20)  # of which the network is right about the zeros
    white_box = np.tile([True, False], 20)
    measurements = gradients._Measurements(Threshold(), x, y, 0.1, 3, 7, 5)
    for count in (1, 3, 60):
        generator = torch.Generator().manual_seed(5)
        found = np.zeros(20, bool)
        for _ in range(count):
            noise = torch.empty(20, 1, 1, 1).uniform_(-0.1, 0.1, generator=generator)
            found |= (noise.flatten() > 0.05).numpy()
        check = measurements.random_points(white_box, count)
        assert check.measured == f"{found.sum()} of 20 fooled by {count} points each"
        assert check.passed is (not found.any())
    assert found.all()
    nothing = measurements.random_points(np.zeros(40, bool), 3)
    assert (nothing.measured, nothing.passed) == ("0 of 0 fooled by 3 points each", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps=0 is not allowed; it must be > 0"),
        ({"steps": 0}, "steps=0 is not allowed; it must be >= 1"),
        ({"samples": 0}, "samples=0 is not allowed; it must be >= 1"),
        ({"batch_size": 0}, "batch_size=0 is not allowed; it must be >= 1"),
        ({"seed": -1}, "seed=-1 is not allowed; it must be >= 0"),
    ],
)
def test_wrong_arguments(narrow_net, samples, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        gradient_checks(narrow_net, *samples, **options, verbose=False)


def test_wrong_networks_and_samples(narrow_net, samples):
    with pytest.raises(TypeError, match=r"^model is a str; a torch\.nn\.Module is needed$"):
        gradient_checks("net", *samples, verbose=False)
    with pytest.raises(TypeError, match=r"^surrogate is a int; a torch\.nn\.Module is needed$"):
        gradient_checks(narrow_net, *samples, surrogate=3, verbose=False)
    with pytest.raises(ValueError, match=r"^labels contain class 10; allowed is 0 to 9$"):
        gradient_checks(narrow_net, samples[0], samples[1] + 10 - samples[1].max(), verbose=False)
    with pytest.raises(ValueError, match=r"^images span \[0, 255\]; allowed is \[0, 1\]; divide them by 255$"):
        gradient_checks(narrow_net, 255 * samples[0], samples[1], verbose=False)
