"""Mistakes with ART: attacks, trainers, arrays, labels, generators, checkpoints."""

import numpy as np
import torch
from adapters.art.helpers import classify, pgd
from art.attacks.evasion import DeepFool, FastGradientMethod, ProjectedGradientDescent
from art.data_generators import DataGenerator, NumpyDataGenerator
from art.defences.preprocessor import JpegCompression
from art.estimators.classification import BlackBoxClassifier
from art.exceptions import EstimatorError
from conftest import SmallNet
from mistakes.mistake import Mistake, each
from torch.utils.data import DataLoader

from part_plugin import (
    FixedBudget,
    PARTTrainer,
    PARTTrainerMART,
    PARTTrainerTRADES,
    PixelEvasionAttack,
    PixelProjectedGradientDescent,
)

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.random((4, 1, 8, 8), np.float32), np.array([0, 1, 2, 3])
COLOURS = RANDOM.random((4, 3, 8, 8), np.float32)
CLASSIFIER, COLOUR = classify(SmallNet().eval()), classify(SmallNet(3).eval())
PIXEL = PixelProjectedGradientDescent(CLASSIFIER, eps=0.1, eps_step=0.05, max_iter=1, verbose=False)
WRAPPED = PixelEvasionAttack(FastGradientMethod(CLASSIFIER, eps=0.1))


def fit(x=X, y=Y, make=PARTTrainer, attack=pgd, trainer=None, **how):
    make(CLASSIFIER, attack(CLASSIFIER), **(trainer or {})).fit(x, y, **({"nb_epochs": 1, "verbose": False} | how))


def from_generator(generator, **trainer):
    PARTTrainer(CLASSIFIER, pgd(CLASSIFIER), **trainer).fit_generator(generator, nb_epochs=1, verbose=False)


class Odd(DataGenerator):
    """Gives what it is told to."""

    def __init__(self, batch, size=4):
        super().__init__(size=size, batch_size=2)
        self.batch = batch

    def get_batch(self):
        return self.batch


NO_CLIP = (
    "clip_values=None leaves the range of the images open; "
    "give it to PyTorchClassifier, or clip=(smallest, largest) to this"
)
NO_BUDGET = "cannot be given a budget per pixel; an l_inf attack with a number eps is needed (PART, Appendix A)"

MISTAKES = [
    # classifiers
    Mistake(
        "the network itself where ART's classifier is needed",
        lambda: PixelProjectedGradientDescent("net"),
        EstimatorError,
        "PixelProjectedGradientDescent requires an estimator derived from "
        "<class 'art.estimators.estimator.BaseEstimator'> and "
        "<class 'art.estimators.estimator.LossGradientsMixin'> and "
        "<class 'art.estimators.classification.pytorch.PyTorchClassifier'>, the provided classifier is an instance of "
        "<class 'str'> and is derived from (<class 'object'>,).",
    ),
    Mistake(
        "a trainer of a classifier without gradients",
        lambda: PARTTrainer(BlackBoxClassifier(lambda x: x, (1, 8, 8), 10), pgd(CLASSIFIER)),
        EstimatorError,
        "PARTTrainer requires an estimator derived from "
        "<class 'art.estimators.estimator.BaseEstimator'> and "
        "<class 'art.estimators.estimator.LossGradientsMixin'> and "
        "<class 'art.estimators.classification.pytorch.PyTorchClassifier'>, the provided classifier is an instance of "
        "<class 'art.estimators.classification.blackbox.BlackBoxClassifier'> and is derived from "
        "(<class 'art.estimators.classification.classifier.ClassifierMixin'>, "
        "<class 'art.estimators.estimator.BaseEstimator'>).",
    ),
    Mistake(
        "a classifier without clip_values",
        lambda: PARTTrainer(classify(SmallNet(), clip_values=None), pgd(CLASSIFIER)),
        ValueError,
        NO_CLIP,
    ),
    Mistake(
        "a clip beside other clip_values",
        lambda: PixelProjectedGradientDescent(CLASSIFIER, clip=(0, 255)),
        ValueError,
        "clip=(0, 255) is another range than the clip_values of the classifier; leave it out",
    ),
    Mistake(
        "a clip that is one number",
        lambda: PixelProjectedGradientDescent(classify(SmallNet(), clip_values=None), clip=1),
        TypeError,
        "clip=1 is not a pair; (smallest, largest) pixel value is needed, e.g. (0, 1)",
    ),
    Mistake(
        "channels_first=False",
        lambda: PARTTrainer(classify(SmallNet(), channels_first=False), pgd(CLASSIFIER)),
        ValueError,
        "channels_first=False is not supported; images of shape (N, C, H, W) are needed",
    ),
    Mistake(
        "a defence that cannot be differentiated",
        lambda: PIXEL.__class__(classify(SmallNet(), preprocessing_defences=JpegCompression(clip_values=(0, 1)))),
        ValueError,
        "preprocessing defence JpegCompression has no PyTorch form to take gradients through; "
        "one derived from PreprocessorPyTorch is needed",
    ),
    Mistake(
        "a classifier without optimizer",
        lambda: PARTTrainer(c := classify(SmallNet(), optimizer=False), pgd(c)).fit(X, Y),
        ValueError,
        "optimizer=None leaves nothing to train with; give one to PyTorchClassifier",
    ),
    # attacks
    Mistake(
        "an eps of 8 for images in [0, 1]",
        lambda: PixelProjectedGradientDescent(CLASSIFIER, eps=8),
        ValueError,
        "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
    ),
    Mistake(
        "an eps that is text",
        lambda: PIXEL.set_params(eps="8/255"),
        TypeError,
        "eps='8/255' is a str; a number is needed",
    ),
    Mistake(
        "eps as an array, and eps_step as a number",
        lambda: PixelProjectedGradientDescent(CLASSIFIER, eps=np.full((1, 8, 8), 0.1)),
        TypeError,
        "eps is an array and eps_step=0.1 is not; two numbers are needed",
    ),
    Mistake(
        "eps and eps_step as arrays",
        lambda: PIXEL.set_params(eps=np.full((1, 8, 8), 0.1), eps_step=np.full((1, 8, 8), 0.1)),
        ValueError,
        f"PixelProjectedGradientDescent with norm=inf and eps=an array {NO_BUDGET}",
    ),
    Mistake(
        "an l_2 norm, set later",
        lambda: PIXEL.set_params(norm=2),
        ValueError,
        f"PixelProjectedGradientDescent with norm=2 and eps=0.1 {NO_BUDGET}",
    ),
    Mistake(
        "momentum",
        lambda: PIXEL.set_params(decay=0.9),
        ValueError,
        "decay=0.9 is not supported; wrap ART's own attack in PixelEvasionAttack",
    ),
    Mistake(
        "a random eps",
        lambda: PIXEL.set_params(random_eps=True),
        ValueError,
        "random_eps=True is not supported; wrap ART's own attack in PixelEvasionAttack",
    ),
    Mistake(
        "a summary writer",
        lambda: PIXEL.set_params(summary_writer=True),
        ValueError,
        "summary_writer=True is not supported; wrap ART's own attack in PixelEvasionAttack",
    ),
    Mistake(
        "an eps_low above eps",
        lambda: WRAPPED.set_params(eps_low=0.2),
        ValueError,
        "eps_low=0.2 is larger than eps=0.1; it must be <= eps",
    ),
    Mistake(
        "a budget that is a number",
        lambda: WRAPPED.set_params(budget=0.1),
        TypeError,
        "budget=0.1 is a float; a Budget or an object with eps and a call (model, images, labels) -> radii is needed "
        "(for one radius everywhere: FixedBudget)",
    ),
    Mistake(
        "a budget further than the wrapped attack",
        lambda: WRAPPED.set_params(budget=FixedBudget(0.3)),
        ValueError,
        "budget reaches 0.3, further than eps=0.1 of FastGradientMethod",
    ),
    Mistake(
        "half a step",
        lambda: PIXEL.set_params(max_iter=2.5),
        TypeError,
        "max_iter=2.5 is a float; an integer is needed",
    ),
    Mistake(
        "a setting that there is not",
        lambda: PIXEL.set_params(steps=10),
        ValueError,
        'The attribute "steps" cannot be set for this attack.',
    ),
    Mistake(
        "an l_2 attack",
        lambda: PixelEvasionAttack(FastGradientMethod(CLASSIFIER, norm=2)),
        ValueError,
        f"FastGradientMethod with norm=2 and eps=0.3 {NO_BUDGET}",
    ),
    Mistake(
        "an attack without radius among others",
        lambda: PARTTrainer(CLASSIFIER, [pgd(CLASSIFIER), DeepFool(CLASSIFIER)]),
        ValueError,
        f"DeepFool with norm=None and eps=None {NO_BUDGET}",
    ),
    Mistake(
        "the name of an attack",
        lambda: PixelEvasionAttack("pgd"),
        TypeError,
        "attack is a str; an ART EvasionAttack is needed",
    ),
    Mistake(
        "the name of an attack for a trainer",
        lambda: PARTTrainer(CLASSIFIER, "pgd"),
        ValueError,
        "attacks is a str; an ART EvasionAttack or a list of them is needed",
    ),
    Mistake(
        "the class of an attack",
        lambda: PARTTrainer(CLASSIFIER, [ProjectedGradientDescent]),
        TypeError,
        "attacks holds the class ProjectedGradientDescent; ART EvasionAttack instances are needed",
    ),
    Mistake(
        "no attack",
        lambda: PARTTrainer(CLASSIFIER, []),
        ValueError,
        "attacks is empty; at least one attack is needed",
    ),
    Mistake(
        "a targeted attack to train with",
        lambda: fit(attack=lambda c: pgd(c, targeted=True)),
        NotImplementedError,
        "ProjectedGradientDescent is targeted; training needs an untargeted attack",
    ),
    Mistake(
        "a targeted attack without targets",
        lambda: PixelProjectedGradientDescent(CLASSIFIER, targeted=True).generate(X),
        ValueError,
        "y=None is not allowed for a targeted attack; pass the target classes",
    ),
    Mistake(
        "an attack on a classifier with images in another range",
        lambda: PARTTrainer(CLASSIFIER, pgd(classify(SmallNet(), clip_values=(0, 255)), eps=8)),
        ValueError,
        "ProjectedGradientDescent attacks a classifier with another range of images than the one that is trained",
    ),
    # images
    Mistake(
        "images with their channels last",
        lambda: PixelProjectedGradientDescent(COLOUR, eps=0.1).generate(COLOURS.transpose(0, 2, 3, 1)),
        ValueError,
        "images have shape (1, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)",
    ),
    Mistake(
        "images with their channels last, to train on",
        lambda: PARTTrainer(COLOUR, pgd(COLOUR), burn_in=0).fit(COLOURS.transpose(0, 2, 3, 1), Y, verbose=False),
        ValueError,
        "images have shape (2, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)",
    ),
    Mistake(
        "grey images for a network of colours",
        lambda: PixelEvasionAttack(FastGradientMethod(COLOUR, eps=0.1)).generate(X),
        ValueError,
        "images have shape (1, 1, 8, 8), one channel; the model takes 3: images.expand(-1, 3, -1, -1)",
    ),
    Mistake(
        "pictures as bytes",
        lambda: fit((255 * X).astype(np.uint8)),
        ValueError,
        "images span [0, 254]; allowed is [0, 1]; divide them by 255",
    ),
    Mistake(
        "images as a list, to train on",
        lambda: fit(list(X)),
        TypeError,
        "x is a list; an array of images of shape (N, C, H, W) is needed",
    ),
    Mistake(
        "images as a list, to attack",
        lambda: PIXEL.generate(list(X), Y),
        TypeError,
        "x is a list; an array of images of shape (N, C, H, W) is needed",
    ),
    Mistake(
        "no images",
        lambda: fit(None),
        TypeError,
        "x is None; an array of images of shape (N, C, H, W) is needed",
    ),
    Mistake(
        "images as text",
        lambda: PIXEL.generate(np.array(["cat.png"])),
        TypeError,
        "x is an array of <U7; one of numbers is needed",
    ),
    Mistake(
        "black and white as True and False",
        lambda: fit(X > 0.5),
        TypeError,
        "x is an array of bool; one of numbers is needed",
    ),
    Mistake(
        "one image without its batch",
        lambda: PIXEL.generate(X[0]),
        ValueError,
        "images have shape (1, 8, 8); (N, C, H, W) with N >= 1 is needed: images[None] for one image, "
        "images[:, None] for grey ones",
    ),
    Mistake(
        "an empty batch",
        lambda: PIXEL.generate(X[:0]),
        ValueError,
        "images have shape (0, 1, 8, 8); (N, C, H, W) with N >= 1 is needed",
    ),
    Mistake(
        "rows of a table",
        lambda: fit(X.reshape(4, 64)),
        ValueError,
        "images have shape (4, 64); (N, C, H, W) with N >= 1 is needed",
    ),
    Mistake(
        "images that were normalised",
        lambda: fit((X - 0.5) / 0.25),
        ValueError,
        f"images span [{4 * X.min() - 2:.4g}, {4 * X.max() - 2:.4g}]; allowed is [0, 1]",
    ),
    Mistake(
        "images with NaN",
        lambda: PIXEL.generate(X * np.nan),
        ValueError,
        "images contain NaN or infinite values; they must be finite",
    ),
    Mistake(
        "a mask of another size",
        lambda: PIXEL.generate(X, mask=np.ones((7, 7))),
        ValueError,
        "mask has shape (7, 7), which does not fit images of shape (4, 1, 8, 8)",
    ),
    # labels
    Mistake(
        "no labels to train on",
        lambda: fit(y=None),
        TypeError,
        "labels=None is not allowed here; a tensor of class indices is needed",
    ),
    Mistake(
        "flags as labels",
        lambda: fit(y=Y > 1),
        TypeError,
        "labels are torch.bool; class indices are needed (labels.long() for classes 0 and 1)",
    ),
    Mistake(
        "labels of another number of classes",
        lambda: fit(y=np.eye(4)),
        ValueError,
        "labels have shape (4, 4); the model has 10 classes",
    ),
    Mistake(
        "a class that there is not",
        lambda: fit(y=Y + 10),
        ValueError,
        "labels contain class 13; allowed is 0 to 9",
    ),
    Mistake(
        "logits as labels",
        lambda: fit(y=RANDOM.normal(size=(4, 10))),
        ValueError,
        "labels of shape (4, 10) are neither one-hot nor probabilities; each row must sum to 1",
    ),
    Mistake(
        "several classes for an image",
        lambda: PIXEL.generate(X, np.ones((4, 10))),
        ValueError,
        "labels of shape (4, 10) are neither one-hot nor probabilities; each row must sum to 1",
    ),
    Mistake(
        "fewer labels than images",
        lambda: PIXEL.generate(X, Y[:3]),
        ValueError,
        "labels have shape (3,); expected (4,), (4, 1) or (4, K)",
    ),
    Mistake(
        "names of classes",
        lambda: fit(y=np.array(["cat", "dog", "cat", "dog"])),
        TypeError,
        "labels are a ndarray; a tensor of class indices is needed",
    ),
    Mistake(
        "labels between two classes",
        lambda: fit(y=Y + 0.5),
        ValueError,
        "labels are not whole numbers; class indices are needed",
    ),
    # fit
    Mistake(
        "the arguments of AdversarialTrainer, by position, for TRADES",
        lambda: PARTTrainerTRADES(CLASSIFIER, pgd(CLASSIFIER)).fit(X, Y, 128, 20),
        TypeError,
        "validation_data is a int; a pair (x_val, y_val) is needed",
    ),
    Mistake(
        "validation images alone",
        lambda: fit(validation_data=X),
        TypeError,
        "validation_data is a ndarray; a pair (x_val, y_val) is needed",
    ),
    Mistake("no epoch", lambda: fit(nb_epochs=0), ValueError, "nb_epochs=0 is not allowed; it must be >= 1"),
    Mistake("half an epoch", lambda: fit(nb_epochs=0.5), TypeError, "nb_epochs=0.5 is a float; an integer is needed"),
    Mistake("empty batches", lambda: fit(batch_size=0), ValueError, "batch_size=0 is not allowed; it must be >= 1"),
    Mistake(
        "fewer images than a batch, with drop_last",
        lambda: fit(drop_last=True),
        ValueError,
        "batch_size=128 and drop_last=True leave no batch of 4 samples",
    ),
    Mistake(
        "the name of a scheduler",
        lambda: fit(scheduler="cosine"),
        TypeError,
        "scheduler is a str; an object with a method step is needed",
    ),
    Mistake(
        "a ratio in per cent",
        lambda: fit(trainer={"ratio": 50}),
        ValueError,
        "ratio=50 is not allowed; it must be > 0 and <= 1",
    ),
    Mistake(
        "a negative burn-in",
        lambda: fit(make=PARTTrainerMART, trainer={"burn_in": -1}),
        ValueError,
        "burn_in=-1 is not allowed; it must be >= 0",
    ),
    Mistake(
        "a checkpoint that is a folder",
        lambda: fit(checkpoint="."),
        IsADirectoryError,
        "fit checkpoint '.' is a directory; a file is needed",
    ),
    Mistake(
        "a log that is a folder",
        lambda: fit(trainer={"log_path": "."}),
        IsADirectoryError,
        "log '.' cannot be written: Is a directory",
    ),
    Mistake(
        "beta, which is of TRADES",
        lambda: PARTTrainer(CLASSIFIER, pgd(CLASSIFIER), beta=6.0),
        TypeError,
        "beta=6.0 is no argument here and no option of a budget, which are cam, target_layers, reshape_transform, "
        "rule, target",
    ),
    # generators
    Mistake(
        "a DataLoader for a DataGenerator",
        lambda: from_generator(DataLoader(list(zip(X, Y, strict=True)))),
        TypeError,
        "generator is a DataLoader; an ART DataGenerator is needed, "
        "e.g. PyTorchDataGenerator(loader, size, batch_size)",
    ),
    Mistake(
        "a generator that does not know its size",
        lambda: from_generator(Odd((X[:2], Y[:2]), size=None)),
        ValueError,
        "generator.size=None is not allowed; the size of the data set is needed",
    ),
    Mistake(
        "a generator of images alone",
        lambda: from_generator(Odd(X[:2])),
        ValueError,
        "generator.get_batch() returned a ndarray; a pair (images, labels) is needed",
    ),
    Mistake(
        "a generator of images, labels and weights",
        lambda: from_generator(Odd((X[:2], Y[:2], np.ones(2)))),
        ValueError,
        "generator.get_batch() returned 3 things; a pair (images, labels) is needed",
    ),
    Mistake(
        "a generator of bytes",
        lambda: from_generator(Odd(((255 * X).astype(np.uint8), Y))),
        ValueError,
        "images span [0, 254]; allowed is [0, 1]; divide them by 255",
    ),
    Mistake(
        "masks to be remembered of a generator's images",
        lambda: from_generator(NumpyDataGenerator(X, Y, batch_size=2), mask_every=5),
        ValueError,
        "mask_every=5 needs to know which sample is which; use fit",
    ),
]


@each(MISTAKES)
def test_a_mistake_gets_its_sentence_and_changes_nothing(mistake):
    """No weight, no setting."""
    before = [value.clone() for value in CLASSIFIER.model.state_dict().values()], repr(PIXEL), repr(WRAPPED)
    mistake.check()
    assert all(map(torch.equal, before[0], CLASSIFIER.model.state_dict().values()))
    assert before[1:] == (repr(PIXEL), repr(WRAPPED))


def test_there_are_many_and_no_two_alike():
    assert len({mistake.what for mistake in MISTAKES}) == len(MISTAKES) >= 60
