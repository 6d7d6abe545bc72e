"""What is asked of ART's classifier, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from adapters.art.helpers import classify
from art.attacks.evasion import FastGradientMethod
from art.defences.preprocessor import FeatureSqueezing
from art.exceptions import EstimatorError
from conftest import SmallNet
from torch import nn

from part_plugin import PARTTrainer, PARTTrainerTRADES, PixelEvasionAttack, PixelProjectedGradientDescent
from part_plugin.adapters.art.classifier import (
    classifier_clip,
    classifier_criterion,
    classifier_view,
    preprocessed,
)


def test_the_view_is_the_network_behind_its_preprocessing(digits_net, batch):
    mean, std = np.array([0.25], np.float32), np.array([0.5], np.float32)
    classifier = classify(digits_net, preprocessing=(mean, std))
    images = batch[0].requires_grad_()
    assert torch.equal(preprocessed(classifier, images), (images - 0.25) / 0.5)
    logits = classifier_view(classifier)(images)
    assert torch.equal(logits, digits_net((images - 0.25) / 0.5))
    assert np.array_equal(logits.detach().numpy(), classifier.predict(images.detach().numpy()))
    gradient = torch.autograd.grad(logits.sum(), images)[0]
    assert (gradient != 0).any()


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        (nn.CrossEntropyLoss(), lambda z, y: -z.log_softmax(1)[range(16), y].mean()),
        (nn.CrossEntropyLoss(label_smoothing=0.1), lambda z, y: nn.functional.cross_entropy(z, y, label_smoothing=0.1)),
        (nn.MultiMarginLoss(), lambda z, y: nn.functional.multi_margin_loss(z, y)),
        (nn.MSELoss(), lambda z, y: (z - torch.eye(10)[y]).square().mean()),  # ART leaves it one-hot labels
        (nn.HuberLoss(), lambda z, y: nn.functional.huber_loss(z, torch.eye(10)[y])),
        (nn.MultiLabelSoftMarginLoss(), lambda z, y: -(torch.eye(10)[y] * 2 * z - z).sigmoid().log().mean()),
    ],
)
def test_the_criterion_is_the_classifiers_own_loss(digits_net, batch, loss, by_hand):
    logits, labels = digits_net(batch[0]).detach().requires_grad_(), batch[1] % 5
    found = classifier_criterion(classify(digits_net, loss=loss))(logits, labels)
    expected = by_hand(logits, labels)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (found, expected)))


def test_the_clip_range_may_differ_by_channel():
    low, high = np.array([0.0, -1.0, 0.0]).reshape(3, 1, 1), np.array([1.0, 1.0, 255.0]).reshape(3, 1, 1)
    found = classifier_clip(classify(SmallNet(3), clip_values=(low, high)))
    assert [bound.dtype for bound in found] == [torch.float32] * 2
    assert np.array_equal(found[0], low)
    assert np.array_equal(found[1], high)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda net: "a network",
            EstimatorError,
            "PixelProjectedGradientDescent requires an estimator derived from "
            "<class 'art.estimators.estimator.BaseEstimator'> and "
            "<class 'art.estimators.estimator.LossGradientsMixin'> and "
            "<class 'art.estimators.classification.pytorch.PyTorchClassifier'>, the provided classifier is an instance "
            "of <class 'str'> and is derived from (<class 'object'>,).",
        ),
        (
            lambda net: classify(net, clip_values=None),
            ValueError,
            "clip_values=None leaves the range of the images open; "
            "give it to PyTorchClassifier, or clip=(smallest, largest) to this",
        ),
        (
            lambda net: classify(net, channels_first=False),
            ValueError,
            "channels_first=False is not supported; images of shape (N, C, H, W) are needed",
        ),
        (
            lambda net: classify(net, preprocessing_defences=FeatureSqueezing(clip_values=(0, 1))),
            ValueError,
            "preprocessing defence FeatureSqueezing has no PyTorch form to take gradients through; "
            "one derived from PreprocessorPyTorch is needed",
        ),
    ],
)
def test_classifiers_that_are_refused(digits_net, make, error, message):
    with pytest.raises(error) as caught:
        PixelProjectedGradientDescent(make(digits_net))
    assert str(caught.value) == message


def test_mixed_precision_is_refused(digits_net):
    classifier = classify(digits_net)
    classifier._use_amp = True  # ART itself asks for NVIDIA Apex before it sets this
    with pytest.raises(ValueError) as caught:
        PixelProjectedGradientDescent(classifier)
    assert str(caught.value) == "use_amp=True is not supported; it relies on NVIDIA Apex"


def test_what_is_no_attack():
    with pytest.raises(TypeError) as caught:
        PixelEvasionAttack("PGD")
    assert str(caught.value) == "attack is a str; an ART EvasionAttack is needed"


CLIPPED = {
    "PGD": lambda c, **o: PixelProjectedGradientDescent(
        c, eps=1.0, eps_step=0.5, max_iter=3, num_random_init=1, verbose=False, **o
    ),
    "FGM": lambda c, **o: PixelEvasionAttack(FastGradientMethod(c, eps=1.0), **o, eps_low=1.0),  # which clips itself
}


@pytest.mark.parametrize("name", CLIPPED)
def test_a_clip_stands_in_for_clip_values(digits_net, arrays, name):
    """Of attacks and trainers, which clip as those of a classifier with clip_values do."""
    x, y = 4 * arrays[0] - 1, arrays[1]
    found = []
    for clip_values, clip in (((-1.0, 3.0), None), (None, (-1, 3)), ((-1.0, 3.0), (-1, 3))):
        classifier = classify(copy.deepcopy(digits_net), clip_values=clip_values, preprocessing=(-1.0, 4.0))
        np.random.seed(0)
        torch.manual_seed(0)
        adv = CLIPPED[name](classifier, clip=clip).generate(x, y)
        trainer = PARTTrainer(classifier, CLIPPED[name](classifier, clip=clip), clip=clip)
        trainer.fit(x, y, nb_epochs=1, validation_data=(x, y), verbose=False)
        attack = FastGradientMethod(classifier, eps=1.0)
        PARTTrainerTRADES(classifier, attack, clip=clip, eps_low=1.0).fit(x, y, nb_epochs=1, verbose=False)
        found.append((torch.from_numpy(adv), *classifier.model.state_dict().values()))
    assert float(found[0][0].min()) == -1
    assert 2 < float(found[0][0].max()) <= 3
    for each in found[1:]:
        assert all(map(torch.equal, found[0], each))


def test_clip_values_that_are_changed_are_followed(digits_net, arrays):
    classifier = classify(digits_net)
    attack = CLIPPED["PGD"](classifier)
    assert attack.generate(*arrays).max() == 1
    classifier.set_params(clip_values=(np.zeros((1, 8, 8)), np.full((1, 8, 8), 2.0)))
    assert 1 < attack.generate(*arrays).max() <= 2
