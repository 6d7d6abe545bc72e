"""Crops and flips of images, and of the masks that belong to them."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, SVHN

from part_plugin import PART
from part_plugin.recipes.augmentation import MovedMasks, augmentation
from part_plugin.recipes.datasets import load_dataset

PADDED = ("cifar10", "svhn", "imagefolder")


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def save(array, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def write_gradient(root, name, monkeypatch):
    """Write one training image whose pixels tell their column and row, all of them above 0."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = np.arange(1, 33), np.arange(1, 33)[:, None], 255
    if name == "imagefolder":
        save(image, root / "train" / "a" / "0.png")
    elif name == "svhn":
        from scipy.io import savemat

        savemat(root / "train_32x32.mat", {"X": image[..., None].repeat(2, 3), "y": np.array([[1], [2]])})
        monkeypatch.setitem(SVHN.split_list, "train", ["", "train_32x32.mat", md5(root / "train_32x32.mat")])
    else:
        folder = root / CIFAR10.base_folder
        folder.mkdir()
        (folder / "data_batch_1").write_bytes(
            pickle.dumps({"data": image.transpose(2, 0, 1).reshape(1, -1), "labels": [0]})
        )
        (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
        monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", md5(folder / "data_batch_1")]])
        monkeypatch.setattr(CIFAR10, "test_list", [])
        monkeypatch.setitem(CIFAR10.meta, "md5", md5(folder / "batches.meta"))


@pytest.mark.parametrize("name", PADDED)
def test_augmentation_crops_by_up_to_an_eighth_and_flips_all_but_digits(tmp_path, monkeypatch, name):
    write_gradient(tmp_path, name, monkeypatch)
    plain = load_dataset(name, tmp_path, split="train")
    assert torch.equal(plain[0][0], plain[0][0])
    augmented = load_dataset(name, tmp_path, split="train", augment=True)
    shifts, flipped = set(), set()
    torch.manual_seed(0)
    for _ in range(200):
        x, label = augmented[0]
        assert x.shape == plain[0][0].shape
        assert x.dtype == torch.float32
        assert x.min() >= 0
        assert x.max() <= 1
        assert label == plain[0][1]
        columns, rows = (x[:2, 16, 16] * 255).round().int().tolist()  # of the pixel that is now in the middle
        mirrored = bool(x[0, 16, 15] > x[0, 16, 16])
        flipped.add(mirrored)
        shifts.add((rows - 17, columns - (16 if mirrored else 17)))
    assert flipped == ({False} if name == "svhn" else {False, True})
    assert {shift for shift, _ in shifts} == set(range(-4, 5))
    assert {shift for _, shift in shifts} == set(range(-4, 5))


def test_augmentation_pads_each_side_by_an_eighth_of_it(tmp_path):
    save(np.full((8, 32, 3), 255, np.uint8), tmp_path / "a" / "0.png")
    augmented = load_dataset("imagefolder", tmp_path, split="train", augment=True)
    torch.manual_seed(0)
    black = [augmented[0][0][0] == 0 for _ in range(100)]
    assert max(int(pixels.all(1).sum()) for pixels in black) == 1
    assert max(int(pixels.all(0).sum()) for pixels in black) == 4


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_masks_move_with_their_images(name):
    """The mask of an image is the image's own bright pixels, before and after; padding is not important."""
    part = PART(burn_in=0, mask_every=5)
    noise = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    images = 0.05 + 0.9 * torch.arange(24) / 24 + 0.05 * noise  # brighter to the right
    part._masks = {n: np.packbits((image[:1] > 0.5).numpy()) for n, image in enumerate(images)}
    samples = [(image, n) for n, image in enumerate(images)]
    moved = MovedMasks(samples, part, augmentation(name, (16, 24)))
    flipped = shifted = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(8):
            for n in range(6):
                image, label, index, mask = moved[n]
                assert (type(image), type(mask), label, index) == (torch.Tensor, torch.Tensor, n, n)
                assert torch.equal(mask, image[:1] > 0.5)
                shifted += not torch.equal(image, images[n])
                flipped += bool(image[0, 8, 4] > image[0, 8, 19])
    assert shifted > 40
    assert (flipped > 0) == (name == "cifar10")
    still = MovedMasks(samples, part)[3]
    assert torch.equal(still[0], images[3])
    assert torch.equal(still[3], images[3, :1] > 0.5)
    del part._masks[3]
    assert MovedMasks(samples, part)[3][3].all()
