"""Crops and flips of images, and of the masks that belong to them."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
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


def numbered(height=16, width=24):
    """An image (3, H, W) whose pixels all differ and are above 0, and a random mask (1, H, W)."""
    image = (1 + torch.arange(3.0 * height * width).reshape(3, height, width)) / (3 * height * width)
    return image, torch.rand(1, height, width, generator=torch.Generator().manual_seed(0)) > 0.5


def all_moves(image, mask, flips):
    """Every crop and flip of an image and its mask as (image, mask), by slices of what was padded by hand."""
    (_, height, width), moves = image.shape, []
    rows, columns = height // 8, width // 8
    padded = torch.zeros(4, height + 2 * rows, width + 2 * columns)
    padded[:3, rows : rows + height, columns : columns + width] = image
    padded[3:, rows : rows + height, columns : columns + width] = mask
    for top in range(2 * rows + 1):
        for left in range(2 * columns + 1):
            crop = padded[:, top : top + height, left : left + width]
            moves += [(one[:3], one[3:] > 0) for one in ((crop, crop.flip(2)) if flips else (crop,))]
    return moves


def remembering(part, number, mask, epoch=0):
    part.set_epoch(epoch)
    part.masks_due()
    part.masks.put(torch.tensor([number]), mask[None])


@pytest.mark.parametrize("name", ["cifar10", "svhn", "imagefolder"])
def test_a_mask_moves_as_its_image_does_in_every_crop_and_flip(name):
    """Brute force: each draw is one of all moves, for image and mask the same; and each move is drawn."""
    image, mask = numbered()
    moves = all_moves(image, mask, flips=name != "svhn")
    assert len(moves) == 5 * 7 * (1 if name == "svhn" else 2)
    part = PART(burn_in=0, mask_every=5)
    remembering(part, 0, mask)
    moved = MovedMasks([(image, 3)], part, augmentation(name, (16, 24)))
    drawn = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(20 * len(moves)):
            x, label, index, moved_mask = moved[0]
            assert (type(x), type(moved_mask), label, index) == (torch.Tensor, torch.Tensor, 3, 0)
            (found,) = [number for number, (one, _) in enumerate(moves) if torch.equal(one, x)]
            assert moved_mask.dtype == torch.bool
            assert torch.equal(moved_mask, moves[found][1])
            drawn.add(found)
    assert drawn == set(range(len(moves)))


def test_the_augmentation_of_load_dataset_is_the_same_moves(tmp_path):
    mask = numbered()[1]
    values = (1 + torch.arange(16 * 24).reshape(16, 24) % 251).to(torch.uint8).numpy()
    save(np.stack([values, values[::-1], values[:, ::-1]], 2), tmp_path / "a" / "0.png")
    plain = load_dataset("imagefolder", tmp_path, split="train")[0][0]
    moves = [one for one, _ in all_moves(plain, mask, flips=True)]
    augmented = load_dataset("imagefolder", tmp_path, split="train", augment=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(100):
            x = augmented[0][0]
            assert any(torch.equal(x, one) for one in moves)


def test_masks_stay_without_moves_and_are_full_while_burning_in():
    image, mask = numbered()
    part = PART(burn_in=1, mask_every=5)
    still = MovedMasks([(image, 7), (1 - image, 8)], part)
    part.set_epoch(0)
    assert torch.equal(still[1][3], torch.ones(1, 16, 24, dtype=torch.bool))
    remembering(part, 1, mask, epoch=1)
    assert len(still) == 2
    assert torch.equal(still[1][0], 1 - image)
    assert still[1][1:3] == (8, 1)
    assert torch.equal(still[1][3], mask)


def test_a_mask_that_is_missing_after_the_burn_in_is_an_error():
    """Also in the workers of a loader that began before the masks were made, and after a renewal."""
    image, mask = numbered()
    part = PART(burn_in=0, mask_every=2)
    samples = MovedMasks([(image, 7)] * 8, part)
    message = r"no mask is remembered of sample {} in epoch {}: call remember for all samples after set_epoch, and only"
    part.set_epoch(0)
    for number in range(8):
        remembering(part, number, mask) if number != 5 else None
    assert torch.equal(samples[4][3], mask)
    with pytest.raises(RuntimeError, match=message.format(5, 0)):
        samples[5]
    with pytest.raises(RuntimeError, match=message.format(5, 0)):
        list(DataLoader(samples, 4, num_workers=1))
    part.set_epoch(1)
    assert torch.equal(samples[4][3], mask)
    part.set_epoch(2)
    with pytest.raises(RuntimeError, match=message.format(4, 2)):
        samples[4]
    with pytest.raises(RuntimeError, match="count epochs: call set_epoch"):
        MovedMasks([(image, 7)], PART(mask_every=2))[0]


def test_an_image_may_have_no_room_to_be_cropped():
    """An eighth of less than 8 pixels is none: such images are flipped alone."""
    image = torch.rand(3, 7, 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        moved = [augmentation("cifar10", (7, 5))(image)[0] for _ in range(20)]
    assert {torch.equal(one, image) for one in moved} == {True, False}
    assert all(torch.equal(one, image) or torch.equal(one, image.flip(2)) for one in moved)


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_each_image_of_a_batch_moves_on_its_own(name):
    """By brute force, of bytes too: the batch has every move, all about as often, and its masks moved alike."""
    image, mask = numbered()
    image = (250 * image).round().byte() // 2
    image[0] = 1 + torch.arange(24)  # tells columns, and the second rows
    image[1] = 1 + torch.arange(16)[:, None]
    moves = all_moves(image.float(), mask, flips=name != "svhn")
    n = 200 * len(moves)
    generator = torch.Generator().manual_seed(0)
    images, masks = image.expand(n, -1, -1, -1), mask.expand(n, -1, -1, -1)
    moved, moved_masks = augmentation(name, (16, 24))(images, masks, generator)
    assert (moved.dtype, moved_masks.dtype) == (torch.uint8, torch.bool)
    both = torch.cat([moved, moved_masks], 1)
    counts = [int((both == torch.cat([one.byte(), its])).flatten(1).all(1).sum()) for one, its in moves]
    assert sum(counts) == n
    assert min(counts) > 120  # of 200 expected, five standard deviations less are 130
    again = augmentation(name, (16, 24))(images, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again[0], moved)
    assert again[1] is None
