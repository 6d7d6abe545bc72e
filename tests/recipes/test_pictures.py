"""Picture files as images."""

import numpy as np
import pytest
import torch
from PIL import Image

from part_plugin.recipes.pictures import load_pictures


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of one size in RGB, and their pixels (2, 4, 6, 3)."""
    values = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    paths = [tmp_path / "a.png", tmp_path / "b.bmp"]
    for path, image in zip(paths, values, strict=True):
        Image.fromarray(image).save(path)
    return paths, values


def test_pictures_are_their_pixels(pictures):
    paths, values = pictures
    images = load_pictures(paths)
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.from_numpy(values).permute(0, 3, 1, 2) / 255)
    assert torch.equal(load_pictures(paths[::-1]), images.flip(0))


def test_grey_and_transparent_pictures_have_three_channels(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([grey, grey, grey, 255 - grey], 2), "RGBA").save(tmp_path / "clear.png")
    images = load_pictures([tmp_path / "grey.png", tmp_path / "clear.png"])
    assert torch.equal(images, torch.from_numpy(grey).expand(2, 3, 3, 4) / 255)


def test_pictures_are_resized(tmp_path):
    """One colour stays itself; a left and a right half stay left and right, whatever the size was."""
    for name, size in (("a", (5, 9)), ("b", (40, 30))):
        halves = np.zeros((*size, 3), np.uint8)
        halves[:, size[1] // 2 :] = (200, 100, 50)
        Image.fromarray(halves).save(tmp_path / f"{name}.png")
    images = load_pictures([tmp_path / "a.png", tmp_path / "b.png"], (6, 12))
    assert images.shape == (2, 3, 6, 12)
    assert torch.equal(images[..., 0], torch.zeros(2, 3, 6))
    colour = torch.tensor([200, 100, 50]) / 255
    assert torch.equal(images[..., -1], colour[None, :, None].expand(2, 3, 6))


def test_pictures_of_several_sizes_need_a_size(tmp_path, pictures):
    paths, _ = pictures
    Image.new("RGB", (6, 5)).save(tmp_path / "c.png")
    with pytest.raises(ValueError) as caught:
        load_pictures([*paths, tmp_path / "c.png"])
    assert str(caught.value) == f"pictures '{paths[0]}' and '{tmp_path}/c.png' have sizes 4x6 and 5x6; a size is needed"


def test_files_that_are_no_pictures(tmp_path, pictures):
    with pytest.raises(FileNotFoundError) as caught:
        load_pictures([tmp_path / "none.png"])
    assert str(caught.value) == f"picture '{tmp_path}/none.png' does not exist"
    whole = pictures[0][0].read_bytes()
    for name, content in (("text.png", b"hello"), ("cut.png", whole[: len(whole) // 2]), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            load_pictures([tmp_path / name])
        assert str(caught.value) == f"picture '{tmp_path}/{name}' is damaged or no picture"
