"""Images under the common corruptions: the package's own, whatever the batch."""

import re
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from imagecorruptions import corrupt, get_corruption_names

from part_plugin.evaluation import CORRUPTIONS, corrupted
from part_plugin.evaluation.corrupted_images import GENERATOR, SEVERITIES, check_pictures, generator, severities_of

DETERMINISTIC = {
    "defocus_blur",
    "zoom_blur",
    "gaussian_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "saturate",
}


@pytest.fixture
def large(photos):
    """The photographs in 48x48 pixels."""
    return (255 * torch.nn.functional.interpolate(photos, (48, 48))).round() / 255


@pytest.fixture(params=["CIFAR-10-C", "ImageNet-C"])
def pictures(request, photos, large):
    """Photographs of both sizes."""
    chosen = photos if request.param == "CIFAR-10-C" else large
    assert severities_of(chosen) == request.param
    return chosen


def test_every_corruption_of_the_package_in_the_papers_order():
    assert set(CORRUPTIONS) == set(get_corruption_names("all"))
    assert len(CORRUPTIONS) == 19
    assert CORRUPTIONS[:4] == ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
    assert CORRUPTIONS[-3:] == ("pixelate", "jpeg_compression", "saturate")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_images_stay_images_and_depend_on_nothing_but_content_and_seed(pictures, corruption):
    photos = pictures
    for severity in (1, 5):
        images = corrupted(photos, corruption, severity)
        assert images.shape == photos.shape
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1
        assert torch.equal(images, (255 * images).round() / 255)
        assert all((image != photo).any() for image, photo in zip(images, photos, strict=True))
        in_parts = [corrupted(part, corruption, severity) for part in photos.flip(0).split(3)]
        assert torch.equal(torch.cat(in_parts).flip(0), images)
        assert torch.equal(corrupted(photos, corruption, severity, seed=1), images) == (corruption in DETERMINISTIC)


@pytest.mark.parametrize("corruption", sorted(DETERMINISTIC))
def test_the_package_called_directly_gives_the_same(large, corruption):
    photos = large
    images = (255 * corrupted(photos, corruption, 3)).round().byte().permute(0, 2, 3, 1).numpy()
    for image, photo in zip(images, photos, strict=True):
        picture = (255 * photo).round().byte().permute(1, 2, 0).contiguous().numpy()
        assert np.array_equal(image, corrupt(picture, severity=3, corruption_name=corruption))


def test_noise_has_the_strength_of_imagenet_c():
    """Impulses on 27 % of the values, a standard deviation of 0.08, and 60 photons at full brightness."""
    grey = torch.full((4, 3, 64, 64), 128 / 255)
    impulse = corrupted(grey, "impulse_noise", 5)
    assert float(((impulse == 0) | (impulse == 1)).float().mean()) == pytest.approx(0.27, abs=0.01)
    gaussian = corrupted(grey, "gaussian_noise", 1)
    assert float(gaussian.std()) == pytest.approx(0.08, abs=0.002)
    shot = corrupted(grey, "shot_noise", 1)
    assert float(shot.std()) == pytest.approx((128 / 255 / 60) ** 0.5, abs=0.002)


@pytest.mark.parametrize(
    "corruption", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "contrast", "brightness"]
)
def test_severity_is_a_strength(pictures, corruption):
    photos = pictures
    changes = [float((corrupted(photos, corruption, severity) - photos).abs().mean()) for severity in range(1, 6)]
    assert all(np.diff(changes) > 0)


def test_a_spatter_without_drops_leaves_the_image_as_it_is():
    """The package itself returns a black picture then."""
    grey = torch.full((1, 3, 33, 33), 128 / 255)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = torch.cat([corrupted(grey, "spatter", 1, seed) for seed in range(150)])
    unchanged = (images == grey).flatten(1).all(1)
    assert 0 < unchanged.sum() < 30
    assert (images.flatten(1).amax(1) > 0.4).all()


@pytest.mark.parametrize("shape", [(1, 3, 32, 48), (1, 3, 41, 33), (1, 3, 64, 64)])
def test_other_sizes_and_types(shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for corruption in CORRUPTIONS:
        result = corrupted(images, corruption, 5)
        assert (result.shape, result.dtype) == (images.shape, images.dtype)


def test_black_and_white_images():
    for side in (32, 40):
        images = torch.stack([torch.zeros(3, side, side), torch.ones(3, side, side)])
        for corruption in CORRUPTIONS:
            assert torch.isfinite(corrupted(images, corruption, 1)).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"corruption": "rain"},
            ValueError,
            f"corruption='rain' is not known; choose from {', '.join(map(repr, CORRUPTIONS))}",
        ),
        ({"severity": 6}, ValueError, "severity=6 is not known; choose from 1, 2, 3, 4, 5"),
        ({"seed": 0.5}, TypeError, "seed=0.5 is a float; an integer is needed"),
        ({"seed": -1}, ValueError, "seed=-1 is not allowed; it must be >= 0"),
        (
            {"images": torch.zeros(1, 4, 32, 32)},
            ValueError,
            "images have shape (1, 4, 32, 32); (N, 3, H, W) with H and W >= 32 is needed",
        ),
    ],
)
def test_wrong_arguments_of_corrupted(photos, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        corrupted(**({"images": photos, "corruption": "fog", "severity": 1} | options))


@pytest.mark.parametrize("shape", [(1, 3, 31, 32), (1, 3, 32, 31), (1, 1, 32, 32)])
def test_pictures_are_large_and_in_colour(shape):
    message = f"images have shape {shape}; (N, 3, H, W) with H and W >= 32 is needed"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_pictures(torch.zeros(shape))
    check_pictures(torch.zeros(1, 3, 32, 32))


def test_the_package_and_its_version():
    function, version = generator()
    assert function is corrupt
    assert version.startswith("1.")
    assert (GENERATOR, SEVERITIES) == ("imagecorruptions-imaug", (1, 2, 3, 4, 5))


@pytest.mark.parametrize("corruption", ["gaussian_noise", "impulse_noise", "glass_blur"])
def test_what_is_drawn_is_seeded_by_content_and_seed(large, corruption):
    """NumPy's generator, or the package's own where it has one, with the CRC of the picture and the seed."""
    images = (255 * corrupted(large, corruption, 2, seed=3)).round().byte().permute(0, 2, 3, 1).numpy()
    state = np.random.get_state()
    for image, photo in zip(images, large, strict=True):
        picture = (255 * photo).round().byte().permute(1, 2, 0).contiguous().numpy()
        seeds = np.random.SeedSequence([zlib.crc32(picture.tobytes()), 3]).generate_state(4)
        np.random.seed(seeds)
        options = {} if corruption == "gaussian_noise" else {"seed": int(seeds[0])}
        assert np.array_equal(image, corrupt(picture, severity=2, corruption_name=corruption, **options))
    np.random.set_state(state)


def test_a_package_that_is_missing_is_named(monkeypatch, photos):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(
        ImportError,
        match=r"^corruptions are generated by imagecorruptions-imaug \(.*\): pip install imagecorruptions-imaug$",
    ):
        corrupted(photos, "fog", 1)
