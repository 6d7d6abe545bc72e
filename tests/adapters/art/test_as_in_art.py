"""One line changed in a pipeline of ART's: with equal radii the very same training, and whatever else it takes."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import EPS, classify, pgd
from art.attacks.evasion import BasicIterativeMethod, FastGradientMethod, ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator
from art.defences.preprocessor.cutout.cutout_pytorch import CutoutPyTorch
from art.defences.preprocessor.mixup.mixup_pytorch import MixupPyTorch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.defences.trainer import AdversarialTrainer, AdversarialTrainerTRADESPyTorch
from conftest import SmallNet
from torch import nn

from part_plugin import FixedBudget, PARTTrainer, PARTTrainerTRADES, PixelProjectedGradientDescent

HALF = 0.0625  # and fractions of it, so that neither projection rounds


def plain_net():
    torch.manual_seed(0)
    net = SmallNet()
    net.dropout = nn.Identity()  # ART draws other numbers from torch's generator, to shuffle each batch once more
    return net


def trained(make, attack, fit, **classifier):
    net = plain_net()
    classifier = classify(net, **classifier)
    np.random.seed(0)
    torch.manual_seed(0)
    fit(make(classifier, attack(classifier)))
    return net.state_dict()


def same_weights(theirs, ours, attack, fit, **classifier):
    torch.testing.assert_close(
        trained(theirs, attack, fit, **classifier), trained(ours, attack, fit, **classifier), rtol=1e-3, atol=1e-5
    )


ATTACKS = {
    "PGD from random starts": lambda c: pgd(c, eps=HALF, eps_step=HALF / 4, max_iter=3, num_random_init=1),
    "BIM": lambda c: BasicIterativeMethod(c, eps=HALF, eps_step=HALF / 4, max_iter=3, batch_size=64, verbose=False),
    "FGSM": lambda c: FastGradientMethod(c, eps=HALF, batch_size=64),
    "two in turn": lambda c: [
        FastGradientMethod(c, eps=HALF, batch_size=64),
        pgd(c, eps=HALF, eps_step=HALF / 4, max_iter=2),
    ],
}


@pytest.mark.parametrize("ratio", [0.5, 1.0])
@pytest.mark.parametrize("attack", ATTACKS)
def test_equal_radii_give_the_weights_of_arts_trainer(dataset, attack, ratio):
    """From the same seed: the same batches, the same samples attacked, the same random starts."""
    x, y = dataset[0][:150], dataset[1][:150]
    same_weights(
        lambda c, a: AdversarialTrainer(c, a, ratio),
        lambda c, a: PARTTrainer(c, a, ratio, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS[attack],
        lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=2),
    )


def test_equal_radii_give_the_weights_of_arts_trainer_from_a_generator(dataset):
    x, y = dataset[0][:128], dataset[1][:128]
    same_weights(
        lambda c, a: AdversarialTrainer(c, a, 0.5),
        lambda c, a: PARTTrainer(c, a, 0.5, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS["PGD from random starts"],
        lambda trainer: trainer.fit_generator(NumpyDataGenerator(x, np.eye(10)[y], batch_size=64), nb_epochs=2),
    )


class Squared(PreprocessorPyTorch):
    """A defence that is not affine."""

    def __init__(self, apply_fit=False):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=apply_fit, apply_predict=True)

    def forward(self, x, y=None):
        return x * x, y


def smoothed(y):
    return (0.8 * np.eye(10)[y] + 0.02).astype(np.float32)


def mixed(y):
    return (0.7 * np.eye(10)[y] + 0.3 * np.eye(10)[(y + 1) % 10]).astype(np.float32)


@pytest.mark.parametrize("soften", [smoothed, mixed])
def test_soft_labels_train_as_in_art(dataset, soften):
    x, y = dataset[0][:150], soften(dataset[1][:150])
    same_weights(
        lambda c, a: AdversarialTrainer(c, a),
        lambda c, a: PARTTrainer(c, a, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS["PGD from random starts"],
        lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=2),
    )


@pytest.mark.parametrize(
    "loss",
    [nn.CrossEntropyLoss(label_smoothing=0.2), nn.MultiMarginLoss(), nn.MultiLabelSoftMarginLoss()],
)
def test_any_loss_of_the_classifier_trains_as_in_art(dataset, loss):
    x, y = dataset[0][:150], np.eye(10, dtype=np.float32)[dataset[1][:150]]
    same_weights(
        lambda c, a: AdversarialTrainer(c, a),
        lambda c, a: PARTTrainer(c, a, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS["FGSM"],
        lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=2),
        loss=loss,
    )


def test_evaluation_mode_trains_as_in_art(dataset):
    """Dropout is off and batch norm keeps its statistics."""
    x, y = dataset[0][:150], dataset[1][:150]
    found = trained(
        lambda c, a: PARTTrainer(c, a, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS["FGSM"],
        lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=2, training_mode=False),
    )
    assert torch.equal(found["features.1.running_mean"], torch.zeros(16))
    same_weights(
        lambda c, a: AdversarialTrainer(c, a),
        lambda c, a: PARTTrainer(c, a, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS["FGSM"],
        lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=2, training_mode=False),
    )


def test_further_keywords_take_no_effect_as_in_art_and_are_warned_of(dataset):
    x, y = dataset[0][:64], dataset[1][:64]

    def fit(trainer):
        with pytest.warns(UserWarning, match="takes no effect") as caught:
            trainer.fit(x, y, batch_size=64, nb_epochs=1, lr=0.1, initial_epoch=3)
        assert [str(warning.message) for warning in caught] == [
            "lr=0.1 takes no effect, as in ART's trainers of a PyTorchClassifier",
            "initial_epoch=3 takes no effect, as in ART's trainers of a PyTorchClassifier",
        ]
        assert {warning.filename for warning in caught} == {__file__}

    theirs = trained(
        AdversarialTrainer, ATTACKS["FGSM"], lambda trainer: trainer.fit(x, y, 64, 1, lr=0.1, initial_epoch=3)
    )
    ours = trained(lambda c, a: PARTTrainer(c, a, eps_low=HALF, burn_in=0), ATTACKS["FGSM"], fit)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("apply_fit", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_defences_with_a_pytorch_form_take_part_as_in_art(dataset, attack, apply_fit):
    """Those of predictions in map and attack, those of training in training, behind or without a normalisation."""
    x, y = dataset[0][:150], dataset[1][:150]
    for preprocessing in ((0.25, 0.5), None):
        same_weights(
            lambda c, a: AdversarialTrainer(c, a),
            lambda c, a: PARTTrainer(c, a, budget=FixedBudget(HALF), burn_in=0),
            ATTACKS[attack],
            lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=1),
            preprocessing_defences=Squared(apply_fit),
            preprocessing=preprocessing,
        )


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_mixup_and_cutout_train_as_in_art(dataset, ratio):
    """Which mixes images and labels of the batch that is trained on, and nothing of the attack."""
    x, y = dataset[0][:1200], np.eye(10, dtype=np.float32)[dataset[1][:1200]]
    accuracies = []
    for make in (
        lambda c, a: AdversarialTrainer(c, a, ratio),
        lambda c, a: PARTTrainer(c, a, ratio, budget=FixedBudget(HALF), burn_in=0),
    ):
        defences = [CutoutPyTorch(length=3, channels_first=True), MixupPyTorch(num_classes=10, num_mix=2)]

        def fit(trainer):
            trainer.fit(x, y, batch_size=64, nb_epochs=3)
            accuracies.append(np.mean(trainer.predict(dataset[0][1400:]).argmax(1) == dataset[1][1400:]))

        trained(make, ATTACKS["FGSM"], fit, preprocessing_defences=defences)
    assert min(accuracies) > 0.5
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.1)  # each mixes others


@pytest.mark.parametrize("defences", [None, Squared()])
@pytest.mark.parametrize("soft", [False, True])
def test_what_mixup_makes_is_trained_on(dataset, defences, soft):
    """The loss of the first batch, written out: the images and labels mixed, the attack on neither."""
    x, y = dataset[0][:64], dataset[1][:64]
    mixup = MixupPyTorch(num_classes=10, num_mix=2)
    classifier = classify(plain_net(), preprocessing_defences=[mixup] if defences is None else [defences, mixup])
    np.random.seed(0)
    torch.manual_seed(0)
    trainer = PARTTrainer(classifier, pgd(classifier, num_random_init=0), 1.0, budget=FixedBudget(0.0), burn_in=0)
    trainer.fit(x, smoothed(y) if soft else y, batch_size=64, nb_epochs=1, verbose=False)

    np.random.seed(0)
    torch.manual_seed(0)
    order = np.arange(64)
    np.random.shuffle(order)
    np.random.shuffle(np.arange(64))
    given = torch.from_numpy(smoothed(y) if soft else np.eye(10, dtype=np.float32)[y])[order]
    images, labels = mixup.forward(torch.from_numpy(x)[order], given)
    expected = nn.functional.cross_entropy(plain_net().train()(images), labels.float()).item()
    assert trainer.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_an_attack_sees_the_defences_of_predictions(digits_net, arrays):
    """With equal radii, ART's PGD through a defence."""
    classifier = classify(digits_net, preprocessing_defences=Squared())
    settings = {"eps": 0.25, "eps_step": 0.0625, "max_iter": 4, "num_random_init": 1, "verbose": False}
    found = []
    for make in (ProjectedGradientDescent, lambda c, **s: PixelProjectedGradientDescent(c, **s, eps_low=0.25)):
        np.random.seed(3)
        found.append(make(classifier, **settings).generate(*arrays))
    np.testing.assert_allclose(*found, atol=1e-6)
    undefended = PixelProjectedGradientDescent(classify(digits_net), **settings, eps_low=0.25)
    np.random.seed(3)
    assert not np.allclose(undefended.generate(*arrays), found[0], atol=1e-6)


def test_trades_sees_no_hard_labels_where_they_are_soft(dataset):
    """TRADES with beta=0 is the natural loss alone: the cross-entropy with probabilities."""
    x, y = dataset[0][:64], mixed(dataset[1][:64])
    net = plain_net()
    expected = nn.functional.cross_entropy(net.train()(torch.from_numpy(x)), torch.from_numpy(y)).item()
    classifier = classify(plain_net())
    trainer = PARTTrainerTRADES(classifier, pgd(classifier, max_iter=1), 0.0)
    trainer.fit(x, y, batch_size=64, nb_epochs=1, verbose=False)
    assert trainer.history[0]["loss"] == pytest.approx(expected, rel=1e-5)


def test_trades_trains_as_in_art_in_either_mode(dataset):
    x, y = dataset[0][:150], dataset[1][:150]
    same_weights(
        lambda c, a: AdversarialTrainerTRADESPyTorch(c, a, 2.0),
        lambda c, a: PARTTrainerTRADES(c, a, 2.0, budget=FixedBudget(HALF), burn_in=0),
        ATTACKS["FGSM"],
        lambda trainer: trainer.fit(x, y, None, 64, 2),
    )


@pytest.mark.parametrize("attack", ["FGSM", "PGD from random starts", "BIM"])
def test_ensemble_adversarial_training(dataset, digits_net, attack):
    """Examples of a static network, as in ART, which makes them before training; here they follow the trained maps."""
    x, y = dataset[0][:150], dataset[1][:150]
    static = classify(digits_net)
    source = {
        "FGSM": FastGradientMethod(static, eps=HALF, batch_size=64),
        "BIM": BasicIterativeMethod(static, eps=HALF, eps_step=HALF / 4, max_iter=3, batch_size=64, verbose=False),
        "PGD from random starts": pgd(static, eps=HALF, eps_step=HALF / 4),
    }[attack]
    before = {name: value.clone() for name, value in digits_net.state_dict().items()}
    fit = lambda trainer: trainer.fit(x, y, batch_size=64, nb_epochs=2)  # noqa: E731
    if attack != "PGD from random starts":  # ART draws its starts before it shuffles
        same_weights(
            lambda c, a: AdversarialTrainer(c, a),
            lambda c, a: PARTTrainer(c, a, budget=FixedBudget(HALF), burn_in=0),
            lambda c: source,
            fit,
        )
    trainers = []
    trained(
        lambda c, a: trainers.append(PARTTrainer(c, a, eps_low=HALF / 4, burn_in=0)) or trainers[0],
        lambda c: source,
        fit,
    )
    assert trainers[0].attacks[0].budget.images == 2 * (32 + 32 + 11)
    assert all(torch.equal(value, before[name]) for name, value in digits_net.state_dict().items())


def test_an_ensembles_radii_are_of_the_trained_network_and_its_gradients_of_the_other(digits_net, batch):
    from part_plugin import AT, PixelBudget
    from part_plugin.adapters.art.classifier import classifier_view
    from part_plugin.adapters.art.lifted import LiftedPART
    from part_plugin.adapters.art.lifting import lift

    torch.manual_seed(1)
    trained_net = SmallNet().eval()
    for make in (lambda c: pgd(c, num_random_init=0), lambda c: FastGradientMethod(c, eps=EPS)):
        attack = lift(make(classify(digits_net)), eps_low=EPS / 4)
        part = LiftedPART(attack, AT(), foreign=True, burn_in=0, mask_every=1)
        adv = part.perturb(classifier_view(classify(trained_net)), *batch)
        radii = PixelBudget(EPS, EPS / 4)(trained_net, batch[0])
        expected = type(attack).craft(attack, classifier_view(attack.estimator), *batch, radii)
        assert torch.equal(adv, expected)
        assert not torch.equal(radii, PixelBudget(EPS, EPS / 4)(digits_net, batch[0]))


def test_the_same_numpy_seed_gives_the_same_starts_as_in_art(digits_net, arrays):
    """Whatever torch's generator is at."""
    classifier = classify(digits_net)
    settings = {"eps": 0.25, "eps_step": 0.0625, "max_iter": 3, "num_random_init": 2, "batch_size": 5, "verbose": False}
    np.random.seed(7)
    expected = ProjectedGradientDescent(classifier, **settings).generate(*arrays)
    found = []
    for seed in (7, 7, 8):
        np.random.seed(seed)
        torch.manual_seed(len(found))
        found.append(PixelProjectedGradientDescent(classifier, **settings, eps_low=0.25).generate(*arrays))
    np.testing.assert_allclose(found[0], expected, atol=1e-6)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
