"""What the ART trainers here share."""

import sys

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, Terminal, classify, fresh, pgd
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    MomentumIterativeMethod,
)
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.defences.trainer import Trainer
from conftest import SmallNet
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import (
    PART,
    FixedBudget,
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelProjectedGradientDescent,
)

TRAINERS = (PARTTrainer, PARTTrainerTRADES, PARTTrainerMART)


@pytest.mark.parametrize("make", TRAINERS)
def test_training_in_one_changed_line(dataset, make):
    x, y = dataset
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


class StartsOfNumpy(PART):
    """PART that draws as ART does."""

    def _start(self, x, radii):
        if self.objective.start == "gaussian":
            noise = torch.from_numpy(np.random.normal(0, 0.001, x.shape).astype(np.float32))
            return (x + torch.maximum(torch.minimum(noise, radii), -radii)).clamp(0, 1)
        noise = torch.from_numpy(np.random.uniform(-EPS, EPS, (len(x), 64)).astype(np.float32)).reshape(x.shape)
        return (x + noise * torch.where(radii == radii.max(), 1.0, radii / EPS)).clamp(0, 1)


@pytest.mark.parametrize(
    ("make", "objective"),
    [(lambda *args: PARTTrainer(*args, 1.0), "at"), (PARTTrainerTRADES, "trades"), (PARTTrainerMART, "mart")],
    ids=["at", "trades", "mart"],
)
def test_training_equals_a_loop_of_ones_own(dataset, make, objective):
    """To the bit, weights and records: 8 epochs of which 2 are burn-in, batches of 50, the last of 30."""
    part = StartsOfNumpy(objective, eps=EPS, alpha=EPS / 4, steps=5, burn_in=2)
    x, y = dataset[0][:180], dataset[1][:180]
    classifier = fresh()
    trainer = make(classifier, pgd(classifier))
    trainer.fit(x, y, batch_size=50, nb_epochs=8, verbose=False)

    torch.manual_seed(0)
    np.random.seed(0)
    net = SmallNet()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    order = np.arange(180)
    for epoch in range(8):
        part.set_epoch(epoch)
        part.budget.reset_counts()
        np.random.shuffle(order)
        loss, adv_hits, natural_hits = 0.0, 0, 0
        for rows in torch.from_numpy(order).split(50):
            images, labels = torch.from_numpy(x)[rows], torch.from_numpy(y)[rows]
            net.train()
            chosen = np.arange(len(rows))
            if objective == "at":
                np.random.shuffle(chosen)
            adv = images.clone()
            adv[chosen] = part.perturb(net, images[chosen], labels[chosen])
            outputs = part.training_pass(net, images, adv, labels)
            optimizer.zero_grad()
            outputs.loss.backward()
            optimizer.step()
            loss += outputs.loss.item() * len(rows)
            adv_hits += int((outputs.adv_logits.argmax(1) == labels).sum())
            if outputs.natural_logits is not None:
                natural_hits += int((outputs.natural_logits.argmax(1) == labels).sum())
        record = dict(trainer.history[epoch])
        assert record.pop("seconds") > 0
        by_hand = {"epoch": epoch, "lr": 0.05, "loss": loss / 180, "adv_accuracy": adv_hits / 180}
        if part.objective.needs_natural:
            by_hand["natural_accuracy"] = natural_hits / 180
        by_hand["no_signal"] = part.budget.no_signal / max(part.budget.images, 1)
        assert record == pytest.approx(by_hand | {"zero_gradient": 0.0}, rel=1e-6)
    for name, value in net.state_dict().items():
        assert torch.equal(classifier.model.state_dict()[name], value), name
    assert not classifier.model.training


class Recorder(SmallNet):
    """Remembers the images that it was trained on."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def forward(self, x):
        if self.training:
            self.inputs.append(x.detach().clone())
        return super().forward(x)


@pytest.mark.parametrize("ratio", [0.5, 0.3, 1.0])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_and_who_is_attacked_in_them(dataset, ratio, drop_last):
    """Shuffled and chosen as in ART's trainer, written out; who is not chosen is trained on as it is."""
    x, y = dataset[0][:25], dataset[1][:25]
    classifier = classify(Recorder())
    np.random.seed(0)
    trainer = PARTTrainer(classifier, pgd(classifier, num_random_init=0), ratio, burn_in=0)
    trainer.fit(x, y, 7, 2, drop_last=drop_last, verbose=False)

    np.random.seed(0)
    order, inputs = np.arange(25), iter(classifier.model.inputs)
    for _ in range(2):
        np.random.shuffle(order)
        batches = [order[begin : begin + 7] for begin in range(0, 25, 7)]
        for rows in batches[:-1] if drop_last else batches:
            chosen = np.arange(len(rows))
            if ratio == 1:
                np.random.shuffle(chosen)
            else:
                chosen = np.random.choice(len(rows), int(np.ceil(ratio * len(rows))), replace=False)
            moved = (next(inputs).numpy() != x[rows]).any((1, 2, 3))
            assert set(np.flatnonzero(moved)) == set(chosen)
    assert next(inputs, None) is None


def test_a_generator_s_batches_are_trained_on_as_they_come(dataset):
    x, y = dataset[0][:30], dataset[1][:30]
    classifier = classify(Recorder())
    trainer = PARTTrainer(classifier, pgd(classifier), 1.0, budget=FixedBudget(0.0), burn_in=0)
    trainer.fit_generator(NumpyDataGenerator(x, y, batch_size=8), 2, verbose=False)
    expected = NumpyDataGenerator(x, y, batch_size=8)
    assert len(classifier.model.inputs) == 8
    for found in classifier.model.inputs:
        assert np.array_equal(found.numpy(), expected.get_batch()[0])


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y[:, None], lambda y: np.eye(10)[y]])
def test_label_formats_give_the_same_weights(dataset, form):
    x, y = dataset[0][:256], dataset[1][:256]
    weights = []
    for labels in (y, form(y)):
        classifier = fresh()
        PARTTrainerMART(classifier, pgd(classifier)).fit(x, labels, nb_epochs=2, verbose=False)
        weights.append(classifier.model.head.weight)
    assert torch.equal(*weights)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(dataset):
    weights = []
    for seed in (0, 0, 1):
        classifier = fresh()
        np.random.seed(seed)
        torch.manual_seed(seed)
        PARTTrainer(classifier, pgd(classifier)).fit(dataset[0][:256], dataset[1][:256], nb_epochs=2, verbose=False)
        weights.append(classifier.model.head.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("scale", [255.0, 2.0])
def test_other_ranges_behind_a_preprocessing_train_alike(dataset, scale):
    x, y = dataset[0][:256], dataset[1][:256]
    losses = []
    for factor in (1.0, scale):
        classifier = fresh(clip_values=(0, factor), preprocessing=(0.0, factor))
        attack = pgd(classifier, eps=factor * EPS, eps_step=factor * EPS / 4)
        trainer = PARTTrainer(classifier, attack, burn_in=0)
        trainer.fit(factor * x, y, nb_epochs=2, verbose=False)
        losses.append(trainer.history[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_attacks_are_rotated_and_anything_l_inf_serves(dataset):
    x, y = dataset[0][:512], dataset[1][:512]
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
    trainer = PARTTrainer(classifier, attacks, 1.0, burn_in=1)
    used = []
    for attack in trainer.attacks:
        attack.craft = lambda *args, attack=attack, craft=attack.craft: (used.append(attack), craft(*args))[1]
    trainer.fit(x, y, batch_size=100, nb_epochs=4, verbose=False)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
    assert sum(attack.budget.images for attack in trainer.attacks) == 3 * 512
    expected = (trainer.attacks * 5)[:24]  # 24 batches; a plain PGD of one start runs inside PART itself
    assert used == [attack for attack in expected if attack is not trainer.attacks[0]]


def test_a_budget_that_the_attack_brings_is_kept(dataset):
    classifier = fresh()
    attack = PixelProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=2, eps_low=EPS / 3)
    trainer = PARTTrainer(classifier, attack, 1.0)
    trainer.fit(dataset[0][:128], dataset[1][:128], nb_epochs=1, verbose=False)
    assert trainer.attacks[0] is attack
    assert attack.budget.images == 128


def test_an_attack_with_a_budget_and_options_for_one_do_not_go_together():
    classifier = fresh()
    attack = PixelProjectedGradientDescent(classifier, eps=EPS)
    with pytest.raises(ValueError) as caught:
        PARTTrainer(classifier, [pgd(classifier), attack], eps_low=EPS / 2)
    assert str(caught.value) == (
        "eps_low=0.05 does not go with PixelProjectedGradientDescent, which has a budget already"
    )


def test_a_wrapped_attack_does_not_draw_a_bar_for_every_batch(dataset, capsys):
    """As in ART's trainers."""
    classifier = fresh()
    wrapped = MomentumIterativeMethod(classifier, eps=EPS, eps_step=EPS / 4, max_iter=1)
    assert wrapped.verbose
    trainer = PARTTrainer(classifier, wrapped)
    trainer.fit(dataset[0][:32], dataset[1][:32], nb_epochs=1, verbose=False)
    assert capsys.readouterr().err == ""
    assert not wrapped.verbose


def test_masks_are_renewed_when_asked(dataset):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier), 1.0, burn_in=1, mask_every=3)
    trainer.fit(dataset[0][:128], dataset[1][:128], nb_epochs=5, verbose=False)
    assert trainer.attacks[0].budget.images == 2 * 128


def test_a_quarter_of_the_epochs_is_burn_in(dataset):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier, max_iter=1), 1.0)
    trainer.fit(dataset[0][:64], dataset[1][:64], nb_epochs=8, verbose=False)
    assert trainer.attacks[0].budget.images == 6 * 64


@pytest.mark.parametrize("make", TRAINERS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_generators(dataset, make, kind):
    x, y = dataset[0][:256], dataset[1][:256]
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


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        ({"trainer": {"eps_low": 0.5}}, ValueError, "eps_low=0.5 is larger than eps=0.1; it must be <= eps"),
        ({"trainer": {"ratio": 0}}, ValueError, "ratio=0 is not allowed; it must be > 0 and <= 1"),
        ({"trainer": {"ratio": 1.5}}, ValueError, "ratio=1.5 is not allowed; it must be > 0 and <= 1"),
        ({"trainer": {"ratio": np.nan}}, ValueError, "ratio=nan is not allowed; it must be > 0 and <= 1"),
        ({"trainer": {"burn_in": -1}}, ValueError, "burn_in=-1 is not allowed; it must be >= 0"),
        ({"trainer": {"burn_in": 0.5}}, TypeError, "burn_in=0.5 is a float; an integer is needed"),
        ({"trainer": {"mask_every": 0}}, ValueError, "mask_every=0 is not allowed; it must be >= 1"),
        (
            {"trainer": {"mask_every": 2, "budget": FixedBudget(0.1)}},
            ValueError,
            "mask_every=2 needs a PixelBudget; FixedBudget(eps=0.1) has no masks to renew",
        ),
        (
            {"trainer": {"eps_low": 0.1, "budget": FixedBudget(0.1)}},
            ValueError,
            "eps_low=0.1 does not go with budget=FixedBudget(eps=0.1), which has its own",
        ),
        ({"attacks": lambda c: []}, ValueError, "attacks is empty; at least one attack is needed"),
        ({"attacks": lambda c: ["PGD"]}, TypeError, "attacks holds a str; ART EvasionAttack instances are needed"),
        (
            {"attacks": lambda c: pgd(c, norm=2)},
            ValueError,
            "ProjectedGradientDescent with norm=2 and eps=0.1 cannot be given a budget per pixel; "
            "an l_inf attack with a number eps is needed (PART, Appendix A)",
        ),
        (
            {"attacks": lambda c: pgd(c, eps=8)},
            ValueError,
            "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
        ),
        (
            {"attacks": lambda c: pgd(c, eps_step=2)},
            ValueError,
            "eps_step=2 is larger than the range of the images, 1; did you mean 2/255?",
        ),
        ({"attacks": lambda c: pgd(c, max_iter=0)}, ValueError, "max_iter=0 is not allowed; it must be >= 1"),
        (
            {"attacks": lambda c: pgd(c, targeted=True)},
            NotImplementedError,
            "ProjectedGradientDescent is targeted; training needs an untargeted attack",
        ),
        (
            {"attacks": lambda c: FastGradientMethod(c, targeted=True)},
            NotImplementedError,
            "FastGradientMethod is targeted; training needs an untargeted attack",
        ),
        (
            {"attacks": lambda c: pgd(fresh(clip_values=(0, 255)))},
            ValueError,
            "ProjectedGradientDescent attacks a classifier with another range of images than the one that is trained",
        ),
        (
            {"classifier": {"optimizer": False}},
            ValueError,
            "optimizer=None leaves nothing to train with; give one to PyTorchClassifier",
        ),
        (
            {"classifier": {"clip_values": None}, "attacks": lambda c: pgd(fresh())},
            ValueError,
            "clip_values=None leaves the range of the images open; "
            "give it to PyTorchClassifier, or clip=(smallest, largest) to this",
        ),
        ({"fit": {"nb_epochs": 0}}, ValueError, "nb_epochs=0 is not allowed; it must be >= 1"),
        ({"fit": {"batch_size": 0}}, ValueError, "batch_size=0 is not allowed; it must be >= 1"),
        ({"fit": {"scheduler": "cosine"}}, TypeError, "scheduler is a str; an object with a method step is needed"),
        ({"x": 300.0}, ValueError, "images span [0, 300]; allowed is [0, 1]"),
        ({"y": 10}, ValueError, "labels contain class 19; allowed is 0 to 9"),
        (
            {"fit": {"validation_data": (np.ones((2, 1, 8, 8)), [3])}},
            ValueError,
            "labels have shape (1,); expected (2,), (2, 1) or (2, K)",
        ),
        (
            {"fit": {"drop_last": True, "batch_size": 999}},
            ValueError,
            "batch_size=999 and drop_last=True leave no batch of 64 samples",
        ),
    ],
)
def test_wrong_input_is_refused_before_any_weight_changes(dataset, setup, error, message):
    classifier = fresh(**setup.get("classifier", {}))
    weights = classifier.model.head.weight.detach().clone()
    x, y = dataset[0][:64] * setup.get("x", 1), dataset[1][:64] + setup.get("y", 0)

    def train():
        trainer = PARTTrainer(classifier, setup.get("attacks", pgd)(classifier), **setup.get("trainer", {}))
        trainer.fit(x, y, **({"nb_epochs": 2, "verbose": False} | setup.get("fit", {})))

    with pytest.raises(error) as caught:
        train()
    assert str(caught.value) == message
    assert torch.equal(classifier.model.head.weight, weights)


@pytest.mark.parametrize("mask_every", [2, 5])
def test_generators_know_their_size_and_not_their_samples(dataset, mask_every):
    classifier = fresh()
    generator = NumpyDataGenerator(dataset[0][:64], dataset[1][:64], batch_size=32)
    with pytest.raises(ValueError) as caught:
        PARTTrainer(classifier, pgd(classifier), mask_every=mask_every).fit_generator(generator)
    assert str(caught.value) == f"mask_every={mask_every} needs to know which sample is which; use fit"
    generator._size = None
    with pytest.raises(ValueError) as caught:
        PARTTrainer(classifier, pgd(classifier)).fit_generator(generator)
    assert str(caught.value) == "generator.size=None is not allowed; the size of the data set is needed"


@pytest.mark.parametrize("make", TRAINERS)
def test_what_fit_takes_the_generator_s_fit_takes(dataset, monkeypatch, make):
    """The same records from the same batches, with validation, a scheduler and a bar."""
    x, y = dataset[0][:32], dataset[1][:32]
    records = []
    for kind in ("fit", "fit_generator"):
        classifier = fresh()
        trainer = make(classifier, pgd(classifier, eps=0.0), burn_in=0)
        scheduler = torch.optim.lr_scheduler.StepLR(classifier.optimizer, 1, 0.5)
        options = {"validation_data": (x, y), "scheduler": scheduler, "nb_epochs": 2}
        monkeypatch.setattr(sys, "stderr", Terminal())
        if kind == "fit":  # one batch, so that shuffling changes nothing but the order of a sum
            trainer.fit(x, y, batch_size=32, **options)
        else:
            trainer.fit_generator(NumpyDataGenerator(x, y, batch_size=32), **options)
        assert "epoch 2" in sys.stderr.getvalue()
        monkeypatch.undo()
        assert [record["lr"] for record in trainer.history] == [0.05, 0.025]
        records.append([set(record) for record in trainer.history])
        assert trainer.history[-1]["val_natural"] == trainer.history[-1]["val_pgd10"]  # a radius of 0 changes nothing
    assert records[0] == records[1]


@pytest.mark.parametrize("make", TRAINERS)
def test_an_incomplete_batch_is_left_out_where_asked(dataset, make):
    classifier = classify(Recorder())
    trainer = make(classifier, pgd(classifier, max_iter=1))
    trainer.fit(dataset[0][:25], dataset[1][:25], batch_size=7, nb_epochs=1, drop_last=True, verbose=False)
    assert {len(images) for images in classifier.model.inputs} == {7}


def test_predict_is_the_classifiers(dataset):
    classifier = fresh()
    trainer = PARTTrainer(classifier, pgd(classifier))
    assert np.array_equal(trainer.predict(dataset[0][:20]), classifier.predict(dataset[0][:20]))
    noisy = []
    for predict in (trainer.predict, classifier.predict):
        torch.manual_seed(0)
        noisy.append(predict(dataset[0][:20], training_mode=True))
    assert np.array_equal(*noisy)
    assert not np.array_equal(noisy[0], classifier.predict(dataset[0][:20]))


def test_a_fixed_budget_trains_too(dataset):
    classifier = fresh()
    budget = FixedBudget.quadrant("top-left", eps=EPS, eps_low=EPS / 2, size=(8, 8))
    trainer = PARTTrainer(classifier, pgd(classifier), budget=budget)
    trainer.fit(dataset[0][:256], dataset[1][:256], nb_epochs=4, verbose=False)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
