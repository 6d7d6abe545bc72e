"""TinyImageNet in the layouts in which it is found, with a few images."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from part_plugin.recipes.datasets import as_tensors, load_dataset

WNIDS = [f"n{number:08d}" for number in range(1000, 1200)]


def save(array, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


@pytest.fixture
def tiny(tmp_path):
    """TinyImageNet with one flat training image per class and three validation images; its own directory."""
    folder = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        save(np.full((64, 64, 3), number, np.uint8), folder / "train" / wnid / "images" / f"{wnid}_0.JPEG")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)))  # not sorted, as distributed
    for number in range(3):
        save(np.full((64, 64, 3), 50 * number, np.uint8), folder / "val" / "images" / f"val_{number}.JPEG")
    annotate(folder, {"val_0.JPEG": WNIDS[199], "val_1.JPEG": WNIDS[0], "val_2.JPEG": WNIDS[7]})
    return folder


def annotate(folder, wnid_of):
    lines = [f"{file}\t{wnid}\t0\t32\t44\t62\n" for file, wnid in wnid_of.items()]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


@pytest.mark.parametrize("own_directory", [False, True])
def test_tiny_imagenet_as_distributed(tmp_path, tiny, own_directory):
    root = tiny if own_directory else tmp_path
    x, y = as_tensors(load_dataset("tinyimagenet", root, split="train"))
    assert y.tolist() == list(range(200))
    assert x.shape == (200, 3, 64, 64)
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.arange(200) / 255, atol=1 / 255, rtol=0)
    x, y = as_tensors(load_dataset("tinyimagenet", root))
    assert y.tolist() == [199, 0, 7]
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.tensor([0, 50, 100]) / 255, atol=1 / 255, rtol=0)


def test_tiny_imagenet_with_validation_images_sorted_into_class_folders(tmp_path, tiny):
    for number, wnid in enumerate(WNIDS):
        save(np.full((64, 64, 3), number, np.uint8), tiny / "val" / wnid / "images" / "val.JPEG")
    for file in (tiny / "val" / "images").iterdir():  # the folder itself is left, as sorting scripts leave it
        file.unlink()
    x, y = as_tensors(load_dataset("tinyimagenet", tmp_path))
    assert y.tolist() == list(range(200))
    torch.testing.assert_close(x.mean((1, 2, 3)), torch.arange(200) / 255, atol=1 / 255, rtol=0)
    (tiny / "val" / WNIDS[4] / "images" / "val.JPEG").unlink()
    assert message(ValueError, load_dataset, "tinyimagenet", tmp_path) == (
        f"tinyimagenet in root='{tmp_path}' is damaged: val: Found no valid file for the classes {WNIDS[4]}"
    )


@pytest.mark.parametrize(
    ("entry", "split"),
    [
        ("wnids.txt", "test"),
        ("train", "train"),
        ("val", "test"),
        ("val/val_annotations.txt", "test"),
        ("val/images", "test"),
    ],
)
def test_tiny_imagenet_with_something_missing(tmp_path, tiny, entry, split):
    (tiny / entry).rename(tmp_path / "elsewhere")
    assert message(FileNotFoundError, load_dataset, "tinyimagenet", tmp_path, split) == (
        f"tinyimagenet is not complete in root='{tmp_path}' ({entry} is missing); unpack tiny-imagenet-200.zip there"
    )


def test_tiny_imagenet_damaged(tmp_path, tiny):
    def complaint(split="test"):
        text = message(ValueError, load_dataset, "tinyimagenet", tmp_path, split)
        start = f"tinyimagenet in root='{tmp_path}' is damaged: "
        assert text.startswith(start)
        return text.removeprefix(start)

    good = (tiny / "val" / "val_annotations.txt").read_text()
    (tiny / "val" / "val_annotations.txt").write_text(good.replace("val_1.JPEG", "val_3.JPEG"))
    assert complaint() == "val_1.JPEG is in only one of val/images and val/val_annotations.txt"
    (tiny / "val" / "val_annotations.txt").write_text(good + "val_5.JPEG\tn00001000\n")
    assert complaint() == "val_5.JPEG is in only one of val/images and val/val_annotations.txt"
    (tiny / "val" / "val_annotations.txt").write_text(good[: good.index("val_2") + len("val_2.JPEG")])  # cut short
    assert complaint() == "val_2.JPEG is in only one of val/images and val/val_annotations.txt"
    (tiny / "val" / "val_annotations.txt").write_text(good.replace(WNIDS[7], "n9"))
    assert complaint() == "class n9 is in val/val_annotations.txt, but not in wnids.txt"
    (tiny / "train" / WNIDS[3]).rename(tiny / "train" / "n7")
    assert complaint("train") == f"class {WNIDS[3]} is in only one of train and wnids.txt"
    (tiny / "wnids.txt").write_text("\n".join(WNIDS[:5]))
    assert complaint("train") == "wnids.txt lists 5 classes; it must list 200"


def test_datasets_go_through_worker_processes(tmp_path, tiny):
    loader = DataLoader(load_dataset("tinyimagenet", tmp_path), 3, num_workers=1, multiprocessing_context="spawn")
    ((_, y),) = list(loader)
    assert y.tolist() == [199, 0, 7]
