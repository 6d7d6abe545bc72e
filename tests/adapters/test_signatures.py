"""A positional call means the same after the swap: the host's arguments first, in its order, with its defaults."""

import inspect

import pytest
import torchattacks
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import ProjectedGradientDescent, ProjectedGradientDescentPyTorch
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerTRADESPyTorch

from part_plugin import (
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelAttack,
    PixelEvasionAttack,
    PixelMMA,
    PixelPGD,
    PixelProjectedGradientDescent,
    PixelTPGD,
)

KEYWORD_ONLY, VAR_KEYWORD = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD
OURS = {  # defaults where the host has none, or another one
    (PARTTrainerTRADES.__init__, "beta"): 6.0,
    (PARTTrainerMART.__init__, "beta"): 6.0,
    (PixelPGD.forward, "labels"): None,  # without labels the prediction is attacked
    (PixelMMA.__init__, "steps"): 20,  # the paper's; torchattacks has no MMA, its PGD is the nearest
}

PAIRS = [
    (PixelPGD.__init__, torchattacks.PGD.__init__),
    (PixelPGD.forward, torchattacks.PGD.forward),
    (PixelPGD.__call__, torchattacks.PGD.__call__),
    (PixelTPGD.__init__, torchattacks.TPGD.__init__),
    (PixelTPGD.forward, torchattacks.TPGD.forward),
    (PixelMMA.__init__, torchattacks.PGD.__init__),
    (PixelProjectedGradientDescent.__init__, ProjectedGradientDescentPyTorch.__init__),
    (PixelProjectedGradientDescent.__init__, ProjectedGradientDescent.__init__),
    (PixelProjectedGradientDescent.generate, ProjectedGradientDescentPyTorch.generate),
    (PixelEvasionAttack.generate, EvasionAttack.generate),
    (PixelEvasionAttack.set_params, EvasionAttack.set_params),
    (PARTTrainer.__init__, AdversarialTrainer.__init__),
    (PARTTrainer.fit, AdversarialTrainer.fit),
    (PARTTrainer.fit_generator, AdversarialTrainer.fit_generator),
    (PARTTrainer.predict, AdversarialTrainer.predict),
    *(
        (getattr(trainer, name), getattr(AdversarialTrainerTRADESPyTorch, name))
        for trainer in (PARTTrainerTRADES, PARTTrainerMART)
        for name in ("__init__", "fit", "fit_generator", "predict")
    ),
]


@pytest.mark.parametrize(("ours", "host"), PAIRS, ids=lambda function: function.__qualname__)
def test_the_hosts_arguments_come_first_and_ours_by_keyword(ours, host):
    """Keywords that a host passes on to nobody knows where are named one by one here."""
    theirs = [p for p in inspect.signature(host).parameters.values() if p.kind is not VAR_KEYWORD]
    found = list(inspect.signature(ours).parameters.values())
    first, rest = found[: len(theirs)], found[len(theirs) :]
    assert [p.name for p in first] == [p.name for p in theirs]
    assert [p.kind for p in first] == [p.kind for p in theirs]
    assert {p.name: p.default for p in first} == {p.name: OURS.get((ours, p.name), p.default) for p in theirs}
    by_position = [p.name for p in rest if p.kind not in (KEYWORD_ONLY, VAR_KEYWORD)]
    assert by_position == (["targets"] if ours is PixelMMA.__init__ else [])


@pytest.mark.parametrize("wrapper", [PixelAttack, PixelEvasionAttack])
def test_a_wrapper_takes_the_attack_and_ours_by_keyword(wrapper):
    attack, *rest = inspect.signature(wrapper).parameters.values()
    assert attack.name == "attack"
    ours = ["eps_low", "budget", "clip"] if wrapper is PixelEvasionAttack else ["eps_low", "budget"]
    assert [(p.name, p.kind) for p in rest] == [*((name, KEYWORD_ONLY) for name in ours), ("options", VAR_KEYWORD)]
