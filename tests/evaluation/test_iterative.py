"""PGD and the minimum-margin attack against references written by hand, on the very images that the network sees."""

import numpy as np
import pytest
import torch
import torchattacks
from evaluation.conftest import EPS
from torch import nn

from part_plugin import MMA, FixedBudget, PixelBudget, evaluate
from part_plugin.attacks.minimum_margin import MinimumMargin
from part_plugin.evaluation.common import random_start
from part_plugin.evaluation.iterative import IterativeAttack


def last_images(net, call):
    """What a network was last shown: the images that its accuracy was taken from."""
    seen = []
    handle = net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    try:
        result = call()
    finally:
        handle.remove()
    return seen[-1], result


def pgd(net, x, y, radii, alpha, steps, seed):
    adv = random_start(x, radii, seed)
    for _ in range(steps):
        adv.requires_grad_()
        gradient = torch.autograd.grad(nn.functional.cross_entropy(net(adv), y), adv)[0]
        moved = adv.detach() + alpha * gradient.sign()
        adv = torch.minimum(torch.maximum(moved, x - radii), x + radii).clamp(0, 1)
    return adv


@pytest.mark.parametrize(("eps", "seed"), [(EPS, 0), (0.04, 3)])
def test_pgd_takes_steps_of_a_quarter_of_eps_from_a_random_start(narrow_net, held_out, eps, seed):
    x, y = held_out
    radii = torch.full_like(x, eps)
    for steps in (1, 4):
        run = lambda steps=steps: evaluate(narrow_net, x, y, eps, [f"pgd{steps}"], seed=seed, verbose=False)  # noqa: E731
        adv, result = last_images(narrow_net, run)
        expected = pgd(narrow_net, x, y, radii, eps / 4, steps, seed)
        assert torch.allclose(adv, expected, atol=1e-6)
        with torch.no_grad():
            assert np.array_equal(result[f"pgd{steps}"].correct, (narrow_net(expected).argmax(1) == y).numpy())


def test_adaptive_pgd_takes_the_same_steps_in_a_budget_of_its_own(narrow_net, held_out):
    x, y = held_out
    for adaptive in (None, PixelBudget(0.2, 0.05), PixelBudget(0.2, 0.05, target="true")):
        radii = (adaptive or PixelBudget(1.5 * EPS, EPS)).radii(narrow_net, x, y)
        assert len(radii.unique()) == 2
        run = lambda a=adaptive: evaluate(narrow_net, x, y, EPS, ["adaptive_pgd4", "pgd1"], adaptive=a, verbose=False)  # noqa: E731
        seen = []
        handle = narrow_net.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0].detach()))
        result = run()
        handle.remove()
        expected = pgd(narrow_net, x, y, radii, EPS / 4, 4, 0)
        assert any(len(images) == 64 and torch.allclose(images, expected, atol=1e-6) for images in seen)
        with torch.no_grad():
            flags = (narrow_net(expected).argmax(1) == y).numpy()
        assert np.array_equal(result["adaptive_pgd4"].correct, flags)


def test_mma_is_the_minimum_margin_attack(narrow_net, held_out):
    x, y = held_out
    radii = torch.full_like(x, EPS)
    start = random_start(x, radii, 2)
    expected = MinimumMargin(narrow_net, x, y, radii, EPS / 4, start, targets=3).advance(6)
    run = lambda: evaluate(narrow_net, x, y, EPS, ["mma6"], seed=2, verbose=False)  # noqa: E731
    adv, result = last_images(narrow_net, run)
    assert torch.equal(adv, expected)
    with torch.no_grad():
        assert np.array_equal(result["mma6"].correct, (narrow_net(expected).argmax(1) == y).numpy())


def test_natural_and_pgd_agree_with_torchattacks(digits_net, digits):
    x, y = digits[0][1400:], digits[1][1400:]

    def accuracy(images):
        with torch.no_grad():
            return float((digits_net(images).argmax(1) == y).float().mean())

    result = evaluate(digits_net, x, y, eps=0.05, attacks=("natural", "pgd20"), verbose=False)
    assert result["natural"].accuracy == pytest.approx(accuracy(x))
    torch.manual_seed(0)
    adv = torchattacks.PGD(digits_net, eps=0.05, alpha=0.05 / 4, steps=20)(x, y)
    assert result["pgd20"].accuracy == pytest.approx(accuracy(adv), abs=0.02)
    assert 0.1 < result["pgd20"].accuracy < result["natural"].accuracy - 0.1


def test_steps_share_a_run(narrow_net, held_out):
    """Several numbers of steps in one run are those of as many runs, in whatever order they are asked for."""
    names = [f"{kind}{steps}" for kind in ("pgd", "mma", "adaptive_pgd", "adaptive_mma") for steps in (5, 9, 2)]
    together = evaluate(narrow_net, *held_out, EPS, names, verbose=False)
    for name in names:
        alone = evaluate(narrow_net, *held_out, EPS, [name], verbose=False)[name]
        assert np.array_equal(together[name].correct, alone.correct), name
    assert [result.name for result in together.results] == names
    for kind in ("pgd", "mma", "adaptive_pgd", "adaptive_mma"):
        assert together[f"{kind}9"].seconds > together[f"{kind}5"].seconds > together[f"{kind}2"].seconds > 0
    calls = []
    handle = narrow_net.register_forward_hook(lambda *inputs: calls.append(1))
    evaluate(narrow_net, *held_out, EPS, ["pgd9", "pgd2", "pgd5"], verbose=False)
    handle.remove()
    replicated, examined, radii_and_parts, gradients, judged = 1, 3, 1, 9, 3
    assert len(calls) <= replicated + examined + radii_and_parts + gradients + judged


def test_the_adaptive_attack_has_the_larger_budget(narrow_net, held_out):
    result = evaluate(narrow_net, *held_out, EPS, ["pgd20", "adaptive_pgd20", "mma", "adaptive_mma"], verbose=False)
    assert result["adaptive_pgd20"].accuracy < result["pgd20"].accuracy
    assert result["adaptive_mma"].accuracy <= result["adaptive_pgd20"].accuracy
    assert (result["adaptive_pgd20"].eps, result["adaptive_pgd20"].eps_low) == (pytest.approx(0.15), EPS)
    assert not result.is_headline(result["adaptive_pgd20"])
    given = PixelBudget(0.3, 0.2)
    wider = evaluate(narrow_net, *held_out, EPS, ["adaptive_pgd20"], adaptive=given, verbose=False)["adaptive_pgd20"]
    assert (wider.eps, wider.eps_low) == (0.3, 0.2)
    assert wider.accuracy < result["adaptive_pgd20"].accuracy


def test_mma_agrees_with_the_torchattacks_class(narrow_net, held_out):
    x, y = held_out
    torch.manual_seed(0)
    adv = MMA(narrow_net, eps=EPS, alpha=EPS / 4, steps=20)(x, y)
    with torch.no_grad():
        accuracy = float((narrow_net(adv).argmax(1) == y).float().mean())
    assert evaluate(narrow_net, x, y, EPS, ["mma"], verbose=False)["mma"].accuracy == pytest.approx(accuracy, abs=0.04)


def test_maps_without_signal_are_told(narrow_net, held_out, tmp_path):
    """Their images get the larger radius everywhere, which makes the attack another one."""
    budget = PixelBudget(1.5 * EPS, EPS)
    missing = int((budget.radii(narrow_net, held_out[0]).amin((1, 2, 3)) > 1.4 * EPS).sum())
    assert 0 < missing < 64
    warning = f"{missing} of 64 maps had no signal, so that all pixels of their images may move by 0.15"
    for _ in range(2):  # the second time from what is kept
        options = {"batch_size": 25, "state": tmp_path / "state.json", "verbose": False}
        result = evaluate(narrow_net, *held_out, EPS, ["adaptive_pgd1", "adaptive_pgd2", "pgd1"], **options)
        assert [row.warnings for row in result.results] == [[warning], [warning], []]
    clear = torch.stack([image for image in held_out[0] if budget.radii(narrow_net, image[None]).min() < 1.4 * EPS])
    labels = torch.zeros(len(clear))
    assert evaluate(narrow_net, clear, labels, EPS, ["adaptive_pgd1"], verbose=False).results[0].warnings == []


def test_it_says_what_runs():
    attack = IterativeAttack({"pgd9": 9, "pgd2": 2}, False, FixedBudget(EPS), EPS / 4, 0)
    assert attack.names == ("pgd2", "pgd9")
    assert (attack.eps, attack.eps_low) == (EPS, EPS)
    assert attack.settings == (
        "cross-entropy, FixedBudget(eps=0.1), alpha=0.025, random start, last of the steps [2, 9]"
    )
    margin = IterativeAttack({"mma": 20}, True, PixelBudget(0.2, 0.1), 0.05, 0)
    assert (margin.eps, margin.eps_low) == (0.2, 0.1)
    assert margin.settings.startswith("margin to 3 targets, PixelBudget(eps=0.2, eps_low=0.1, cam=gradcam, ")
    assert margin.settings.endswith(", alpha=0.05, random start, last of the steps [20]")
    assert margin.key == f"('mma',)/{margin.settings}"


def test_eps_zero_changes_nothing(narrow_net, held_out):
    result = evaluate(narrow_net, *held_out, eps=0, attacks=("natural", "pgd3"), verbose=False)
    assert np.array_equal(result["pgd3"].correct, result["natural"].correct)
    assert result["pgd3"].accuracy == result["natural"].accuracy
