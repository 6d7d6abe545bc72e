"""Rows of every evasion attack of ART that takes images and a PyTorchClassifier, alone and in a trainer."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import art.attacks.evasion as evasion
import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.defences.trainer import AdversarialTrainer
from art.estimators.classification import PyTorchClassifier
from common import EPS, EPS_LOW, batch, lived_in, network, seeded, training_inputs, untouched
from rows import Row
from torch import Tensor, nn
from torchattacks_rows import check_by_hand, check_moved, named, same_radii

from part_plugin import FixedBudget, PARTTrainer, PixelEvasionAttack, PixelProjectedGradientDescent

Settings = dict[str, Any]

ELSEWHERE = (
    # object detectors and trackers
    "AdversarialTexturePyTorch", "DPatch", "OverloadPyTorch", "RobustDPatch", "SNAL",
    # speech, tables, programs, videos
    "CarliniWagnerASR", "ImperceptibleASR", "ImperceptibleASRPyTorch", "LowProFool", "MalwareGDTensorFlow",
    "OverTheAirFlickeringPyTorch",
    # TensorFlow, decision trees, Gaussian processes
    "AdversarialPatchTensorFlowV2", "FeatureAdversariesTensorFlowV2", "ProjectedGradientDescentTensorFlowV2",
    "DecisionTreeAttack", "HighConfidenceLowUncertainty",
    # channels last
    "LaserAttack",
    # cannot be made: without kornia, or at all (ART 1.20)
    "CompositeAdversarialAttackPyTorch", "AdversarialPatchNumpy",
)  # fmt: skip
"""Attacks of something else than a PyTorchClassifier of images."""

_STEPS = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 4, "verbose": False}
_RESTARTS = _STEPS | {"nb_random_init": 1}
LINF: dict[str, Settings] = {
    "AutoAttack": {"eps": EPS, "eps_step": EPS / 4},
    "AutoConjugateGradient": _RESTARTS,
    "AutoProjectedGradientDescent": _RESTARTS,
    "BasicIterativeMethod": _STEPS,
    "FastGradientMethod": {"eps": EPS},
    "MomentumIterativeMethod": _STEPS,
    "ProjectedGradientDescent": _STEPS | {"num_random_init": 1},
    "ProjectedGradientDescentNumpy": _STEPS | {"num_random_init": 1},
    "ProjectedGradientDescentPyTorch": _STEPS | {"num_random_init": 1},
    "RescalingAutoConjugateGradient": _RESTARTS,
    "SquareAttack": {"eps": EPS, "max_iter": 40, "verbose": False},
    "TargetedUniversalPerturbation": {"eps": EPS, "max_iter": 2, "attacker_params": {"eps": EPS, "targeted": True}},
    "UniversalPerturbation": {
        "eps": EPS,
        "max_iter": 2,
        "attacker": "fgsm",
        "attacker_params": {"eps": EPS},
        "verbose": False,
    },
}
"""Attacks with a radius, and what makes them short."""

MADE: dict[str, Settings] = {
    "FeatureAdversariesNumpy": {"delta": EPS, "layer": 1},
    "FeatureAdversariesPyTorch": {"delta": EPS, "step_size": EPS / 4},
    "GRAPHITEBlackbox": {"noise_size": (8, 8), "net_size": (8, 8)},
    "GRAPHITEWhiteboxPyTorch": {"net_size": (8, 8)},
    "AdversarialPatch": {"patch_shape": (3, 4, 4)},
    "AdversarialPatchPyTorch": {"patch_shape": (3, 4, 4)},
}
"""What attacks of other kinds cannot be made without."""

VARIANTS: dict[str, tuple[str, Settings]] = {
    f"{name}, norm={norm}": (name, {"norm": norm})
    for name, norms in {
        "AutoAttack": (2,), "AutoConjugateGradient": (2,), "AutoProjectedGradientDescent": (1, 2),
        "FastGradientMethod": (1, 2), "MomentumIterativeMethod": (2,), "ProjectedGradientDescent": (1, 2),
        "RescalingAutoConjugateGradient": (2,), "SquareAttack": (2,), "UniversalPerturbation": (2,),
    }.items()
    for norm in norms
} | {
    "AutoProjectedGradientDescent, loss_type='difference_logits_ratio'": (
        "AutoProjectedGradientDescent", {"loss_type": "difference_logits_ratio"},
    ),
    "FastGradientMethod, targeted": ("FastGradientMethod", {"targeted": True}),
    "FastGradientMethod, minimal": ("FastGradientMethod", {"minimal": True, "eps_step": EPS / 4}),
    "FastGradientMethod, num_random_init=2": ("FastGradientMethod", {"num_random_init": 2}),
    "ProjectedGradientDescent, decay": ("ProjectedGradientDescent", {"decay": 0.9}),
    "ProjectedGradientDescent, random_eps": ("ProjectedGradientDescent", {"random_eps": True}),
    "ProjectedGradientDescent, targeted": ("ProjectedGradientDescent", {"targeted": True}),
    "HopSkipJump, norm=inf": ("HopSkipJump", {"norm": np.inf}),
    "GeoDA, norm=inf": ("GeoDA", {"norm": np.inf}),
}  # fmt: skip


def rows() -> list[Row]:
    """Return the rows in the order of the alphabet."""
    attacks = {name for name, value in vars(evasion).items() if isinstance(value, type)} - set(ELSEWHERE)
    names = [name for name in attacks if issubclass(getattr(evasion, name), EvasionAttack)]
    to_train = [name for name in LINF if name != "TargetedUniversalPerturbation"]
    found = [Row(f"ART {name}", partial(wrapped, name)) for name in names]
    found += [Row(f"ART {title}", partial(wrapped, name, **given)) for title, (name, given) in VARIANTS.items()]
    found += [Row(f"ART {name} in PARTTrainer", partial(trained, name)) for name in to_train]
    found += [
        Row("PixelProjectedGradientDescent", ours),
        Row("PixelProjectedGradientDescent, targeted", partial(ours, targeted=True)),
    ]
    return sorted(found, key=lambda row: row.name)


def classifier(model: nn.Module) -> PyTorchClassifier:
    """Return ART's classifier around a network.

    Args:
        model: of digits in three channels.
    """
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))


def made(name: str, around: PyTorchClassifier, settings: Settings) -> EvasionAttack:
    """Return an attack.

    Args:
        name: of its class.
        around: classifier that it attacks.
        settings: besides those that make it short.
    """
    if name == "FrameSaliencyAttack":
        settings = settings | {"attacker": evasion.FastGradientMethod(around, eps=EPS)}
    if name == "AutoAttack":
        sys.modules.setdefault("multiprocess", multiprocessing)  # ART imports that fork of it, to run in parallel
        inside = ("AutoProjectedGradientDescent", "SquareAttack")
        settings = settings | {"attacks": [made(each, around, {}) for each in inside]}
    return getattr(evasion, name)(around, **LINF.get(name, MADE.get(name, {})) | settings)


def wrapped(name: str, **settings: Any) -> str:
    """Check `PixelEvasionAttack` around an attack, and return how equal it is to the attack at equal radii.

    Args:
        name: of the attack.
        **settings: of the attack, besides those that make it short.
    """
    targeted = settings.get("targeted", name.startswith("Targeted"))

    def plain(around: PyTorchClassifier) -> EvasionAttack:
        return made(name, around, settings)

    def pixel(around: PyTorchClassifier, eps_low: float) -> EvasionAttack:
        return named(name, lambda: PixelEvasionAttack(plain(around), eps_low=eps_low))

    note = check(plain, pixel, targeted, 0.01 if "random_eps" in settings else 0.5)
    check_by_hand(
        lambda model, *batch: generated(plain(classifier(model)), *batch, targeted),
        lambda model, *batch: generated(pixel(classifier(model), EPS_LOW), *batch, targeted),
    )
    return note + ("; the package multiprocess is needed, as by ART" if name == "AutoAttack" else "")


def ours(targeted: bool = False) -> str:
    """Check `PixelProjectedGradientDescent` against ART's.

    Args:
        targeted: towards the class after the true one.
    """
    settings = LINF["ProjectedGradientDescent"] | {"targeted": targeted}
    return check(
        lambda around: evasion.ProjectedGradientDescent(around, **settings),
        lambda around, eps_low: PixelProjectedGradientDescent(around, eps_low=eps_low, **settings),
        targeted,
    )


def generated(attack: EvasionAttack, images: Tensor, labels: Tensor, targeted: bool) -> Tensor:
    """Return adversarial images, as a tensor.

    Args:
        attack: what makes them.
        images: (N, C, H, W).
        labels: true classes.
        targeted: towards the class after the true one.
    """
    y = np.eye(10, dtype=np.float32)[(labels.numpy() + targeted) % 10]
    return torch.from_numpy(attack.generate(images.numpy().copy(), y))


def check(
    plain: Callable[[PyTorchClassifier], EvasionAttack],
    pixel: Callable[[PyTorchClassifier, float], EvasionAttack],
    targeted: bool,
    far: float = 0.5,
) -> str:
    """Check an attack with a budget per pixel against the plain one, and return how equal they are at equal radii.

    Args:
        plain: makes ART's attack.
        pixel: makes that with a budget per pixel, of this eps_low.
        targeted: towards the class after the true one.
        far: see `check_moved`.
    """
    model, (images, labels) = lived_in(), batch()
    around = classifier(model)
    model.train()[1].eval()  # the classifier has put it in eval mode
    attack, same = pixel(around, EPS_LOW), pixel(around, EPS)
    expected = seeded(lambda: generated(plain(classifier(network())), images, labels, targeted))
    with untouched(model):
        adv, unchanged = (seeded(partial(generated, each, images, labels, targeted)) for each in (attack, same))
    check_moved(images, adv, far)
    return same_radii(unchanged, expected)


def trained(name: str) -> str:
    """Check a trainer's examples, and at equal radii its weights against those of ART's `AdversarialTrainer`.

    Args:
        name: of the attack.
    """
    model, (images, labels) = network(), batch()
    around = classifier(model)
    trainer = PARTTrainer(around, made(name, around, {}), 1.0, eps_low=EPS_LOW, burn_in=0)
    with training_inputs(model) as seen:
        trainer.fit(images.numpy(), labels.numpy(), batch_size=len(images), nb_epochs=1)
    assert len(seen) == 1, f"{len(seen)} batches were trained on"
    rows = torch.cdist(images.flatten(1), seen[0].flatten(1), p=torch.inf).argmin(1)  # the trainer shuffles
    check_moved(images, seen[0][rows])
    assert np.isfinite(trainer.history[0]["loss"]), "the loss is not finite"
    ours, theirs = (
        _weights(name, lambda around, attack: PARTTrainer(around, attack, 1.0, budget=FixedBudget(EPS), burn_in=0)),
        _weights(name, lambda around, attack: AdversarialTrainer(around, attack, 1.0)),
    )
    assert (ours - theirs).abs().max() < 1e-4, "equal radii do not give the weights of ART's AdversarialTrainer"
    return "equal radii: the weights of AdversarialTrainer"


def _weights(name: str, make: Callable[[PyTorchClassifier, EvasionAttack], Any]) -> torch.Tensor:
    model, (images, labels) = network(), batch()
    around = classifier(model)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer = make(around, made(name, around, {}))
    seeded(lambda: trainer.fit(images.numpy(), labels.numpy(), batch_size=len(images), nb_epochs=2))
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    assert not torch.equal(before, after), "no weight moved"
    return after
