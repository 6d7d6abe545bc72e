"""Recipes of ART: its own trainers with an attack that has a budget per pixel, and ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent, ProjectedGradientDescentPyTorch
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerOAATPyTorch,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from common import EPS, EPS_LOW, check_within, digits, network, seeded
from methods import check_same, weights_of
from rows import Row
from torch import Tensor, nn

from part_plugin import (
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelBudget,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)

Made = Callable[[PyTorchClassifier, EvasionAttack], Any]
"""Classifier and attack -> trainer."""
PGD: dict[str, Any] = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 3, "num_random_init": 1, "verbose": False}
PIXEL = "PixelProjectedGradientDescent for ProjectedGradientDescent"


class Whole(nn.Module):
    """The network as a module that is no `nn.Sequential`, which ART's TRADES trainer does not take.

    Args:
        inside: the network.
    """

    def __init__(self, inside: nn.Sequential):
        super().__init__()
        self.features, self.head = inside[:-1], inside[-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.features(images))


def rows() -> list[Row]:
    """Return the rows."""
    theirs: dict[str, Made] = {
        "AdversarialTrainer": AdversarialTrainer,
        "AdversarialTrainerTRADESPyTorch": partial(AdversarialTrainerTRADESPyTorch, beta=6.0),
        "AdversarialTrainerAWPPyTorch": partial(awp, "PGD"),
        "AdversarialTrainerAWPPyTorch, mode TRADES": partial(awp, "TRADES"),
        "AdversarialTrainerOAATPyTorch": oaat,
    }
    found = [Row(f"ART {name}", partial(of_art, make), PIXEL) for name, make in theirs.items()]
    wrapped = "PixelEvasionAttack(FastGradientMethod(...))"
    return [
        *found,
        Row("ART AdversarialTrainer, a wrapped attack", partial(of_art, AdversarialTrainer, fgsm, pixel_fgsm), wrapped),
        Row("ART AdversarialTrainerMadryPGD", partial(of_art, madry), f"trainer.trainer.attacks = [{PIXEL[:29]}(...)]"),
        Row("PARTTrainer", partial(ours, PARTTrainer, AdversarialTrainer, pgd)),
        Row("PARTTrainerTRADES", partial(ours, PARTTrainerTRADES, AdversarialTrainerTRADESPyTorch, fgsm)),
        Row("PARTTrainerMART", partial(ours, PARTTrainerMART, None, pgd)),
        Row("PARTTrainer, ratio=1, mask_every, validation", with_options),
    ]


def classifier() -> PyTorchClassifier:
    """Return ART's classifier around the network."""
    model = Whole(network())
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (3, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))


def pgd(around: PyTorchClassifier) -> EvasionAttack:
    """Return ART's PGD."""
    return ProjectedGradientDescentPyTorch(around, **PGD)


def pixel_pgd(around: PyTorchClassifier, eps_low: float | None) -> EvasionAttack:
    """Return ours."""
    return PixelProjectedGradientDescent(around, eps_low=eps_low, **PGD, **({} if eps_low else {"rule": _everywhere}))


def _everywhere(maps: Tensor) -> Tensor:
    return torch.ones_like(maps, dtype=torch.bool)


def fgsm(around: PyTorchClassifier) -> EvasionAttack:
    """Return ART's FGSM."""
    return FastGradientMethod(around, eps=EPS)


def pixel_fgsm(around: PyTorchClassifier, eps_low: float | None) -> EvasionAttack:
    """Return that, wrapped."""
    return PixelEvasionAttack(fgsm(around), eps_low=EPS if eps_low is None else eps_low)


def awp(mode: str, around: PyTorchClassifier, attack: EvasionAttack) -> Any:
    """Return ART's trainer that perturbs weights as well; `mode` is its own."""
    return AdversarialTrainerAWPPyTorch(around, classifier(), attack, mode, gamma=0.01, beta=6.0, warmup=0)


def madry(around: PyTorchClassifier, attack: EvasionAttack) -> Any:
    """Return ART's trainer that makes its attack itself, with another."""
    trainer = AdversarialTrainerMadryPGD(around, nb_epochs=2, batch_size=16, eps=EPS, eps_step=EPS / 4)
    trainer.trainer.attacks = [attack]
    return trainer


def oaat(around: PyTorchClassifier, attack: EvasionAttack) -> Any:
    """Return ART's trainer for large perturbations, before it makes batches by itself."""
    settings = {
        "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "lr_schedule": "cosine", "oaat_warmup": 0, "norm": np.inf,
        "awp_gamma": 0.01, "awp_warmup": 1, "beta": 6.0, "beta_final": 3.0, "max_iter": 3, "epsilon": EPS,
        "i_epsilon": EPS / 4, "alternate_iter_eps": 0.9 * EPS, "mixup_epsilon": EPS, "mixup_alpha": 0.2, "alpha": 1.0,
        "lpips_weight": 1.0, "i_lpips_weight": 0.0, "layer_names_activation": ["features"], "swa_save_epoch": 9,
        "list_swa_epoch": [9], "list_swa_tau": [0.9], "load_swa_model_tau": 0.9, "models_path": tempfile.gettempdir(),
    }  # fmt: skip
    return AdversarialTrainerOAATPyTorch(around, classifier(), classifier(), [classifier()], attack, settings)


def of_art(
    make: Made,
    plain: Callable[[PyTorchClassifier], EvasionAttack] = pgd,
    pixel: Callable[[PyTorchClassifier, float | None], EvasionAttack] = pixel_pgd,
) -> str:
    """Check a trainer of ART with an attack that has a budget per pixel, and at equal radii against the plain one.

    Args:
        make: makes the trainer.
        plain: makes ART's attack.
        pixel: makes that with a budget per pixel; without an eps_low, one of equal radii.
    """
    lowered = trained(make, lambda around: _checked(pixel(around, EPS_LOW if make is not oaat else EPS / 64)))
    equal, expected = trained(make, lambda around: pixel(around, None)), trained(make, plain)
    assert not torch.equal(lowered, equal), "the lower radius makes no difference"
    return check_same(equal, expected, 1e-2)


def _checked(attack: EvasionAttack) -> EvasionAttack:
    """Return an attack whose every batch is checked against the radii of the network of that moment."""
    generate, seen = attack.generate, set()

    def checked(x: Any, y: Any = None, **options: Any) -> Any:
        images = torch.from_numpy(x)
        radii = attack.budget(attack.estimator.model, images)
        adv = generate(x, y=y, **options)
        check_within(images, torch.from_numpy(adv), radii)
        seen.update(radii.unique().tolist())
        assert len(seen) > 1, "there is one radius"
        return adv

    attack.generate = checked
    return attack


def trained(make: Any, attack: Callable[[PyTorchClassifier], EvasionAttack], epochs: int = 2) -> Tensor:
    """Return the weights after a training, if it moved them.

    Args:
        make: makes the trainer of a classifier and an attack.
        attack: makes the attack.
        epochs: how many.
    """
    around = classifier()
    before = weights_of(around.model)
    trainer = make(around, attack(around))
    images, labels = (each[:32].numpy() for each in digits())
    seeded(lambda: trainer.fit(images.copy(), labels, batch_size=16, nb_epochs=epochs))
    after = weights_of(around.model)
    assert after.isfinite().all(), "a weight is not finite"
    assert not torch.equal(before, after), "no weight moved"
    for record in getattr(trainer, "history", []):
        assert np.isfinite(record["loss"]), "the loss is not finite"
    return after


def ours(make: Any, theirs: Any, attack: Callable[[PyTorchClassifier], EvasionAttack]) -> str:
    """Check a trainer here, and at equal radii against that of ART, if there is one.

    Args:
        make: class of the trainer.
        theirs: ART's.
        attack: makes the attack.
    """
    lowered, equal = (trained(partial(make, eps_low=eps_low, burn_in=0), attack) for eps_low in (EPS_LOW, EPS))
    assert not torch.equal(lowered, equal), "the lower radius makes no difference"
    if theirs is None:
        return "ART has no such trainer"
    beta = {} if theirs is AdversarialTrainer else {"beta": 6.0}
    return check_same(equal, trained(partial(theirs, **beta), attack), 1e-2)


def with_options() -> str:
    """Check remembered masks, validation and a schedule in `PARTTrainer.fit`."""
    around = classifier()
    attack = ProjectedGradientDescent(around, **PGD)
    trainer = PARTTrainer(around, attack, ratio=1.0, eps_low=EPS_LOW, burn_in=1, mask_every=2)
    images, labels = (each[:32].numpy() for each in digits())
    schedule = torch.optim.lr_scheduler.StepLR(around.optimizer, 1)
    trainer.fit(images, labels, 16, 3, validation_data=(images, labels), scheduler=schedule)
    assert [record["epoch"] for record in trainer.history] == [0, 1, 2], "the history lacks epochs"
    assert all(np.isfinite(record["val_pgd10"]) for record in trainer.history), "an accuracy is not finite"
    budget = trainer.attacks[0].budget
    assert isinstance(budget, PixelBudget)
    assert budget.images == len(images), f"{budget.images} maps were made of {len(images)} images"
    return "each image mapped once in two epochs"
