"""Samples in memory: the same images to the bit, as bytes where that loses nothing."""

import pytest
import torch
from torch.utils.data import DataLoader

from part_plugin.recipes import samples
from part_plugin.recipes.samples import InMemory, Numbered, collated, in_memory, numbers_of, whole


def photos(n=600):
    """Images as ToTensor makes them of bytes, of all values."""
    pixels = torch.arange(n * 3 * 4 * 4, dtype=torch.int64).remainder(256).to(torch.uint8)
    return pixels.view(n, 3, 4, 4).float().div(255)


@pytest.mark.parametrize("workers", [0, 1])
def test_bytes_give_the_same_numbers(workers):
    x = photos()
    stored = in_memory([(image, number % 10) for number, image in enumerate(x)], 10, workers)
    assert stored.images.dtype == torch.uint8
    assert torch.equal(numbers_of(stored.images), x)
    loader = DataLoader(stored, 7, sampler=range(3, 50), collate_fn=whole)
    for first, (images, labels, numbers) in zip(range(3, 50, 7), loader, strict=True):
        rows = torch.arange(first, min(first + 7, 50))
        assert torch.equal(numbers, rows)
        assert torch.equal(labels, rows % 10)
        assert torch.equal(numbers_of(images), x[rows])
    assert torch.equal(stored[5][0], stored.images[5])


def test_numbers_that_are_no_bytes_stay(monkeypatch):
    """Also where only a later part of them are none."""
    x = photos()
    x[300] += 0.001
    x = x.clamp(max=1)
    stored = in_memory([(image, 0) for image in x], 10)
    assert stored.images.dtype == torch.float32
    assert torch.equal(stored.images, x)


def test_too_many_come_one_by_one(monkeypatch):
    x = photos(40)
    data = [(image, 1) for image in x]
    assert isinstance(in_memory(data, 10), InMemory)
    monkeypatch.setattr(samples, "_MEMORY", 40 * 48 - 1)
    stored = in_memory(data, 10)
    assert isinstance(stored, Numbered)
    images, labels, numbers = next(iter(DataLoader(stored, 40, collate_fn=collated, num_workers=1)))
    assert torch.equal(images, x)
    assert labels.tolist() == [1] * 40
    assert numbers.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("second", "error", "sentence"),
    [
        ((torch.zeros(3, 4, 5), 0), ValueError, "images 0 and 1 have sizes 3x4x4 and 3x4x5; one is needed"),
        ((torch.full((3, 4, 4), 1.5), 0), ValueError, "images span [0, 1.5]; allowed is [0, 1]"),
        (("cat", 0), TypeError, "the dataset's images are str; tensors are needed (ToTensor)"),
        ((torch.zeros(3, 4, 4), "cat"), TypeError, "the dataset's classes are 'cat' and the like; class indices"),
        ((torch.zeros(3, 4, 4), 10), ValueError, "labels contain class 10; allowed is 0 to 9"),
        ((torch.zeros(3, 4, 4), 0.5), ValueError, "labels"),
    ],
)
def test_what_is_no_sample_is_told(second, error, sentence):
    with pytest.raises(error) as caught:
        in_memory([(torch.zeros(3, 4, 4), 0), second], 10)
    assert sentence in str(caught.value)
    if error is ValueError and "sizes" in sentence:
        with pytest.raises(ValueError, match="the dataset has images of sizes 3x4x4 and 3x4x5; one is needed"):
            in_memory([(torch.zeros(3, 4, 4), 0)] * 256 + [second], 10)
