"""CIFAR-10-C's folder: read by RobustBench, never downloaded, and told damaged or foreign."""

import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from part_plugin.evaluation import cifar10c, corrupted, corruption_accuracy


class Untouchable(nn.Module):
    """A wrong file is noticed before the model is called."""

    def forward(self, images):
        raise AssertionError("called")


def test_labels_and_images(cifar_10_c, photos, labels):
    classes = cifar10c.load_labels(cifar_10_c)
    assert classes.shape == (10_000,)
    assert classes.dtype == torch.int64
    assert torch.equal(classes[:8], labels)
    load = cifar10c.loader(str(cifar_10_c), ["fog", "contrast"])
    for name, severity in (("fog", 1), ("contrast", 4)):
        images = load(name, severity, 9)
        assert torch.allclose(images[:8], corrupted(photos, name, severity), atol=1e-6)
        assert not images[8].any()
        assert images.shape == (9, 3, 32, 32)


def from_files(folder, **options):
    settings = {"corruptions": ["fog"], "severities": [1], "n_examples": 8, "verbose": False} | options
    return corruption_accuracy(Untouchable(), data_dir=folder, **settings)


def test_missing_files_are_named_and_nothing_is_made_or_downloaded(tmp_path, cifar_10_c):
    absent = tmp_path / "absent"
    message = (
        f"data_dir={str(absent)!r} holds no CIFAR-10-C/labels.npy; unpack CIFAR-10-C.tar of "
        "https://zenodo.org/records/2535967 in it"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        from_files(absent)
    assert not absent.exists()
    with pytest.raises(FileNotFoundError, match="holds no CIFAR-10-C/snow.npy"):
        from_files(cifar_10_c, corruptions=["fog", "snow"])
    with pytest.raises(ValueError, match="n_examples=10001 is not allowed; there are 10000 images"):
        from_files(cifar_10_c, n_examples=10_001)


def truncated(file):
    np.save(file, np.zeros((50, 32, 32, 3), np.uint8))
    file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (truncated, "fog.npy' is damaged or no array; unpack CIFAR-10-C.tar again"),
        (lambda file: file.write_bytes(b""), "fog.npy' is damaged or no array"),
        (lambda file: file.write_text("fog"), "fog.npy' is damaged or no array"),
        (
            lambda file: np.save(file, np.zeros((8, 32, 32, 3), np.uint8)),
            r"fog.npy' holds uint8 \(8, 32, 32, 3\); CIFAR-10-C has uint8 \(50000, 32, 32, 3\) there",
        ),
        (lambda file: np.save(file, np.zeros((50_000, 1), np.float32)), r"fog.npy' holds float32 \(50000, 1\)"),
        (lambda file: np.savez(file.open("wb"), np.zeros(3)), "fog.npy' holds NpzFile; CIFAR-10-C has"),
    ],
)
def test_wrong_files_are_named(tmp_path, write, message):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.zeros(50_000, np.uint8))
    write(folder / "fog.npy")
    with pytest.raises(ValueError, match=message):
        from_files(tmp_path)


def test_wrong_labels_file(tmp_path):
    (tmp_path / "CIFAR-10-C").mkdir()
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.zeros(50_000))
    with pytest.raises(ValueError, match=r"labels.npy' holds float64 \(50000,\); CIFAR-10-C has integer \(50000,\)"):
        from_files(tmp_path)


def test_a_package_that_is_missing_is_named(monkeypatch, cifar_10_c):
    monkeypatch.setitem(sys.modules, "part_plugin.adapters.robustbench", None)
    with pytest.raises(
        ImportError, match=r"^data_dir is read by RobustBench \(.*\): pip install part_plugin\[robustbench\]$"
    ):
        from_files(cifar_10_c)
