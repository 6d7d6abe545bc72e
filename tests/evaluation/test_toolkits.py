"""Attacks of torchattacks and ART as entries, on the evaluated network and as transfer attacks."""

import copy
import re

import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from conftest import assert_untouched, snapshot
from evaluation.conftest import EPS
from torch import nn

from part_plugin import MMA, PixelPGD, evaluate
from part_plugin.evaluation.toolkits import ToolkitAttack, toolkit_attack


def classifier(net, clip_values=(0, 1)):
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=clip_values)


def flags(net, x, y):
    with torch.no_grad():
        return (net(x).argmax(1) == y).numpy()


def test_attacks_of_the_toolkits(narrow_net, held_out):
    x, y = held_out
    estimator = classifier(narrow_net)
    entries = [
        "pgd7",
        torchattacks.PGD(narrow_net, eps=EPS, alpha=EPS / 4, steps=7),
        torchattacks.PGDL2(narrow_net, eps=1.0),
        ProjectedGradientDescent(estimator, eps=EPS, eps_step=EPS / 4, max_iter=7, num_random_init=1, verbose=False),
        FastGradientMethod(estimator, eps=EPS),
        MMA(narrow_net, eps=EPS, alpha=EPS / 4, steps=20),
        PixelPGD(narrow_net, eps=EPS, eps_low=EPS / 2, alpha=EPS / 4),
        torchattacks.PGD(narrow_net, eps=EPS, alpha=EPS / 4, steps=1),
    ]
    before = snapshot(narrow_net)
    result = evaluate(narrow_net, x, y, EPS, entries, verbose=False)
    assert_untouched(narrow_net, before)
    names = ["pgd7", "PGD", "PGDL2", "ProjectedGradientDescent", "FastGradientMethod", "MMA", "PixelPGD"]
    assert [r.name for r in result.results] == [*names, "PGD 2"]
    assert result.card["attacks"] == [*names, "PGD 2"]
    assert result["PGD"].accuracy == pytest.approx(result["pgd7"].accuracy, abs=0.04)
    assert result["ProjectedGradientDescent"].accuracy == pytest.approx(result["pgd7"].accuracy, abs=0.04)
    assert result["MMA"].accuracy <= result["pgd7"].accuracy
    headline = {r.name: result.is_headline(r) for r in result.results[:7]}
    assert headline == dict.fromkeys(names, True) | {"PGDL2": False, "PixelPGD": False}
    adv = torchattacks.FGSM(narrow_net, eps=EPS)(x, y)
    assert np.array_equal(result["FastGradientMethod"].correct, flags(narrow_net, adv, y))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adv = entries[5](x, y)
    assert np.array_equal(result["MMA"].correct, flags(narrow_net, adv, y))
    counted = np.logical_and.reduce([r.correct for r in result.results if result.is_headline(r)])
    assert np.array_equal(result["worst case"].correct, counted)


@pytest.mark.parametrize("seed", [0, 4])
def test_an_attack_draws_from_the_seed(narrow_net, held_out, seed):
    """The flags are those of the toolkit itself after torch.manual_seed, batch by batch."""
    x, y = held_out
    attack = torchattacks.PGD(narrow_net, eps=EPS, alpha=EPS / 2, steps=1)
    result = evaluate(narrow_net, x, y, EPS, [attack], batch_size=40, seed=seed, verbose=False)["PGD"]
    with torch.random.fork_rng():
        expected = []
        for rows in (slice(40), slice(40, None)):
            torch.manual_seed(seed)
            expected.append(flags(narrow_net, attack(x[rows], y[rows]), y[rows]))
    assert np.array_equal(result.correct, np.concatenate(expected))


class Scale(nn.Module):
    def __init__(self, low, high):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x):
        return (x - self.low) / (self.high - self.low)


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-1, 1), (-2, 6)])
def test_an_art_attack_in_other_units(narrow_net, held_out, low, high):
    x, y = held_out
    net = nn.Sequential(Scale(low, high), narrow_net)
    attack = FastGradientMethod(classifier(net, (low, high)), eps=(high - low) * EPS)
    result = evaluate(narrow_net, x, y, EPS, [attack], verbose=False)["FastGradientMethod"]
    adv = torchattacks.FGSM(narrow_net, eps=EPS)(x, y)
    assert result.eps == pytest.approx(EPS)
    assert result.eps_low == result.eps
    assert np.array_equal(result.correct, flags(narrow_net, adv, y))


def test_an_attack_on_another_network_is_a_transfer(narrow_net, other_net, held_out):
    x, y = held_out
    other_net.train()
    other_net[1].weight.grad = torch.ones_like(other_net[1].weight)
    before = snapshot(other_net)
    attack = torchattacks.FGSM(other_net, eps=EPS)
    result = evaluate(narrow_net, x, y, EPS, ["pgd10", attack], verbose=False)
    assert_untouched(other_net, before)
    assert result["FGSM"].accuracy > result["pgd10"].accuracy
    assert np.array_equal(result["FGSM"].correct, flags(narrow_net, attack(x, y), y))
    art = FastGradientMethod(classifier(other_net), eps=EPS)
    other_net.train()
    transfer = evaluate(narrow_net, x, y, EPS, ["pgd1", art], verbose=False)["FastGradientMethod"]
    assert np.array_equal(transfer.correct, result["FGSM"].correct)


def test_a_surrogate_is_attacked_in_eval_mode_and_left_as_it_was(narrow_net, other_net, held_out):
    """Its dropout and batch norm would make other examples, and ART leaves it in eval mode."""
    x, y = held_out
    art = FastGradientMethod(classifier(narrow_net), eps=EPS)
    attacks = [torchattacks.FGSM(narrow_net, eps=EPS), art]
    expected = flags(other_net, torchattacks.FGSM(narrow_net, eps=EPS)(x, y), y)
    narrow_net.train()
    narrow_net[1].eval()
    narrow_net[0].weight.requires_grad_(False)
    narrow_net[0].bias.grad = torch.ones_like(narrow_net[0].bias)
    before = snapshot(narrow_net)
    result = evaluate(other_net, x, y, EPS, attacks, verbose=False)
    assert_untouched(narrow_net, before)
    for row in result.results:
        assert np.array_equal(row.correct, expected), row.name


def test_images_in_double_precision(narrow_net, held_out):
    """ART gives single precision back."""
    x, y = held_out[0].double(), held_out[1]
    expected = flags(narrow_net, torchattacks.FGSM(narrow_net, eps=EPS)(x.float(), y), y)
    art = FastGradientMethod(classifier(copy.deepcopy(narrow_net)), eps=EPS)
    result = evaluate(narrow_net.double(), x, y, EPS, [art], verbose=False)["FastGradientMethod"]
    assert np.array_equal(result.correct, expected)


def test_a_state_knows_which_surrogate_the_examples_came_from(narrow_net, other_net, held_out, tmp_path):
    """The same attack with the same settings on another network is another attack."""
    x, y = held_out

    def transfer(net, state=None):
        attack = torchattacks.FGSM(net, eps=EPS)
        return evaluate(narrow_net, x, y, EPS, ["natural", attack], state=state, verbose=False)["FGSM"].correct

    state = tmp_path / "state.json"
    nets = [narrow_net, other_net, nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))]
    expected = [transfer(net) for net in nets]
    for _ in range(2):
        for net, flags in zip(nets, expected, strict=True):
            assert np.array_equal(transfer(net, state), flags)
    assert len({flags.tobytes() for flags in expected}) == 3


def test_an_attack_that_leaves_its_radius_is_an_error(narrow_net, held_out):
    attack = torchattacks.FGSM(narrow_net, eps=2 * EPS)
    entry = toolkit_attack(attack, 0)
    attack.forward = lambda images, labels: images + 0.3
    with pytest.raises(
        RuntimeError,
        match=re.escape(
            "attacks holds FGSM, which moved a pixel by 0.3, further than its eps=0.2; its images must be in [0, 1] "
            "(set_normalization_used, clip_values)"
        ),
    ):
        entry.run(narrow_net, *held_out)
    attack.forward = lambda images, labels: (images + 0.2).clamp(max=1)
    assert entry.run(narrow_net, *held_out)["FGSM"][0].shape == (64,)


def test_radii(narrow_net):
    estimator = classifier(narrow_net)

    def radii(attack):
        entry = toolkit_attack(attack, 0)
        return entry.eps, entry.eps_low

    assert radii(PixelPGD(narrow_net, eps=EPS, eps_low=EPS / 4)) == (EPS, EPS / 4)
    assert radii(torchattacks.PGD(narrow_net, eps=EPS)) == (EPS, EPS)
    assert radii(torchattacks.PGDL2(narrow_net, eps=1.0)) == (None, None)
    for norm, expected in ((np.inf, EPS), ("inf", EPS), (1, None), (2, None)):
        attack = FastGradientMethod(estimator, norm=norm, eps=EPS)
        assert radii(attack) == (expected, expected), norm
    arrays = FastGradientMethod(estimator, eps=np.full((1, 8, 8), EPS), eps_step=np.full((1, 8, 8), EPS))
    assert radii(arrays) == (None, None)
    assert radii(torchattacks.CW(narrow_net)) == (None, None)
    assert radii(torchattacks.AutoAttack(narrow_net, norm="L2", eps=EPS, n_classes=10)) == (None, None)


def test_it_says_what_runs(narrow_net, other_net):
    attack = torchattacks.PGD(narrow_net, eps=EPS)
    entry = toolkit_attack(attack, 7)
    assert (entry.name, entry.names, entry.seed, entry.settings) == ("PGD", ("PGD",), 7, str(attack))
    assert entry.network is narrow_net
    assert not entry.of_art
    fgm = toolkit_attack(FastGradientMethod(classifier(other_net), eps=EPS), 7)
    assert (fgm.name, fgm.seed, fgm.of_art) == ("FastGradientMethod", 7, True)
    assert fgm.settings.startswith("FastGradientMethod(norm=inf, eps=0.1, eps_step=0.1, targeted=False, ")
    assert fgm.network(torch.zeros(1, 1, 8, 8)).shape == (1, 10) or fgm.network is other_net


def test_what_is_no_attack(narrow_net):
    assert toolkit_attack(3, 0) is None
    assert toolkit_attack(narrow_net, 0) is None
    assert toolkit_attack(nn.Sequential(), 0) is None
    with pytest.raises(
        ValueError,
        match=r"^attacks holds FastGradientMethod, whose estimator has no clip_values; give it some$",
    ):
        toolkit_attack(FastGradientMethod(classifier(narrow_net, None), eps=EPS), 0)
    assert isinstance(toolkit_attack(torchattacks.FGSM(narrow_net), 0), ToolkitAttack)
