"""Accuracy under corruptions: on images of one's own and on CIFAR-10-C's files."""

import json
import random
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot
from torch import nn

from part_plugin.evaluation import CORRUPTIONS, CorruptionResult, corrupted, corruption_accuracy

TRIO = ("fog", "gaussian_noise", "contrast")


def test_accuracies_are_those_computed_by_hand(cifar_net, photos, labels):
    result = corruption_accuracy(
        cifar_net, photos, labels, corruptions=TRIO, severities=(1, 5), batch_size=3, seed=2, verbose=False
    )
    assert list(result.table.index) == list(TRIO)
    assert list(result.table.columns) == [1, 5]
    for corruption in TRIO:
        for severity in (1, 5):
            with torch.no_grad():
                correct = cifar_net(corrupted(photos, corruption, severity, seed=2)).argmax(1) == labels
            assert result.table.loc[corruption, severity] == correct.float().mean()
    assert result.n == 8
    assert result.source.startswith("generated with the severities of CIFAR-10-C, imagecorruptions-imaug 1.")
    assert 0 < result.mean < 1


@pytest.fixture(scope="module")
def small_net(photos):
    """A network of random weights, which is right about the photographs by definition and favours no class."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = SmallNet(3).eval()
    with torch.no_grad():
        net.head.bias -= net(photos).mean(0)
    return net


@pytest.fixture(scope="module")
def small_labels(small_net, photos):
    with torch.no_grad():
        return small_net(photos).argmax(1)


def test_formats_of_images_and_labels(small_net, photos, small_labels):
    def table(x, y, **options):
        settings = {"corruptions": ["shot_noise"], "severities": [2, 4], "verbose": False} | options
        return corruption_accuracy(small_net, x, y, **settings).table

    expected = table(photos, small_labels)
    assert expected.equals(table(photos.numpy(), small_labels.numpy(), batch_size=5))
    assert expected.equals(table(photos, nn.functional.one_hot(small_labels, 10), severities=np.array([2, 4, 2])))
    assert table(photos, small_labels, n_examples=3).equals(table(photos[:3], small_labels[:3]))


def test_files_give_what_robustbench_gives(cifar_net, cifar_10_c):
    from part_plugin.adapters.robustbench import robustbench

    result = corruption_accuracy(
        cifar_net,
        data_dir=cifar_10_c,
        n_examples=9,
        corruptions=("fog", "contrast"),
        severities=(1, 5),
        batch_size=5,
        verbose=False,
    )
    for corruption in ("fog", "contrast"):
        for severity in (1, 5):
            x, y = robustbench.data.load_cifar10c(9, severity, str(cifar_10_c), corruptions=[corruption])
            assert result.table.loc[corruption, severity] == robustbench.utils.clean_accuracy(cifar_net, x, y)
    assert (result.source, result.n) == ("CIFAR-10-C files", 9)


def test_files_and_generated_images_agree(cifar_net, cifar_10_c, photos, labels):
    settings = {"corruptions": ["fog"], "severities": [3], "verbose": False}
    files = corruption_accuracy(cifar_net, data_dir=str(cifar_10_c), n_examples=8, **settings)
    assert files.table.equals(corruption_accuracy(cifar_net, photos, labels, **settings).table)


def test_nothing_is_left_behind(photos, labels):
    """Neither on the model nor in the random state of NumPy, Python and torch."""
    torch.manual_seed(0)
    net = SmallNet(3).train()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    nn.functional.cross_entropy(net(photos), labels).backward()
    before = snapshot(net)
    np.random.seed(5)
    numpy_state, python_state, torch_state = np.random.get_state(), random.getstate(), torch.random.get_rng_state()
    corruption_accuracy(net, photos, labels, severities=[3], verbose=False)
    with pytest.raises(ValueError, match="labels contain class 10; allowed is 0 to 9"):
        corruption_accuracy(net, photos, labels + 10 - labels.max(), severities=[3], verbose=False)
    assert_untouched(net, before)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))
    assert random.getstate() == python_state
    assert torch.equal(torch.random.get_rng_state(), torch_state)


def test_inference_mode(small_net, photos, small_labels):
    settings = {"corruptions": ["fog"], "severities": [2], "verbose": False}
    expected = corruption_accuracy(small_net, photos, small_labels, **settings).table
    with torch.inference_mode():
        assert corruption_accuracy(small_net, photos * 1, small_labels * 1, **settings).table.equals(expected)


def test_forms_of_a_reference(small_net, photos, small_labels):
    def measured(model, **options):
        settings = {"corruptions": TRIO, "severities": [4, 5], "verbose": False} | options
        return corruption_accuracy(model, photos, small_labels, **settings)

    first_result = measured(small_net)
    assert (first_result.by_corruption < 1).all()
    assert measured(small_net, reference=first_result).mce == pytest.approx(1)
    assert measured(small_net, reference=first_result.table).mce == pytest.approx(1)
    doubled = (2 * (1 - first_result.by_corruption)).clip(upper=1)
    relative = measured(small_net, reference=doubled.to_dict())
    assert relative.mce == pytest.approx(((1 - first_result.by_corruption) / doubled).mean())
    first = measured(small_net, corruptions=["fog"], severities=[5], reference=first_result)
    assert first.reference == pytest.approx({"fog": 1 - first_result.table.loc["fog", 5]})


def test_a_measured_result_is_plain_data(small_net, photos, small_labels):
    settings = {"corruptions": ["fog"], "severities": np.array([5]), "verbose": False}
    first_result = corruption_accuracy(small_net, photos, small_labels, **settings)
    related = corruption_accuracy(small_net, photos, small_labels, **settings, reference=first_result)
    again = CorruptionResult.from_dict(json.loads(json.dumps(related.to_dict())))
    pd.testing.assert_frame_equal(again.table, related.table)
    assert again.mce == related.mce == 1


class Untouchable(nn.Module):
    """A wrong argument is noticed before the model is called."""

    def forward(self, images):
        raise AssertionError("called")


REFERENCE = dict.fromkeys(CORRUPTIONS, 0.5)


NAMES = ", ".join(map(repr, CORRUPTIONS))
NEEDS_ALL = "it needs every corruption that is evaluated"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model is a str; a torch.nn.Module is needed"),
        ({"x": None}, ValueError, "either x and y or data_dir is needed; given is y"),
        ({"y": None}, ValueError, "either x and y or data_dir is needed; given is x"),
        ({"x": None, "y": None}, ValueError, "either x and y or data_dir is needed; given is none of them"),
        ({"data_dir": "."}, ValueError, "either x and y or data_dir is needed; given is x and y and data_dir"),
        ({"data_dir": ".", "x": None}, ValueError, "either x and y or data_dir is needed; given is y and data_dir"),
        (
            {"x": torch.full((8, 3, 32, 32), 255.0)},
            ValueError,
            "images span [255, 255]; allowed is [0, 1]; divide them by 255",
        ),
        (
            {"x": torch.zeros(8, 3, 32, 32).byte()},
            TypeError,
            "images are torch.uint8; a floating-point tensor is needed (uint8 / 255 for pictures)",
        ),
        (
            {"x": torch.zeros(8, 1, 32, 32)},
            ValueError,
            "images have shape (8, 1, 32, 32); (N, 3, H, W) with H and W >= 32 is needed",
        ),
        (
            {"x": torch.zeros(8, 3, 8, 8)},
            ValueError,
            "images have shape (8, 3, 8, 8); (N, 3, H, W) with H and W >= 32 is needed",
        ),
        ({"y": torch.zeros(7)}, ValueError, "labels have shape (7,); expected (8,), (8, 1) or (8, K)"),
        ({"y": torch.full((8,), -1)}, ValueError, "labels contain class -1; allowed is 0 and above"),
        ({"n_examples": 9}, ValueError, "n_examples=9 is not allowed; there are 8 images"),
        ({"n_examples": 0}, ValueError, "n_examples=0 is not allowed; it must be >= 1"),
        ({"corruptions": ["fog", "rain"]}, ValueError, f"corruptions holds 'rain'; choose from {NAMES}"),
        ({"corruptions": "fog"}, TypeError, "corruptions='fog' is a str; a list is needed"),
        ({"corruptions": []}, ValueError, f"corruptions is empty; choose from {NAMES}"),
        ({"severities": (0, 1)}, ValueError, "severities holds 0; choose from 1, 2, 3, 4, 5"),
        ({"severities": 5}, TypeError, "severities=5 is a int; a list is needed"),
        ({"severities": ()}, ValueError, "severities is empty; choose from 1, 2, 3, 4, 5"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed; it must be >= 1"),
        ({"seed": -1}, ValueError, "seed=-1 is not allowed; it must be >= 0"),
        ({"reference": {"fog": 0.5}}, ValueError, f"reference has no 'gaussian_noise'; {NEEDS_ALL}"),
        (
            {"reference": REFERENCE | {"fog": 0.0}},
            ValueError,
            "reference['fog']=0.0 is not allowed; it must be > 0",
        ),
        (
            {"reference": REFERENCE | {"fog": 50.0}},
            ValueError,
            "reference['fog']=50 is not allowed; an error rate is at most 1",
        ),
        (
            {"reference": pd.DataFrame({5: REFERENCE})},
            ValueError,
            "reference has no severity 1; it needs every severity that is evaluated",
        ),
        ({"reference": 0.5}, TypeError, "reference is a float; a result, its table or a dictionary is needed"),
    ],
)
def test_wrong_arguments(photos, labels, options, error, message):
    options = {"model": Untouchable(), "x": photos, "y": labels, "verbose": False} | options
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        corruption_accuracy(**options)


def test_a_reference_of_one(photos, labels, small_net, small_labels):
    """An error of 1 is the largest that is allowed."""
    settings = {"corruptions": ["fog"], "severities": [5], "verbose": False}
    result = corruption_accuracy(small_net, photos, small_labels, **settings, reference={"fog": 1.0, "rain": 7.0})
    assert result.reference == {"fog": 1.0}
    assert result.mce == pytest.approx(result.unnormalised)


def test_what_is_asked_for_twice_is_done_once(photos, small_net, small_labels):
    settings = {"corruptions": ["fog", "contrast", "fog"], "severities": [5, 1, 5], "verbose": False}
    table = corruption_accuracy(small_net, photos, small_labels, **settings).table
    assert table.index.tolist() == ["fog", "contrast"]
    assert table.columns.tolist() == [5, 1]


def test_logits_are_needed(photos, labels):
    with pytest.raises(ValueError, match=r"the model's output is \(8, 3, 32, 32\); logits of shape \(8, K\)"):
        corruption_accuracy(nn.Identity(), photos, labels, verbose=False)


def test_a_package_that_is_missing_is_named_before_any_work(monkeypatch, photos, labels):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(
        ImportError,
        match=r"^corruptions are generated by imagecorruptions-imaug \(.*\): pip install imagecorruptions-imaug$",
    ):
        corruption_accuracy(Untouchable(), photos, labels, verbose=False)
