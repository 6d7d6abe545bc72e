"""Settings of the attacks and of those that they are made of: changed as one, or not at all, and followed."""

import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify, fresh, pgd
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
    TargetedUniversalPerturbation,
    UniversalPerturbation,
)

from part_plugin import (
    FixedBudget,
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelBudget,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)
from part_plugin.adapters.art.settings import parts_of


def state_of(*attacks):
    """Every attribute of the attacks and of what works inside them."""
    every = [part for attack in attacks for part in parts_of(attack)]
    return [{name: repr(value) for name, value in vars(part).items()} for part in every]


WRAPPED = {
    "FGSM": lambda c: FastGradientMethod(c, eps=EPS),
    "MIM": lambda c: MomentumIterativeMethod(c, eps=EPS, eps_step=EPS / 4, max_iter=2, verbose=False),
    "PGD with momentum": lambda c: pgd(c, decay=0.5),
    "APGD": lambda c: AutoProjectedGradientDescent(c, eps=EPS, eps_step=EPS / 4, max_iter=3, nb_random_init=1),
}


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize(
    "refused",
    [
        {"eps": 8},
        {"eps": -0.1},
        {"eps": "8/255"},
        {"eps": np.full((1, 8, 8), 0.1)},
        {"eps_low": 0.5},
        {"eps": 0.05, "eps_low": 0.1},
        {"norm": 2},
        {"norm": "2"},
        {"batch_size": -1},
        {"batch_size": 5, "budget": FixedBudget(0.5)},
        {"budget": None},
        {"batch_size": 5, "budget": 0.1},
        {"batch_size": 5, "no_such_thing": 1},
        {"no_such_thing": 1, "batch_size": 5},
    ],
    ids=str,
)
def test_what_is_refused_changes_nothing(digits_net, name, refused):
    attack = WRAPPED[name](classify(digits_net))
    pixel = PixelEvasionAttack(attack, eps_low=EPS / 2)
    before = state_of(pixel, attack), vars(pixel.budget).copy()
    with pytest.raises((TypeError, ValueError)):
        pixel.set_params(**refused)
    assert (state_of(pixel, attack), vars(pixel.budget)) == before


def test_the_settings_of_a_wrapped_attack_are_set_through_it(digits_net, arrays):
    classifier = classify(digits_net)
    pixel = PixelEvasionAttack(WRAPPED["PGD with momentum"](classifier))
    pixel.set_params(max_iter=2, eps_step=0.01, eps=0.05, decay=0.9, batch_size=4)
    read = [getattr(part, name) for part in parts_of(pixel.attack) for name in ("max_iter", "eps_step", "eps")]
    assert read == [2, 0.01, 0.05] * 2
    direct = PixelEvasionAttack(pgd(classifier, max_iter=2, eps_step=0.01, eps=0.05, decay=0.9, batch_size=4))
    found = []
    for attack in (pixel, direct):
        np.random.seed(0)
        found.append(attack.generate(*arrays))
    assert np.array_equal(*found)
    assert "decay" in pixel.attack_params


def test_all_settings_can_be_given_back(digits_net):
    classifier = classify(digits_net)
    for attack in (
        PixelProjectedGradientDescent(classifier, eps=EPS),
        PixelProjectedGradientDescent(classifier, budget=FixedBudget(EPS)),
        PixelEvasionAttack(FastGradientMethod(classifier, eps=EPS)),
    ):
        settings = {name: getattr(attack, name) for name in attack.attack_params if hasattr(attack, name)}
        settings.pop("summary_writer", None)
        attack.set_params(**settings)
        assert {name: getattr(attack, name) for name in settings} == settings


def test_another_budget_can_be_set(digits_net, arrays):
    classifier = classify(digits_net)
    budget = FixedBudget(EPS / 4)
    for attack in (
        PixelProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=3, verbose=False),
        PixelEvasionAttack(FastGradientMethod(classifier, eps=EPS)),
    ):
        attack.set_params(budget=budget)
        assert attack.budget is budget
        shift = np.abs(attack.generate(*arrays) - arrays[0])
        assert EPS / 5 < shift.max() <= EPS / 4 + 1e-7


def test_scalars_of_numpy_are_numbers(digits_net, arrays):
    classifier = classify(digits_net)
    settings = {"eps": np.float32(0.25), "eps_step": np.float64(0.125), "max_iter": np.int64(2)}
    found = PixelProjectedGradientDescent(classifier, **settings, num_random_init=np.int64(0), verbose=False)
    plain = PixelProjectedGradientDescent(classifier, eps=0.25, eps_step=0.125, max_iter=2, verbose=False)
    assert np.array_equal(found.generate(*arrays), plain.generate(*arrays))
    found.set_params(eps=np.float32(0.5))
    assert type(found.eps) is float


def test_a_setting_that_is_assigned_is_checked_before_work(digits_net, arrays):
    attack = PixelProjectedGradientDescent(classify(digits_net), eps=EPS)
    attack.norm = 2
    with pytest.raises(ValueError, match=r"^PixelProjectedGradientDescent with norm=2 and eps=0.1 cannot be given"):
        attack.generate(*arrays)


CURRICULA = {
    "set_params": lambda attack, **settings: attack.set_params(**settings),
    "attributes": lambda attack, **settings: [setattr(attack, name, value) for name, value in settings.items()],
}


@pytest.mark.parametrize("way", CURRICULA)
@pytest.mark.parametrize("make", [PARTTrainer, PARTTrainerTRADES, PARTTrainerMART])
@pytest.mark.parametrize("kind", [ProjectedGradientDescent, ProjectedGradientDescentPyTorch])
def test_a_curriculum_of_the_host_s_attack_is_followed(dataset, way, make, kind):
    """From epoch to epoch, as by trainers that are made for the settings of that epoch."""
    x, y = dataset[0][:64], dataset[1][:64]
    steps = [
        {"eps": 0.0},
        {"eps": 0.05, "max_iter": 2},
        {"eps": 0.1, "eps_step": 0.03, "max_iter": 3, "num_random_init": 1},
        {"num_random_init": 2},
    ]
    base = {"eps": 0.2, "eps_step": 0.05, "max_iter": 1, "num_random_init": 0, "batch_size": 64, "verbose": False}
    weights = []
    for anew in (False, True):
        classifier = fresh()
        attack = kind(classifier, **base)
        trainer, settings = make(classifier, attack, burn_in=0), dict(base)
        for change in steps:
            settings |= change
            if anew:
                trainer = make(classifier, kind(classifier, **settings), burn_in=0)
            else:
                CURRICULA[way](attack, **change)
            trainer.fit(x, y, batch_size=32, nb_epochs=1, verbose=False)
        weights.append(classifier.model.state_dict())
    assert all(map(torch.equal, weights[0].values(), weights[1].values()))


@pytest.mark.parametrize("way", CURRICULA)
@pytest.mark.parametrize("name", WRAPPED)
def test_a_curriculum_of_a_wrapped_attack_is_followed(digits_net, arrays, way, name):
    classifier = classify(digits_net)
    attack = WRAPPED[name](classifier)
    pixel = PixelEvasionAttack(attack)
    changes = {"eps": EPS / 2}
    if name != "FGSM":
        changes |= {"eps_step": EPS / 3, "max_iter": 4}
    CURRICULA[way](attack, **changes)
    np.random.seed(0)
    found = pixel.generate(*arrays)
    assert (pixel.eps, pixel.eps_low, pixel.budget.eps) == (EPS / 2, 7 / 16 * EPS, EPS / 2)
    direct = WRAPPED[name](classifier)
    direct.set_params(**changes)
    np.random.seed(0)
    assert np.array_equal(PixelEvasionAttack(direct).generate(*arrays), found)


class Curriculum:
    """A scheduler that changes the attack at the end of every epoch."""

    def __init__(self, attack, values):
        self.attack, self.values = attack, iter(values)

    def step(self):
        self.attack.set_params(eps=next(self.values))


@pytest.mark.parametrize("name", ["FGSM", "PGD"])
def test_changes_between_the_epochs_of_one_fit_are_followed(dataset, name):
    x, y = dataset[0][:64], dataset[1][:64]
    classifier = fresh()
    attack = (WRAPPED | {"PGD": pgd})[name](classifier)
    trainer = PARTTrainer(classifier, attack, 1.0, burn_in=0)
    seen = []
    lifted = trainer.attacks[0]
    radii = lifted.budget.radii_of
    lifted.budget.radii_of = lambda *arguments: seen.append(float(radii(*arguments).max())) or radii(*arguments)
    trainer.fit(x, y, batch_size=32, nb_epochs=3, scheduler=Curriculum(attack, [0.05, 0.2, 0.3]), verbose=False)
    assert seen == pytest.approx([EPS, EPS, 0.05, 0.05, 0.2, 0.2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targeted": True}, NotImplementedError, "ProjectedGradientDescent is targeted; training needs an untargeted"),
        ({"max_iter": 0}, ValueError, "max_iter=0 is not allowed; it must be >= 1"),
        ({"norm": 2}, ValueError, "PixelProjectedGradientDescent with norm=2 and eps=0.1 cannot be given a budget"),
        ({"decay": 0.5}, ValueError, "decay=0.5 is not supported; wrap ART's own attack in PixelEvasionAttack"),
        ({"eps": 0.05}, ValueError, "eps_low=0.09 is larger than eps=0.05; it must be <= eps"),
    ],
)
def test_changes_that_cannot_be_followed_are_refused_before_an_epoch(dataset, change, error, message):
    classifier = fresh()
    attack = pgd(classifier)
    trainer = PARTTrainer(classifier, attack, eps_low=0.09)
    attack.set_params(**change)
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    for _ in range(2):  # and again, not taken as seen
        with pytest.raises(error) as caught:
            trainer.fit(dataset[0][:32], dataset[1][:32], nb_epochs=1, verbose=False)
        assert str(caught.value).startswith(message)
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())


def test_a_random_eps_is_the_attacks_own_affair(digits_net, arrays):
    """It is drawn anew for every batch; the radii stay those of the largest."""
    classifier = classify(digits_net)
    for kind in (ProjectedGradientDescent, ProjectedGradientDescentPyTorch):
        settings = {"eps": 0.25, "eps_step": 0.0625, "max_iter": 2, "random_eps": True, "verbose": False}
        pixel = PixelEvasionAttack(kind(classifier, **settings), eps_low=0.125)
        radii = PixelBudget(0.25, 0.125)(digits_net, torch.from_numpy(arrays[0])).numpy()
        np.random.seed(0)
        for _ in range(4):
            shift = np.abs(pixel.generate(*arrays) - arrays[0])
            assert (shift <= radii + 1e-6).all()
            assert (pixel.eps, pixel.budget.eps) == (0.25, 0.25)


@pytest.mark.parametrize("inner", ["cross_entropy", "both"])
def test_an_attack_of_attacks_sees_the_change_of_variable_in_each(digits_net, arrays, inner, monkeypatch):
    """AutoAttack's APGD has a classifier of its own; with no radius at all no network sees anything but the images."""
    monkeypatch.setitem(sys.modules, "multiprocess", ModuleType("multiprocess"))  # ART imports it, to run in parallel
    classifier = classify(digits_net)
    settings = {"eps": 0.25, "eps_step": 0.125, "max_iter": 2, "nb_random_init": 1, "verbose": False}
    losses = ["cross_entropy"] if inner == "cross_entropy" else ["cross_entropy", "difference_logits_ratio"]
    attacks = [AutoProjectedGradientDescent(classifier, **settings, loss_type=loss) for loss in losses]
    auto = AutoAttack(classifier, eps=0.25, eps_step=0.125, attacks=attacks)
    seen = []
    digits_net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().numpy()))
    PixelEvasionAttack(auto, budget=FixedBudget(0.0)).generate(*arrays)
    rows = {image.tobytes() for image in arrays[0]}
    assert len(seen) > 3
    assert {row.tobytes() for batch in seen for row in batch} <= rows
    assert len(classifier.preprocessing_operations) == 1


@pytest.mark.parametrize("form", [lambda y: y, lambda y: np.eye(10, dtype=np.float32)[y]])
@pytest.mark.parametrize("kind", [UniversalPerturbation, TargetedUniversalPerturbation])
def test_universal_perturbations(digits_net, arrays, form, kind):
    """Labels as indices or one-hot; all images are one batch, of one perturbation; with equal radii it is theirs."""
    classifier = classify(digits_net)
    x, y = arrays[0], (arrays[1] + (kind is TargetedUniversalPerturbation)) % 10
    settings = {"attacker": "fgsm", "attacker_params": {"eps": 0.3, "targeted": True}, "eps": 0.3, "max_iter": 2}
    if kind is UniversalPerturbation:
        settings |= {"attacker_params": {"eps": 0.3}, "batch_size": 4, "verbose": False}
    random.seed(0)
    expected = kind(classifier, **settings).generate(x, np.eye(10)[y])
    random.seed(0)
    found = PixelEvasionAttack(kind(classifier, **settings), eps_low=0.3).generate(x, form(y))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found != x).any()
    lower = PixelEvasionAttack(kind(classifier, **settings), eps_low=0.1)
    radii = PixelBudget(0.3, 0.1)(digits_net, torch.from_numpy(x)).numpy()
    assert (np.abs(lower.generate(x, form(y)) - x) <= radii + 1e-6).all()


def test_a_fit_that_failed_before_it_trained_decides_nothing(dataset, tmp_path):
    """How long a quarter is is that of the first fit that trains."""
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), 1.0, log_path=tmp_path)
    with pytest.raises(IsADirectoryError):
        trainer.fit(dataset[0][:20], dataset[1][:20], nb_epochs=8, verbose=False)
    trainer.log_path = None
    trainer.fit(dataset[0][:20], dataset[1][:20], nb_epochs=4, verbose=False)
    assert trainer.attacks[0].budget.images == 3 * 20
