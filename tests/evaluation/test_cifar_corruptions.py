"""The corruptions of CIFAR-10-C: each against another way to compute it, and their strengths on grey pictures."""

import colorsys
import io

import cv2
import numpy as np
import pytest
from imagecorruptions import corruptions as package
from PIL import Image

from part_plugin.evaluation import CORRUPTIONS
from part_plugin.evaluation.cifar_corruptions import _FUNCTIONS, corrupted_small
from part_plugin.evaluation.cifar_filters import clouds, enlarged, moved, smooth
from part_plugin.evaluation.cifar_severities import SIDE, STRENGTHS

GREY = np.full((SIDE, SIDE, 3), 128, np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def picture(photos):
    """A photograph in bytes."""
    return (255 * photos[0]).round().byte().permute(1, 2, 0).contiguous().numpy()


def test_each_corruption_has_five_strengths():
    assert set(STRENGTHS) == set(CORRUPTIONS) == set(_FUNCTIONS)
    assert all(len(strengths) == 5 for strengths in STRENGTHS.values())


def many(corruption, severity):
    """200 grey pictures under a corruption, in [0, 1]."""
    return np.stack([corrupted_small(GREY, corruption, severity, rng(seed)) for seed in range(200)]) / 255


@pytest.mark.parametrize(("severity", "scale", "photons", "share", "speckle"), [
    (1, 0.04, 500, 0.01, 0.06), (3, 0.08, 100, 0.03, 0.12), (5, 0.1, 50, 0.07, 0.2),
])  # fmt: skip
def test_noise_has_the_strength_of_cifar_10_c(severity, scale, photons, share, speckle):
    grey = 128 / 255
    assert many("gaussian_noise", severity).std() == pytest.approx(scale, rel=0.01)
    assert many("shot_noise", severity).std() == pytest.approx((grey / photons) ** 0.5, rel=0.01)
    assert many("speckle_noise", severity).std() == pytest.approx(grey * speckle, rel=0.01)
    impulses = many("impulse_noise", severity)
    assert (impulses == 0).mean() == pytest.approx(share / 2, rel=0.06)  # of some 3,000 or more
    assert (impulses == 1).mean() == pytest.approx(share / 2, rel=0.06)
    assert set(np.unique(impulses)) == {0, grey, 1}


def test_what_is_behind_the_point_is_cut_off():
    """0.75 of 2 is 1.5, which CIFAR-10-C stores as 1."""
    striped = np.zeros((SIDE, SIDE, 3), np.uint8)
    striped[::2] = 4
    assert set(np.unique(corrupted_small(striped, "contrast", 1, rng()))) == {0, 3}


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_defocus_is_a_soft_disk(picture, severity):
    radius, soft = STRENGTHS["defocus_blur"][severity - 1]
    kernel = package.disk(radius, soft)
    expected = cv2.filter2D(picture / 255.0, -1, kernel)
    found = corrupted_small(picture, "defocus_blur", severity, rng())
    assert np.abs(found - np.floor(255 * expected)).max() <= 1


@pytest.mark.parametrize("angle", [0, 30, -30, 45, -45, -90, -120, 90])
def test_motion_is_a_blur_along_a_direction(picture, angle):
    """As imagecorruptions computes it, which follows ImageMagick too."""
    found = moved(picture / 255, 6, 1.5, angle)
    assert np.abs(255 * found - package._motion_blur(picture, 6, 1.5, angle)).max() <= 1.01


def test_clouds_are_a_plasma_fractal():
    """With the same numbers drawn those of imagecorruptions."""
    np.random.seed(3)
    expected = package.plasma_fractal(SIDE, 2.5)
    assert np.allclose(clouds(2.5, np.random.RandomState(3)), expected, atol=1e-5)


def test_a_picture_is_enlarged_about_its_middle():
    rows = np.tile(np.arange(SIDE)[:, None], (1, SIDE)).astype(float)
    assert np.array_equal(enlarged(rows, 1.0), rows)
    large = enlarged(rows, 2.0)
    assert large.shape == (SIDE, SIDE)
    assert (large.min(), large.max()) == (8, 23)  # the middle half
    assert np.allclose(enlarged(rows.T, 2.0), large.T)


def test_zoom_is_the_mean_of_enlarged_pictures(picture):
    x = picture / 255
    expected = (x + sum(enlarged(x, factor) for factor in np.arange(1, 1.11, 0.01))) / (
        1 + len(np.arange(1, 1.11, 0.01))
    )
    assert np.array_equal(corrupted_small(picture, "zoom_blur", 2, rng()), np.floor(255 * expected + 1e-9))


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("corruption", ["brightness", "saturate"])
def test_colours_in_hsv(corruption, severity):
    """Pixel by pixel with Python's colorsys, greys and black among them."""
    colours = rng().integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    colours[0] = np.arange(0, 256, 8)[:, None]
    strength = STRENGTHS[corruption][severity - 1]
    found = corrupted_small(colours, corruption, severity, rng())
    for row, column in [(0, 0), (0, 1), (0, 31), *rng(1).integers(0, SIDE, (200, 2))]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(colours[row, column] / 255))
        if corruption == "brightness":
            value = min(value + strength, 1)
        else:
            saturation = min(max(saturation * strength[0] + strength[1], 0), 1)
        expected = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        assert (np.abs(found[row, column] - np.floor(expected + 1e-6)) <= (np.abs(expected - np.rint(expected)) < 1e-6)).all()  # fmt: skip  # noqa: E501


def test_pixels_and_jpeg_are_those_of_pillow(picture):
    small = Image.fromarray(picture).resize((24, 24), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    assert np.array_equal(corrupted_small(picture, "pixelate", 4, rng()), np.asarray(small))
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=58)
    assert np.array_equal(corrupted_small(picture, "jpeg_compression", 3, rng()), np.asarray(Image.open(file)))


def test_elastic_is_an_affine_map_and_a_smooth_field(picture):
    x = picture / 255
    elastic = _FUNCTIONS["elastic_transform"]
    assert np.allclose(elastic(x, (0, 0, 0), rng()), x)
    shift, drawn = 0.08, rng(5).uniform(-0.08 * SIDE, 0.08 * SIDE, (3, 2))
    points = np.float32([[26, 26], [26, 6], [6, 6]])
    map_there = cv2.getAffineTransform(points, np.float32(points + drawn))
    expected = cv2.warpAffine(np.float32(x), map_there, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    assert np.abs(elastic(x, (0, 0, shift), rng(5)) - expected).mean() < 0.004  # cv2 counts in 32nds of a pixel
    strongest = elastic(x, (0.1, 0.03, 0), rng(5))
    assert 0.01 < np.abs(strongest - x).mean() < 0.1


def test_glass_gives_each_pixel_one_that_was_beside_it():
    """Without the blur, each value was at most one row and one column before, once a round."""
    numbers = np.arange(SIDE * SIDE).reshape(SIDE, SIDE, 1).repeat(3, 2) % 256
    x = _FUNCTIONS["glass_blur"](numbers / 255, (1e-3, 1), rng())
    found = np.rint(255 * x).astype(int)[..., 0]
    assert (found != numbers[..., 0]).mean() > 0.5
    for row in range(SIDE):
        for column in range(SIDE):
            near = numbers[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1, 0]
            assert found[row, column] in near
    assert np.array_equal(found[:2], numbers[:2, :, 0])
    assert np.array_equal(found[:, :2], numbers[:, :2, 0])


def test_weather_adds_light_and_mud_takes_it(picture):
    x = picture / 255
    fog = _FUNCTIONS["fog"](x, (1.5, 1.75), rng())
    high = (x + 1.5 * clouds(1.75, rng())[..., None]) * x.max() / (x.max() + 1.5)
    assert np.allclose(fog, high)
    snow = _FUNCTIONS["snow"](x, STRENGTHS["snow"][0], rng())
    assert (snow >= 0.95 * x - 1e-9).all()
    assert snow.mean() > x.mean()
    assert np.array_equal(smooth(x, 0), x)
    frost = _FUNCTIONS["frost"](x, (0, 1), rng())
    assert 0.1 < frost.std() < 0.5
    assert not np.array_equal(frost, _FUNCTIONS["frost"](x, (0, 1), rng(1)))
    dry = _FUNCTIONS["spatter"](x, (0, 0.01, 0.7, 0.7, 0.5, False), rng())
    assert np.array_equal(dry, x)
    mud = [corrupted_small(np.full_like(picture, 255), "spatter", 5, rng(seed)) for seed in range(20)]
    assert {tuple(pixel) for one in mud for pixel in one.reshape(-1, 3)} >= {(255, 255, 255)}
    assert min(one.min() for one in mud) < 60  # mud brown
    water = [corrupted_small(np.zeros_like(picture), "spatter", 1, rng(seed)) for seed in range(20)]
    assert max(int(one[..., 2].max()) for one in water) == int(0.5 * 238)
    assert all((one[..., 1] == one[..., 2]).all() and (one[..., 0] <= one[..., 1]).all() for one in water)
