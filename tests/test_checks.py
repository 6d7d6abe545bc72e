"""One sentence for each wrong argument, and nothing said of a right one."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from part_plugin.checks import (
    check_batch,
    check_choice,
    check_class_range,
    check_clip,
    check_count,
    check_flag,
    check_images,
    check_number,
    check_seed,
    check_within,
    class_indices,
    shown,
)

NAN, INF = float("nan"), float("inf")


def refused(error, message, function, *args, **options):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*args, **options)


def test_numbers():
    for value in (0, 0.0, 1, 0.5, np.float32(0.5), np.int64(3), Fraction(1, 2)):
        found = check_number("x", value)
        assert type(found) is float
        assert found == value
    assert check_number("x", -3, None) == -3
    assert check_number("x", 1, 0, high=1) == 1
    for value, options, message in (
        (-0.1, {}, "x=-0.1 is not allowed; it must be >= 0"),
        (NAN, {}, "x=nan is not allowed; it must be >= 0"),
        (INF, {}, "x=inf is not allowed; it must be finite and >= 0"),
        (0, {"above": True}, "x=0 is not allowed; it must be > 0"),
        (0.4, {"low": 0.5, "above": True}, "x=0.4 is not allowed; it must be > 0.5"),
        (2, {"high": 1.5}, "x=2 is not allowed; it must be >= 0 and <= 1.5"),
        (2, {"low": None, "high": 1}, "x=2 is not allowed; it must be finite and <= 1"),
        (-INF, {"low": None}, "x=-inf is not allowed; it must be finite"),
    ):
        refused(ValueError, message, check_number, "x", value, **options)
    for value, kind in (("1", "str"), (None, "NoneType"), (True, "bool"), (torch.tensor(1.0), "Tensor"), ([1], "list")):
        refused(TypeError, f"x={value!r} is a {kind}; a number is needed", check_number, "x", value)


def test_counts():
    for value in (1, 5, np.int32(4)):
        found = check_count("n", value)
        assert type(found) is int
        assert found == value
    assert check_count("n", 0, 0) == 0
    refused(ValueError, "n=0 is not allowed; it must be >= 1", check_count, "n", 0)
    refused(ValueError, "n=2 is not allowed; it must be >= 3", check_count, "n", 2, 3)
    for value, kind in ((1.0, "float"), (True, "bool"), ("1", "str")):
        refused(TypeError, f"n={value!r} is a {kind}; an integer is needed", check_count, "n", value)


def test_choices():
    assert check_choice("c", "b", ("a", "b")) == "b"
    refused(ValueError, "c='x' is not known; choose from 'a', 'b'", check_choice, "c", "x", ("a", "b"))


def test_clips():
    low, high = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    for clip in ((0, 1), (-2.5, 255.0), [0, 1], (low, high), (1.0, 1.0 + 1e-9)):
        found = check_clip(clip)
        assert type(found) is tuple
        assert found[0] is clip[0]
        assert found[1] is clip[1]
    for clip in (0.5, None, (0,), (0, 1, 2), ("a", "b"), "01x"):
        message = f"clip={clip!r} is not a pair; (smallest, largest) pixel value is needed, e.g. (0, 1)"
        refused(TypeError, message, check_clip, clip)
    for clip in ((NAN, 1), (0, INF), (1, 0), (1, 1), (low, 0 * high)):
        message = f"clip={shown(clip)} is not allowed; two finite bounds are needed, the first below the second"
        refused(ValueError, message, check_clip, clip)
    channels = np.zeros((3, 1, 1)), np.ones((3, 1, 1))
    found = check_clip(channels)
    assert all(isinstance(bound, torch.Tensor) and bound.dtype == torch.float32 for bound in found)
    check_images(torch.rand(2, 3, 4, 4), found)
    for clip, shapes in (
        (([0, 0, 0], [1, 1, 1]), "(3,) and (3,)"),
        ((0, torch.ones(3)), "() and (3,)"),
        ((torch.zeros(4, 4), 1), "(4, 4) and ()"),
    ):
        message = f"clip has bounds of shape {shapes}; numbers or tensors that fit images, (C, 1, 1), are needed"
        refused(ValueError, message, check_clip, clip)


def test_radii_that_fit_the_range():
    for radius, clip in ((0.3, (0, 1)), (1, (0, 1)), (8, (0, 255)), (2, (-1, 1)), (1 + 1e-7, (0, 1)), (0, (0, 1))):
        assert check_within("eps", radius, clip) == radius
    channels = (torch.zeros(3, 1, 1), torch.tensor([1.0, 3.0, 2.0]).reshape(3, 1, 1))
    assert check_within("eps", 3, channels) == 3
    for radius, clip, message in (
        (8, (0, 1), "eps=8 is larger than the range of the images, 1; did you mean 8/255?"),
        (1.001, (0.0, 1.0), "eps=1.001 is larger than the range of the images, 1; did you mean 1.001/255?"),
        (8, (-1, 1), "eps=8 is larger than the range of the images, 2"),
        (256, (0, 255), "eps=256 is larger than the range of the images, 255"),
        (INF, (0, 255), "eps=inf is larger than the range of the images, 255"),
        (3.5, channels, "eps=3.5 is larger than the range of the images, 3"),
    ):
        refused(ValueError, message, check_within, "eps", radius, clip)


def test_images():
    good = torch.rand(2, 3, 4, 4)
    for images, clip in (
        (good, (0, 1)),
        (good - 5e-5, (0, 1)),
        (good + 5e-5, (0, 1)),
        (255 * good, (0, 255)),
        (255 * good + 0.02, (0, 255)),
        (4 * good - 1 + 3e-4, (-1, 3)),
        (good.bfloat16(), (0, 1)),
        (good, (torch.zeros(3, 1, 1), torch.tensor([0.5, 1.0, 0.5]).reshape(3, 1, 1))),
    ):
        check_images(images, clip)
    high, low, dark = good.clone(), good.clone(), good.clone()
    over = 4 * good - 1
    over[0, 0, 0, 0] = 3.0005
    refused(ValueError, f"images span [{float(over.min()):.4g}, 3]; allowed is [-1, 3]", check_images, over, (-1, 3))
    high[0, 0, 0, 0], low[0, 0, 0, 0], dark[0, 0, 0, 0] = 1.001, -0.5, -INF
    refused(
        ValueError,
        f"images span [{float(high.min()):.4g}, 1.001]; allowed is [0, 1]; hint",
        check_images,
        high,
        hint="; hint",
    )
    refused(ValueError, f"images span [-0.5, {float(low.max()):.4g}]; allowed is [0, 1]", check_images, low)
    refused(ValueError, f"images span [-0.5, {float(low.max()):.4g}]; allowed is [0, 255]", check_images, low, (0, 255))
    refused(ValueError, "images contain NaN or infinite values; they must be finite", check_images, dark)
    refused(ValueError, "images contain NaN or infinite values; they must be finite", check_images, good * NAN)


def test_batches():
    check_batch(torch.rand(1, 1, 1, 1).double())
    message = "images are {}; a floating-point tensor is needed (uint8 / 255 for pictures)"
    refused(TypeError, message.format("torch.uint8"), check_batch, torch.zeros(1, 1, 4, 4, dtype=torch.uint8))
    message = "images are a {}; a floating-point tensor is needed ({})"
    made = "torch.from_numpy(x).float() makes one"
    refused(TypeError, message.format("ndarray", made), check_batch, np.zeros((1, 1, 4, 4)))
    refused(TypeError, message.format("list", "torch.stack makes one of a list"), check_batch, [torch.rand(1, 4, 4)])
    refused(TypeError, message.format("str", "uint8 / 255 for pictures"), check_batch, "images")
    sparse = torch.rand(1, 1, 4, 4).to_sparse()
    message = "images are torch.sparse_coo; a dense tensor is needed: images.to_dense()"
    refused(TypeError, message, check_batch, sparse)
    for shape in ((1, 4, 4), (0, 1, 4, 4), (1, 1, 1, 4, 4)):
        message = f"images have shape {shape}; (N, C, H, W) with N >= 1 is needed"
        message += ": images[None] for one image, images[:, None] for grey ones" if len(shape) == 3 else ""
        refused(ValueError, message, check_batch, torch.zeros(shape))


def test_labels():
    expected = torch.tensor([2, 0, 1])
    for labels in (
        expected,
        expected[:, None],
        expected.int(),
        expected.float(),
        expected.numpy(),
        [2, 0, 1],
        torch.nn.functional.one_hot(expected, 4),
        torch.nn.functional.one_hot(expected, 4) == 1,
        torch.nn.functional.one_hot(expected, 3).double(),
    ):
        found = class_indices(labels, 3)
        assert found.dtype == torch.long
        assert torch.equal(found, expected)
    assert torch.equal(class_indices(expected, 3, 3), expected)
    soft = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    flags = "labels are torch.bool; class indices are needed (labels.long() for classes 0 and 1)"
    for labels, classes, error, message in (
        (expected, 2, ValueError, "labels contain class 2; allowed is 0 to 1"),
        (-expected, None, ValueError, "labels contain class -2; allowed is 0 and above"),
        (expected[:2], None, ValueError, "labels have shape (2,); expected (3,), (3, 1) or (3, K)"),
        (torch.zeros(2, 3), None, ValueError, "labels have shape (2, 3); expected (3,), (3, 1) or (3, K)"),
        (torch.zeros(3, 2, 2), None, ValueError, "labels have shape (3, 2, 2); expected (3,), (3, 1) or (3, K)"),
        (soft, None, ValueError, "labels of shape (3, 2) are not one-hot; each row needs a single 1"),
        (torch.ones(3, 2), None, ValueError, "labels of shape (3, 2) are not one-hot; each row needs a single 1"),
        (torch.zeros(3, 2), None, ValueError, "labels of shape (3, 2) are not one-hot; each row needs a single 1"),
        (expected + 0.5, None, ValueError, "labels are not whole numbers; class indices are needed"),
        (expected * NAN, None, ValueError, "labels are not whole numbers; class indices are needed"),
        (None, None, TypeError, "labels=None is not allowed here; a tensor of class indices is needed"),
        (expected > 1, None, TypeError, flags),
        (expected[:, None] > 1, None, TypeError, flags),
        ("abc", None, TypeError, "labels are a str; a tensor of class indices is needed"),
    ):
        refused(error, message, class_indices, labels, 3, classes)


def test_class_ranges():
    check_class_range(torch.tensor([0, 9]), 10)
    refused(ValueError, "labels contain class 10; allowed is 0 to 9", check_class_range, torch.tensor([0, 10]), 10)
    refused(ValueError, "labels contain class -1; allowed is 0 to 9", check_class_range, torch.tensor([-1, 10]), 10)


def test_values_as_messages_show_them():
    assert shown(8) == "8"
    assert shown("pgd") == "'pgd'"
    assert shown(torch.zeros(2, 2)) == "<Tensor>"  # two lines
    assert shown("x" * 58) == repr("x" * 58)
    assert shown("x" * 59) == "<str>"
    assert shown(lambda x: x) == "<<lambda>>"
    assert shown(refused) == "<refused>"


def test_flags():
    for value in (True, 1, np.True_):
        assert check_flag("random_start", value) is True
    for value in (False, 0, np.False_):
        assert check_flag("random_start", value) is False
    for value, kind in ((0.5, "float"), (None, "NoneType"), ("no", "str"), (2, "int")):
        message = f"random_start={value!r} is a {kind}; True or False is needed"
        refused(TypeError, message, check_flag, "random_start", value)


def test_images_of_bytes_are_told_from_normalised_ones():
    images = torch.tensor([0.0, 200.0]).view(1, 1, 1, 2)
    message = "images span [0, 200]; allowed is [0, 1]; divide them by 255"
    refused(ValueError, message, check_images, images, hint="; hint")
    for low, high in ((0.0, 2.0), (-1.0, 200.0), (0.0, 256.0)):
        images = torch.tensor([low, high]).view(1, 1, 1, 2)
        message = f"images span [{low:g}, {high:g}]; allowed is [0, 1]; hint"
        refused(ValueError, message, check_images, images, hint="; hint")
    message = "images span [0, 256]; allowed is [0, 255]; hint"
    refused(ValueError, message, check_images, images, (0, 255), hint="; hint")


def test_seeds():
    for value in (0, 3, np.int64(3), 2**64 - 1):
        found = check_seed("seed", value)
        assert type(found) is int
        assert found == value
        torch.Generator().manual_seed(found)
    refused(ValueError, "seed=-1 is not allowed; it must be >= 0", check_seed, "seed", -1)
    refused(ValueError, "seed of 65 bits is not allowed; it must be < 2**64", check_seed, "seed", 2**64)
    refused(ValueError, "seed of 33220 bits is not allowed; it must be < 2**64", check_seed, "seed", 10**10_000)
    refused(TypeError, "seed=1.0 is a float; an integer is needed", check_seed, "seed", 1.0)
