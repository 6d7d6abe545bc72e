"""Arrays as ART's users have them."""

import numpy as np
import pytest
import torch
from adapters.art.helpers import fresh, pgd
from art.defences.trainer import AdversarialTrainer

from part_plugin import PARTTrainer, PARTTrainerMART, PixelProjectedGradientDescent
from part_plugin.adapters.art.data import images_of

UNIT = (torch.tensor(0.0), torch.tensor(1.0))


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: np.asfortranarray(x),
        lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: torch.from_numpy(x).requires_grad_(),
    ],
    ids=["float64", "float16", "Fortran", "a view of channels last", "every other", "a tensor"],
)
def test_any_array_of_numbers_will_do(dataset, form):
    """Whatever its type and layout: the same examples, and the same weights."""
    x, y = (8 * dataset[0][:64]).round() / 8, dataset[1][:64]
    given, before = form(x), form(x)
    assert torch.equal(images_of(given, UNIT), torch.from_numpy(x))
    weights = []
    for images in (x, given):
        classifier = fresh()
        PARTTrainer(classifier, pgd(classifier)).fit(images, y, batch_size=32, nb_epochs=1, verbose=False)
        adv = PixelProjectedGradientDescent(classifier, eps=0.1, max_iter=1, verbose=False).generate(images, y)
        weights.append((classifier.model.head.weight, torch.from_numpy(adv)))
    assert all(map(torch.equal, *weights))
    assert (np.asarray(torch.as_tensor(given).detach()) == np.asarray(torch.as_tensor(before).detach())).all()


def test_soft_labels_of_one_class_each_are_hard_ones(dataset):
    """As ART takes them for its loss."""
    x, y = dataset[0][:64], dataset[1][:64]
    weights = []
    for labels in (y, np.eye(10)[y]):
        classifier = fresh()
        PARTTrainerMART(classifier, pgd(classifier)).fit(x, labels, nb_epochs=1, verbose=False)
        weights.append(classifier.model.head.weight)
    assert torch.equal(*weights)


def test_the_host_s_arrays_stay_as_they_are(dataset):
    x, y = dataset[0][:64].copy(), np.eye(10, dtype=np.float32)[dataset[1][:64]]
    for make in (AdversarialTrainer, PARTTrainer):
        classifier = fresh()
        before = x.copy(), y.copy()
        make(classifier, pgd(classifier)).fit(x, y, batch_size=32, nb_epochs=1)
        assert np.array_equal(x, before[0])
        assert np.array_equal(y, before[1])
