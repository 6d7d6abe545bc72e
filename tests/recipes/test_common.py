"""Sentences about what is missing, damaged or not there, and the devices of this machine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from part_plugin.recipes.common import class_folders, damaged, incomplete, usable_device


def test_the_sentences_name_the_dataset_the_root_and_the_reason():
    assert incomplete("svhn", Path("a b"), "x is missing", "do y") == (
        "svhn is not complete in root='a b' (x is missing); do y"
    )
    assert damaged("svhn", Path("data"), "x does not fit") == "svhn in root='data' is damaged: x does not fit"


def test_class_folders_are_numbered_by_name_and_their_images_are_tensors(tmp_path):
    for name, value in (("b", 51), ("a", 102)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(tmp_path / name / "0.png")
    dataset = class_folders("imagefolder", tmp_path, tmp_path)
    assert dataset.classes == ["a", "b"]
    for (image, label), value in zip(dataset, (0.4, 0.2), strict=True):
        torch.testing.assert_close(image, torch.full((3, 2, 3), value))
        assert label == (0 if value == 0.4 else 1)


def test_class_folders_without_images(tmp_path):
    """Without torchvision's list of thirty file endings."""
    with pytest.raises(FileNotFoundError) as caught:
        class_folders("mine", tmp_path, tmp_path)
    start = f"mine is not complete in root='{tmp_path}' "
    end = "; put class folders of images there"
    assert str(caught.value) == f"{start}(Couldn't find any class folder in {tmp_path}){end}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError) as caught:
        class_folders("mine", tmp_path, tmp_path)
    assert str(caught.value) == f"{start}(Found no valid file for the classes empty){end}"


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "meta"])
def test_a_device_that_is_there(device):
    assert usable_device("device", device) == torch.device(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", None, "cpu:x"])
def test_a_device_that_is_not(device):
    with pytest.raises(ValueError, match=rf"^--device={str(device)!r} cannot be used here \([^\n]+\)$"):
        usable_device("--device", device)
