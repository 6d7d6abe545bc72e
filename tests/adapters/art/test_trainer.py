import json

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
)
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerTRADESPyTorch, Trainer
from conftest import SmallNet
from test_art import classify
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import (
    FixedBudget,
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelProjectedGradientDescent,
    evaluate,
)

EPS = 0.1
TRAINERS = (PARTTrainer, PARTTrainerTRADES, PARTTrainerMART)


@pytest.fixture(scope="module")
def arrays(digits):
    return digits[0].numpy(), digits[1].numpy()


def fresh(seed=0, **options):
    torch.manual_seed(seed)
    np.random.seed(seed)
    return classify(SmallNet(), **options)


def pgd(classifier, **options):
    settings = {
        "eps": EPS,
        "eps_step": EPS / 4,
        "max_iter": 5,
        "num_random_init": 1,
        "batch_size": 128,
        "verbose": False,
    }
    return ProjectedGradientDescent(classifier, **(settings | options))


@pytest.mark.parametrize("make", TRAINERS)
def test_training_in_one_changed_line(arrays, make):
    x, y = arrays
    classifier = fresh()
    trainer = make(classifier, pgd(classifier))
    assert isinstance(trainer, Trainer)
    trainer.fit(x[:1400], y[:1400], nb_epochs=6, verbose=False, validation_data=(x[1400:], y[1400:]))
    epochs = trainer.history
    assert [record["epoch"] for record in epochs] == list(range(6))
    assert epochs[-1]["loss"] < 0.8 * epochs[0]["loss"]
    assert epochs[-1]["adv_accuracy"] > epochs[0]["adv_accuracy"]
    assert epochs[-1]["val_natural"] > 0.7
    assert epochs[-1]["val_natural"] > epochs[-1]["val_pgd10"] > 0.3
    assert ("natural_accuracy" in epochs[0]) == (make is not PARTTrainer)
    assert np.mean(trainer.predict(x[1400:]).argmax(1) == y[1400:]) == pytest.approx(epochs[-1]["val_natural"])

    adv = pgd(classifier).generate(x[:50], y[:50])  # ART's attacks go on working on the classifier
    assert np.abs(adv - x[:50]).max() > EPS / 2
    assert classifier.get_activations(x[:2], 0, batch_size=2).shape[0] == 2


def test_validation_accuracy_is_that_on_raw_images(arrays):
    """ART's TRADES trainer normalises its validation images twice; here they are normalised once."""
    x, y = arrays
    classifier = fresh(preprocessing=(0.3, 0.4))
    trainer = PARTTrainer(classifier, pgd(classifier))
    trainer.fit(x[:700], y[:700], nb_epochs=2, verbose=False, validation_data=(x[1400:], y[1400:]))
    by_hand = np.mean(classifier.predict(x[1400:]).argmax(1) == y[1400:])
    assert trainer.history[-1]["val_natural"] == pytest.approx(by_hand)
    normalised = nn.Sequential(nn.Identity(), classifier.model)
    normalised[0].forward = lambda images: (images - 0.3) / 0.4
    robust = evaluate(normalised, x[1400:], y[1400:], eps=EPS, attacks=["pgd10"], verbose=False)
    assert trainer.history[-1]["val_pgd10"] == pytest.approx(robust["pgd10"].accuracy, abs=0.02)


def losses_of_art(x, y, seeds, epochs):
    """Training accuracy of ART's own trainer under its own attack, epoch by epoch."""
    curves = []
    for seed in seeds:
        classifier = fresh(seed)
        trainer, curve = AdversarialTrainer(classifier, pgd(classifier), ratio=1.0), []
        plain_fit = classifier.fit

        def fit(x_batch, y_batch, *args, classifier=classifier, plain_fit=plain_fit, curve=curve, **kwargs):
            classifier.model.train()
            with torch.no_grad():
                logits = classifier.model(torch.from_numpy(x_batch))
            curve.append(float(nn.functional.cross_entropy(logits, torch.from_numpy(y_batch))))
            plain_fit(x_batch, y_batch, *args, **kwargs)

        classifier.fit = fit
        trainer.fit(x, y, nb_epochs=epochs)
        curves.append(np.array(curve).reshape(epochs, -1).mean(1))
    return np.array(curves)


def test_equal_radii_match_the_loss_curve_of_arts_adversarial_trainer(arrays):
    x, y = arrays[0][:640], arrays[1][:640]
    seeds, epochs = range(6), 5
    theirs = losses_of_art(x, y, seeds, epochs)
    ours = []
    for seed in seeds:
        classifier = fresh(seed)
        trainer = PARTTrainer(classifier, pgd(classifier), eps_low=EPS, burn_in=0)
        trainer.fit(x, y, nb_epochs=epochs, verbose=False)
        ours.append([record["loss"] for record in trainer.history])
    ours = np.array(ours)
    assert (theirs[:, 0] > 1.2 * theirs[:, -1]).all()
    noise = np.sqrt((theirs.var(0, ddof=1) + ours.var(0, ddof=1)) / len(seeds))
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * noise + 0.02).all()


def test_equal_radii_match_arts_trades_trainer(arrays):
    """Same objective; the attack differs (cross-entropy there, KL here as in the paper), so only roughly."""
    x, y = arrays[0][:640], arrays[1][:640]
    robust = []
    for make in (
        lambda c: AdversarialTrainerTRADESPyTorch(c, pgd(c), beta=6.0),
        lambda c: PARTTrainerTRADES(c, pgd(c), beta=6.0, eps_low=EPS, burn_in=0),
    ):
        classifier = fresh()
        make(classifier).fit(x, y, None, 128, 12)
        robust.append(
            evaluate(classifier.model, *(a[1400:] for a in arrays), eps=EPS, attacks=["pgd10"], verbose=False)
        )
    accuracies = [result["pgd10"].accuracy for result in robust]
    assert min(accuracies) > 0.4
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.12)


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y[:, None], lambda y: np.eye(10)[y]])
def test_label_formats_give_the_same_weights(arrays, form):
    x, y = arrays[0][:256], arrays[1][:256]
    weights = []
    for labels in (y, form(y)):
        classifier = fresh()
        PARTTrainerMART(classifier, pgd(classifier)).fit(x, labels, nb_epochs=2, verbose=False)
        weights.append(classifier.model.head.weight)
    assert torch.equal(*weights)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(arrays):
    weights = []
    for seed in (0, 0, 1):
        classifier = fresh()
        np.random.seed(seed)
        torch.manual_seed(seed)
        PARTTrainer(classifier, pgd(classifier)).fit(arrays[0][:256], arrays[1][:256], nb_epochs=2, verbose=False)
        weights.append(classifier.model.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("scale", [255.0, 2.0])
def test_other_ranges_behind_a_preprocessing_train_alike(arrays, scale):
    x, y = arrays[0][:256], arrays[1][:256]
    losses = []
    for factor in (1.0, scale):
        classifier = fresh(clip_values=(0, factor), preprocessing=(0.0, factor))
        attack = pgd(classifier, eps=factor * EPS, eps_step=factor * EPS / 4)
        trainer = PARTTrainer(classifier, attack, burn_in=0)
        trainer.fit(factor * x, y, nb_epochs=2, verbose=False)
        losses.append(trainer.history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_attacks_are_rotated_and_anything_l_inf_serves(arrays):
    x, y = arrays[0][:512], arrays[1][:512]
    classifier = fresh()
    attacks = [
        pgd(classifier),
        pgd(classifier, num_random_init=2),
        FastGradientMethod(classifier, eps=EPS, batch_size=128),
        MomentumIterativeMethod(classifier, eps=EPS, eps_step=EPS / 4, max_iter=3, batch_size=128, verbose=False),
        AutoProjectedGradientDescent(
            classifier, eps=EPS, eps_step=EPS / 4, max_iter=3, nb_random_init=1, batch_size=128, verbose=False
        ),
    ]
    trainer = PARTTrainer(classifier, attacks, burn_in=1)
    used = []
    for attack in trainer.attacks:
        attack.craft = lambda *args, attack=attack, craft=attack.craft: (used.append(attack), craft(*args))[1]
    trainer.fit(x, y, batch_size=100, nb_epochs=4, verbose=False)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
    assert sum(attack.budget.images for attack in trainer.attacks) == 3 * 512
    expected = (trainer.attacks * 5)[:24]  # 24 batches; a plain PGD of one start runs inside PART itself
    assert used == [attack for attack in expected if attack is not trainer.attacks[0]]


def test_a_budget_that_the_attack_brings_is_kept(arrays):
    classifier = fresh()
    attack = PixelProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=2, eps_low=EPS / 3)
    trainer = PARTTrainer(classifier, attack)
    trainer.fit(arrays[0][:128], arrays[1][:128], nb_epochs=1, verbose=False)
    assert trainer.attacks[0] is attack
    assert attack.budget.images == 128


def test_ratio(arrays):
    """With half the batch attacked the loss lies between that on natural images and that on attacked ones."""
    losses = {}
    for ratio in (0.01, 0.5, 1.0):
        classifier = fresh()
        trainer = PARTTrainer(classifier, pgd(classifier), ratio=ratio, burn_in=0)
        trainer.fit(arrays[0][:512], arrays[1][:512], nb_epochs=3, verbose=False)
        losses[ratio] = trainer.history[-1]["loss"]
    assert losses[0.01] < losses[0.5] < losses[1.0]


def test_masks_are_renewed_when_asked(arrays):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=1, mask_every=3)
    trainer.fit(arrays[0][:128], arrays[1][:128], nb_epochs=5, verbose=False)
    assert trainer.attacks[0].budget.images == 2 * 128


def test_a_quarter_of_the_epochs_is_burn_in(arrays):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1))
    trainer.fit(arrays[0][:64], arrays[1][:64], nb_epochs=8, verbose=False)
    assert trainer.attacks[0].budget.images == 6 * 64


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.ConstantLR(o, 1.0), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [0]
        ),
    ],
)
def test_schedulers_step_every_epoch(arrays, make):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1))
    trainer.fit(arrays[0][:64], arrays[1][:64], nb_epochs=3, verbose=False, scheduler=make(classifier.optimizer))
    assert [record["lr"] for record in trainer.history] == pytest.approx([0.05, 0.025, 0.0125])


def test_a_scheduler_that_wants_the_loss_gets_it(arrays):
    classifier = fresh()
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(classifier.optimizer)
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1))
    trainer.fit(arrays[0][:64], arrays[1][:64], nb_epochs=3, verbose=False, scheduler=scheduler)
    assert scheduler.best == pytest.approx(min(record["loss"] for record in trainer.history))


@pytest.mark.parametrize("make", TRAINERS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_generators(arrays, make, kind):
    x, y = arrays[0][:256], arrays[1][:256]
    if kind == "numpy":
        generator = NumpyDataGenerator(x, y, batch_size=64, shuffle=True)
    else:
        loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=64, shuffle=True)
        generator = PyTorchDataGenerator(loader, size=256, batch_size=64)
    classifier = fresh()
    trainer = make(classifier, pgd(classifier))
    trainer.fit_generator(generator, nb_epochs=6, verbose=False)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
    assert len(trainer.history) == 6


def test_progress_is_shown(arrays, capsys):
    classifier = fresh()
    x, y = arrays[0][:128], arrays[1][:128]
    PARTTrainer(classifier, pgd(classifier), burn_in=1).fit(x, y, nb_epochs=2, validation_data=(x, y))
    shown = capsys.readouterr().err
    for word in ("PART burn-in epoch 1", "PART epoch 2", "loss=", "adv=", "val_natural=", "val_pgd10="):
        assert word in shown, word


def test_maps_without_signal_are_reported(arrays, caplog):
    classifier = fresh()
    nn.init.zeros_(classifier.model.head.weight)
    classifier.model.head.weight.requires_grad_(False)
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    trainer.fit(arrays[0][:64], arrays[1][:64], nb_epochs=1, verbose=False)
    assert trainer.history[0]["no_signal"] == 1
    assert "100% of the maps had no signal; those samples kept the full eps" in caplog.text


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        ({"trainer": {"eps_low": 0.5}}, ValueError, "eps_low=0.5 is larger than eps=0.1"),
        ({"trainer": {"ratio": 0}}, ValueError, "ratio=0 is not allowed; it must be > 0 and <= 1"),
        ({"trainer": {"ratio": 1.5}}, ValueError, "ratio=1.5 is not allowed"),
        ({"trainer": {"burn_in": -1}}, ValueError, "burn_in=-1 is not allowed; it must be >= 0"),
        ({"attacks": lambda c: []}, ValueError, "attacks is empty; at least one attack is needed"),
        ({"attacks": lambda c: ["PGD"]}, TypeError, "attacks holds a str; ART EvasionAttack instances are needed"),
        ({"attacks": lambda c: pgd(c, norm=2)}, ValueError, "ProjectedGradientDescent with norm=2 and eps=0.1"),
        ({"attacks": lambda c: pgd(c, targeted=True)}, NotImplementedError, "ProjectedGradientDescent is targeted"),
        ({"attacks": lambda c: pgd(fresh())}, ValueError, "attacks another model than the classifier that is trained"),
        (
            {"classifier": {"optimizer": False}},
            ValueError,
            "optimizer=None leaves nothing to train with; give one to PyTorchClassifier",
        ),
        ({"fit": {"nb_epochs": 0}}, ValueError, "nb_epochs=0 is not allowed; it must be >= 1"),
        ({"fit": {"batch_size": 0}}, ValueError, "batch_size=0 is not allowed"),
        ({"fit": {"scheduler": "cosine"}}, TypeError, "scheduler is a str; an object with a method step is needed"),
        ({"trainer": {"burn_in": 3}}, ValueError, "burn_in=3 leaves none of nb_epochs=2 for PART; it must be smaller"),
        ({"x": 300.0}, ValueError, r"images span \[0, 300\]; allowed is \[0, 1\]"),
        ({"y": 10}, ValueError, "labels contain class 19; allowed is 0 to 9"),
        ({"fit": {"validation_data": (np.ones((2, 1, 8, 8)), [3])}}, ValueError, r"labels have shape \(1,\)"),
        ({"fit": {"drop_last": True, "batch_size": 999}}, ValueError, "number of batches=0 is not allowed"),
    ],
)
def test_wrong_input_is_refused_before_any_weight_changes(arrays, setup, error, message):
    classifier = fresh(**setup.get("classifier", {}))
    weights = classifier.model.head.weight.detach().clone()
    x, y = arrays[0][:64] * setup.get("x", 1), arrays[1][:64] + setup.get("y", 0)

    def train():
        trainer = PARTTrainer(classifier, setup.get("attacks", pgd)(classifier), **setup.get("trainer", {}))
        trainer.fit(x, y, **({"nb_epochs": 2, "verbose": False} | setup.get("fit", {})))

    with pytest.raises(error, match=message):
        train()
    assert torch.equal(classifier.model.head.weight, weights)


def test_generators_know_their_size_and_not_their_samples(arrays):
    classifier = fresh()
    generator = NumpyDataGenerator(arrays[0][:64], arrays[1][:64], batch_size=32)
    with pytest.raises(ValueError, match="mask_every=5 needs to know which sample is which; use fit"):
        PARTTrainer(classifier, pgd(classifier), mask_every=5).fit_generator(generator)
    generator._size = None
    with pytest.raises(ValueError, match="generator.size=None is not allowed"):
        PARTTrainer(classifier, pgd(classifier)).fit_generator(generator)


def test_a_fixed_budget_trains_too(arrays):
    classifier = fresh()
    budget = FixedBudget.quadrant("top-left", eps=EPS, eps_low=EPS / 2, size=(8, 8))
    trainer = PARTTrainer(classifier, pgd(classifier), budget=budget)
    trainer.fit(arrays[0][:256], arrays[1][:256], nb_epochs=4, verbose=False)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]


def test_every_epoch_leaves_a_line_of_json(arrays, tmp_path):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier), log_path=tmp_path / "log.jsonl")
    trainer.fit(arrays[0][:64], arrays[1][:64], nb_epochs=3, verbose=False)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == trainer.history
    assert set(lines[0]) >= {"epoch", "lr", "loss", "adv_accuracy", "no_signal", "zero_gradient", "seconds"}


def test_a_model_that_masks_its_gradient_is_reported(arrays, caplog):
    class Quantised(SmallNet):
        def forward(self, x):
            return super().forward((8 * x).round() / 8)

    torch.manual_seed(0)
    classifier = classify(Quantised())
    trainer = PARTTrainer(classifier, pgd(classifier), burn_in=0)
    trainer.fit(arrays[0][:64], arrays[1][:64], nb_epochs=1, verbose=False)
    assert trainer.history[0]["zero_gradient"] == 1
    assert "100% of the samples gave the attack no gradient" in caplog.text


def test_validation_does_not_change_the_training(arrays):
    weights = []
    for validation in (None, (arrays[0][1700:], arrays[1][1700:])):
        classifier = fresh()
        trainer = PARTTrainer(classifier, pgd(classifier))
        trainer.fit(arrays[0][:128], arrays[1][:128], nb_epochs=2, verbose=False, validation_data=validation)
        assert trainer.history[-1]["zero_gradient"] == 0
        weights.append(classifier.model.head.weight)
    assert torch.equal(*weights)
