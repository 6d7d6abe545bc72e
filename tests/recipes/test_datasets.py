"""Datasets of a few images in the layouts of the real ones."""

import hashlib
import importlib.util
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from torchvision.datasets import CIFAR10, SVHN

from part_plugin.recipes.datasets import as_tensors, load_dataset


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def save(array, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file)


def write_cifar10(root):
    """Write five training batches of 2 images and a test batch of 4; return the pixels of the test batch."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        batch = {"data": pixels(2, 3072, seed=number), "labels": [number, 9]}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    test = pixels(4, 3072, seed=9)
    (folder / "test_batch").write_bytes(pickle.dumps({"data": test, "labels": [3, 1, 0, 7]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return test.reshape(4, 3, 32, 32)


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A CIFAR-10 whose checksums torchvision takes for the real ones."""
    test = write_cifar10(tmp_path)
    folder = tmp_path / CIFAR10.base_folder
    for name in ("train_list", "test_list"):
        monkeypatch.setattr(CIFAR10, name, [[file, md5(folder / file)] for file, _ in getattr(CIFAR10, name)])
    monkeypatch.setitem(CIFAR10.meta, "md5", md5(folder / "batches.meta"))
    return test


def write_svhn(root):
    from scipy.io import savemat

    images = pixels(32, 32, 3, 5)
    for split in ("train", "test"):
        savemat(root / f"{split}_32x32.mat", {"X": images, "y": np.array([[10], [1], [9], [2], [10]])})
    return images.transpose(3, 2, 0, 1)


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    images = write_svhn(tmp_path)
    for split in ("train", "test"):
        url, file, _ = SVHN.split_list[split]
        monkeypatch.setitem(SVHN.split_list, split, [url, file, md5(tmp_path / file)])
    return images


def write_folders(root, classes=("bird", "cat"), size=(16, 16), seed=0):
    """Write two PNG images per class; return their pixels in the order of classes."""
    images = pixels(2 * len(classes), *size, 3, seed=seed)
    for number, image in enumerate(images):
        save(image, root / classes[number // 2] / f"{number}.png")
    return images.transpose(0, 3, 1, 2)


def assert_pixels(x, expected):
    assert x.dtype == torch.float32
    assert torch.equal((x * 255).round().to(torch.uint8), torch.from_numpy(expected.copy()))
    torch.testing.assert_close(x, torch.from_numpy(expected.astype(np.float32)) / 255)


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


def test_cifar10(tmp_path, cifar10):
    x, y = as_tensors(load_dataset("cifar10", tmp_path))
    assert_pixels(x, cifar10)
    assert y.tolist() == [3, 1, 0, 7]
    assert y.dtype == torch.int64
    x, y = as_tensors(load_dataset("cifar10", str(tmp_path), split="train"))
    assert y.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert_pixels(x[4:6], pixels(2, 3072, seed=3).reshape(2, 3, 32, 32))


def test_a_home_directory_is_expanded(tmp_path, cifar10, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset("cifar10", "~")) == 4


def test_svhn_has_the_digit_zero_as_class_zero(tmp_path, svhn):
    for split in ("train", "test"):
        x, y = as_tensors(load_dataset("svhn", tmp_path, split))
        assert_pixels(x, svhn)
        assert y.tolist() == [0, 1, 9, 2, 0]


@pytest.mark.parametrize(
    ("name", "split", "write", "file"),
    [
        ("cifar10", "test", write_cifar10, "cifar-10-batches-py/data_batch_4"),
        ("cifar10", "train", write_cifar10, "cifar-10-batches-py/batches.meta"),
        ("svhn", "train", write_svhn, "train_32x32.mat"),
        ("svhn", "test", write_svhn, "test_32x32.mat"),
    ],
)
def test_missing_and_damaged_files_are_told_apart(tmp_path, name, split, write, file):
    """No checksum is patched here: files that torchvision does not know are damaged ones."""
    write(tmp_path)
    first = "cifar-10-batches-py/data_batch_1" if name == "cifar10" else file
    assert message(ValueError, load_dataset, name, tmp_path, split) == (
        f"{name} in root='{tmp_path}' is damaged: {first} does not have the checksum that torchvision expects; "
        "delete it and pass download=True"
    )
    (tmp_path / file).unlink()
    assert message(FileNotFoundError, load_dataset, name, tmp_path, split) == (
        f"{name} is not complete in root='{tmp_path}' ({file} is missing); pass download=True or put the files there"
    )
    nowhere = tmp_path / "nowhere"
    assert f"{name} is not complete in root='{nowhere}' (" in message(FileNotFoundError, load_dataset, name, nowhere)
    assert not nowhere.exists()


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_download_happens_only_when_asked_for(tmp_path, monkeypatch, name):
    import torchvision.datasets.cifar
    import torchvision.datasets.svhn

    asked = []
    monkeypatch.setattr(
        torchvision.datasets.cifar, "download_and_extract_archive", lambda url, *a, **k: asked.append(url)
    )
    monkeypatch.setattr(torchvision.datasets.svhn, "download_url", lambda url, *a, **k: asked.append(url))
    message(FileNotFoundError, load_dataset, name, tmp_path)
    assert asked == []
    message(FileNotFoundError, load_dataset, name, tmp_path, download=True)  # nothing came
    assert len(asked) == 1
    assert asked[0].startswith("http")


def test_another_complaint_of_torchvision_is_passed_on(tmp_path, cifar10, monkeypatch):
    def complain(*args, **kwargs):
        raise RuntimeError("no space left on the moon")

    monkeypatch.setattr(CIFAR10, "_load_meta", complain)
    assert message(RuntimeError, load_dataset, "cifar10", tmp_path) == "no space left on the moon"


@pytest.mark.parametrize("test_folder", ["test", "val"])
def test_image_folders(tmp_path, test_folder):
    train = write_folders(tmp_path / "train", ("cat", "bird"), seed=1)
    test = write_folders(tmp_path / test_folder, seed=2)
    x, y = as_tensors(load_dataset("imagefolder", tmp_path, split="train"))
    assert y.tolist() == [0, 0, 1, 1]
    assert_pixels(x, train[[2, 3, 0, 1]])  # classes are sorted: bird, cat
    x, y = as_tensors(load_dataset("imagefolder", tmp_path))
    assert y.tolist() == [0, 0, 1, 1]
    assert_pixels(x, test)


def test_image_folders_test_goes_before_val(tmp_path):
    test = write_folders(tmp_path / "test", seed=1)
    write_folders(tmp_path / "val", seed=2)
    assert_pixels(as_tensors(load_dataset("imagefolder", tmp_path))[0], test)


def test_class_folders_in_the_root_are_both_splits(tmp_path):
    images = write_folders(tmp_path, size=(8, 12))
    for split in ("train", "test"):
        x, y = as_tensors(load_dataset("imagefolder", tmp_path, split))
        assert_pixels(x, images)
        assert y.tolist() == [0, 0, 1, 1]


def test_image_folders_that_do_not_fit(tmp_path):
    start = f"imagefolder is not complete in root='{tmp_path / 'a'}' "
    root = tmp_path / "a"
    remedy = "put class folders of images there"
    assert (
        message(FileNotFoundError, load_dataset, "imagefolder", root)
        == f"{start}(there is no such directory); {remedy}"
    )
    root.mkdir()
    text = message(FileNotFoundError, load_dataset, "imagefolder", root)
    assert text == f"{start}(Couldn't find any class folder in {root}); {remedy}"
    write_folders(root / "train")
    text = message(FileNotFoundError, load_dataset, "imagefolder", root)
    assert text == f"{start}(there is train, but no test); put the class folders of test there"
    write_folders(root / "test", ("bird", "dog"))
    assert message(ValueError, load_dataset, "imagefolder", root) == (
        f"root='{root}' has class 'cat' in only one of train and test"
    )
    (root / "train" / "ant").mkdir()
    text = message(FileNotFoundError, load_dataset, "imagefolder", root, "train")
    assert text == f"{start}(Found no valid file for the classes ant); {remedy}"


def test_images_of_different_sizes(tmp_path):
    write_folders(tmp_path / "a", ("bird",), size=(16, 16))
    write_folders(tmp_path / "b", ("cat",), size=(8, 20))
    (tmp_path / "b" / "cat").rename(tmp_path / "a" / "cat")
    dataset = load_dataset("imagefolder", tmp_path / "a")
    assert len(as_tensors(dataset, 2)[0]) == 2
    assert message(ValueError, as_tensors, dataset) == ("images 0 and 2 have sizes 3x16x16 and 3x8x20; one is needed")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"name": "cifar10c"},
            "name='cifar10c' is not known; choose from 'cifar10', 'svhn', 'tinyimagenet', 'digits', 'imagefolder'",
        ),
        ({"name": "cifar10", "split": "val"}, "split='val' is not known; choose from 'train', 'test'"),
        (
            {"name": "svhn", "augment": True},
            "augment=True is for training only; it needs split='train', not 'test'",
        ),
        (
            {"name": "tinyimagenet", "download": True},
            "download=True is possible for 'cifar10' and 'svhn' only; put the files of 'tinyimagenet' in root",
        ),
        (
            {"name": "imagefolder", "download": True},
            "download=True is possible for 'cifar10' and 'svhn' only; put the files of 'imagefolder' in root",
        ),
    ],
)
def test_wrong_arguments_of_load_dataset(tmp_path, arguments, expected):
    assert message(ValueError, load_dataset, root=tmp_path, **arguments) == expected


@pytest.mark.parametrize(("root", "kind"), [(None, "NoneType"), (3, "int"), (b"data", "bytes")])
def test_a_root_that_is_no_path(root, kind):
    expected = f"root={root!r} is a {kind}; a directory is needed"
    assert message(TypeError, load_dataset, "cifar10", root) == expected


def test_digits_are_scikit_learns_three_channels_wide():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    parts = {split: as_tensors(load_dataset("digits", None, split)) for split in ("train", "test")}
    assert [len(x) for x, _ in parts.values()] == [1397, 400]
    shares = torch.from_numpy(labels).bincount() * 400 / 1797  # of each class in the test set
    assert (parts["test"][1].bincount() - shares).abs().max() < 1
    for x, _ in parts.values():
        assert x.shape[1:] == (3, 8, 8)
        assert torch.equal(x, x[:, :1].expand(-1, 3, -1, -1))
    x, y = (torch.cat(both) for both in zip(*parts.values(), strict=True))
    found = [(*image, label) for image, label in zip((16 * x[:, 0]).flatten(1).tolist(), y.tolist(), strict=True)]
    assert sorted(found) == sorted((*image, label) for image, label in zip(images, labels, strict=True))


def test_digits_are_not_augmented():
    assert message(ValueError, load_dataset, "digits", "", "train", augment=True) == (
        "augment=True is not possible for 'digits'; their images have no room to be cropped"
    )


def test_missing_toolkits(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else found(name))
        assert message(ImportError, load_dataset, "svhn", tmp_path) == (
            "name='svhn' needs scipy, which is not installed: pip install scipy"
        )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.datasets", None)
        assert message(ImportError, load_dataset, "digits", "") == (
            "name='digits' needs scikit-learn, which is not installed: pip install scikit-learn"
        )
    monkeypatch.setitem(sys.modules, "torchvision", None)
    text = message(ImportError, load_dataset, "cifar10", tmp_path)
    assert text.startswith("load_dataset needs torchvision, which cannot be imported (")
    assert text.endswith("): pip install torchvision")


def test_the_module_imports_with_torch_and_numpy_alone():
    code = (
        "from part_plugin.recipes.presets import preset; import sys\n"
        "print(preset('svhn').alpha, {'torchvision', 'scipy', 'PIL', 'robustbench'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(1 / 255), "set()"]


IMAGE = torch.full((1, 2, 2), 0.5)


@pytest.fixture
def numbered():
    """Eight images whose pixels tell their number, which is also their class."""
    return TensorDataset(torch.arange(8.0)[:, None, None, None].expand(8, 1, 2, 2) / 8, torch.arange(8))


def test_as_tensors_takes_the_first_or_draws_at_random(numbered):
    x, y = as_tensors(numbered, 3)
    assert y.tolist() == [0, 1, 2]
    assert x.shape == (3, 1, 2, 2)
    assert torch.equal(x[:, 0, 0, 0], torch.tensor([0, 1, 2]) / 8)
    assert as_tensors(numbered)[1].tolist() == list(range(8))
    drawn = [as_tensors(numbered, 4, seed=seed)[1].tolist() for seed in range(20)]
    assert all(sorted(set(rows)) == rows and len(rows) == 4 for rows in drawn)
    assert len(set(map(tuple, drawn))) > 5
    assert {row for rows in drawn for row in rows} == set(range(8))
    x, y = as_tensors(numbered, 4, seed=3)
    assert y.tolist() == drawn[3]
    assert torch.equal(x[:, 0, 1, 1], y / 8)
    assert as_tensors(numbered, seed=3)[1].tolist() == list(range(8))


def test_as_tensors_asks_for_each_sample_once_and_in_order():
    """So that a dataset that augments, or reads from a disk, is asked no more than it must be."""
    asked = []

    class Asked(list):
        def __getitem__(self, index):
            asked.append(index)
            return torch.full((1, 1, 1), index / 8), 7 - index

    for n, seed in ((5, None), (8, None), (5, 2)):
        asked.clear()
        x, y = as_tensors(Asked(range(8)), n, seed)
        assert asked == sorted(set(asked))
        assert len(asked) == n
        assert torch.equal(x.flatten(), torch.tensor(asked) / 8)
        assert y.tolist() == [7 - index for index in asked]
        assert seed is not None or asked == list(range(n))
    drawn = torch.randperm(8, generator=torch.Generator().manual_seed(2))[:5]
    assert asked == sorted(drawn.tolist())


def test_as_tensors_leaves_the_global_generator_alone(numbered):
    before = torch.get_rng_state()
    as_tensors(numbered, 4, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_as_tensors_is_float32_whatever_comes_in(numbered):
    x, y = as_tensors([(image.double(), float(label)) for image, label in numbered])
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64


@pytest.mark.parametrize(
    ("dataset", "options", "error", "expected"),
    [
        (8, {"n": 10}, ValueError, "n=10 samples asked for; the dataset has 8"),
        (8, {"n": 0}, ValueError, "an empty subset was asked for (n=0 of 8 samples); at least one sample is needed"),
        (0, {}, ValueError, "an empty subset was asked for (n=0 of 0 samples); at least one sample is needed"),
        (8, {"n": -1}, ValueError, "n=-1 is not allowed; it must be >= 0"),
        (8, {"n": 2.0}, TypeError, "n=2.0 is a float; an integer is needed"),
        (8, {"seed": -1}, ValueError, "seed=-1 is not allowed; it must be >= 0"),
        ([("cat", 1)], {}, TypeError, "the dataset's images are str; tensors are needed (ToTensor)"),
        ([(IMAGE, "cat")], {}, TypeError, "the dataset's classes are 'cat' and the like; class indices are needed"),
        (
            [(IMAGE, torch.tensor([0, 1]))],
            {},
            TypeError,
            "the dataset's classes are tensor([0, 1]) and the like; class indices are needed",
        ),
        ([(IMAGE, 0.5)], {}, ValueError, "labels are not whole numbers; class indices are needed"),
        ([(IMAGE, 0), (IMAGE, -1)], {}, ValueError, "labels contain class -1; allowed is 0 and above"),
        ([(IMAGE, 0), (IMAGE + 1, 0)], {}, ValueError, "images span [0.5, 1.5]; allowed is [0, 1]"),
        (
            [(IMAGE, 0), (IMAGE[:, :1], 0)],
            {},
            ValueError,
            "images 0 and 1 have sizes 1x2x2 and 1x1x2; one is needed",
        ),
        (
            [(torch.full((1, 2, 2), 255, dtype=torch.uint8), 1)],
            {},
            ValueError,
            "images span [255, 255]; allowed is [0, 1]; divide them by 255",
        ),
    ],
)
def test_wrong_arguments_of_as_tensors(numbered, dataset, options, error, expected):
    dataset = [numbered[row] for row in range(dataset)] if isinstance(dataset, int) else dataset
    assert message(error, as_tensors, dataset, **options) == expected
