"""Datasets of a few images in the layouts of the real ones, and the paper's settings."""

import dataclasses
import hashlib
import importlib.util
import pickle
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import CIFAR10, SVHN

from part_plugin import PART
from part_plugin.adapters.robustbench import build_model
from part_plugin.checks import parse_radius
from part_plugin.recipes.augmentation import MovedMasks, augmentation
from part_plugin.recipes.datasets import as_tensors, load_dataset
from part_plugin.recipes.presets import PRESETS, preset

WNIDS = [f"n{number:08d}" for number in range(1000, 1200)]
PADDED = ("cifar10", "svhn", "imagefolder")


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


def test_datasets_go_through_worker_processes(tmp_path, tiny):
    loader = DataLoader(load_dataset("tinyimagenet", tmp_path), 3, num_workers=1, multiprocessing_context="spawn")
    ((_, y),) = list(loader)
    assert y.tolist() == [199, 0, 7]


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


def test_missing_toolkits(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else found(name))
        assert message(ImportError, load_dataset, "svhn", tmp_path) == (
            "name='svhn' needs scipy, which is not installed: pip install scipy"
        )
    monkeypatch.setitem(sys.modules, "torchvision", None)
    text = message(ImportError, load_dataset, "cifar10", tmp_path)
    assert text.startswith("load_dataset needs torchvision, which cannot be imported (")
    assert text.endswith("): pip install torchvision")


def test_the_module_imports_with_torch_and_numpy_alone():
    code = (
        "import sys, part_plugin.data\n"
        "print(part_plugin.data.preset('svhn').alpha, {'torchvision', 'scipy', 'PIL', 'robustbench'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(1 / 255), "set()"]


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
        (
            [(torch.full((1, 2, 2), 255, dtype=torch.uint8), 1)],
            {},
            ValueError,
            "images span [255, 255]; allowed is [0, 1]",
        ),
    ],
)
def test_wrong_arguments_of_as_tensors(numbered, dataset, options, error, expected):
    dataset = [numbered[row] for row in range(dataset)] if isinstance(dataset, int) else dataset
    assert message(error, as_tensors, dataset, **options) == expected


def test_presets_are_the_papers():
    """PART, Appendix G."""
    common = {
        "objective": "at",
        "beta": 6.0,
        "eps": 8 / 255,
        "eps_low": 7 / 255,
        "steps": 10,
        "burn_in": 20,
        "mask_every": 1,
        "cam": "gradcam",
        "attack": "pgd",
        "fast": (),
        "epochs": 80,
        "milestones": (60,),
        "momentum": 0.9,
        "seed": 0,
    }
    own = {
        "cifar10": {"alpha": 2 / 255, "lr": 0.01, "weight_decay": 2e-4, "batch_size": 128, "num_classes": 10},
        "svhn": {"alpha": 1 / 255, "lr": 0.01, "weight_decay": 3.5e-3, "batch_size": 128, "num_classes": 10},
        "tinyimagenet": {"alpha": 2 / 255, "lr": 0.02, "weight_decay": 5e-4, "batch_size": 512, "num_classes": 200},
    }
    assert list(PRESETS) == [*own, "digits"]
    for name, settings in own.items():
        made = dataclasses.asdict(preset(name))
        assert made == dataclasses.asdict(PRESETS[name])
        assert made.pop("architecture").endswith("WideResNet" if name == "tinyimagenet" else "ResNet18")
        del made["arguments"]
        assert made == {"dataset": name} | common | settings


def test_tiny_imagenet_gets_a_wide_resnet_34_10_for_its_images():
    chosen = preset("tinyimagenet")
    with torch.device("meta"):
        network = build_model(chosen.architecture, chosen.arguments)
        same = build_model("wide_resnet.WideResNet", {"depth": 34, "widen_factor": 10, "num_classes": 200})
    assert [weights.shape for weights in network.parameters()] == [weights.shape for weights in same.parameters()]
    narrow = {"depth_configs": [1, 1, 1], "channel_configs": [16, 16, 32, 64]}
    narrow = build_model(chosen.architecture, preset("tinyimagenet", arguments=narrow).arguments)
    assert narrow(torch.rand(2, 3, 64, 64)).shape == (2, 200)
    same = build_model("wide_resnet.WideResNet", {"depth": 10, "widen_factor": 1, "num_classes": 200})
    same.load_state_dict(dict(zip(same.state_dict(), narrow.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(same.eval()(images), narrow.eval()(images))
    assert same(torch.rand(2, 3, 64, 64)).shape == (8, 200)  # why it is not the one


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_the_small_datasets_get_a_resnet_18(name):
    chosen = preset(name)
    with torch.device("meta"):
        network = build_model(chosen.architecture, chosen.arguments)
    assert network.linear.out_features == chosen.num_classes == 10
    assert sum(weights.numel() for weights in network.parameters()) == 11_173_962


def test_presets_make_a_part():
    chosen = preset("svhn", objective="trades", eps="12/255", mask_every=10)
    names = ("objective", "beta", "eps", "eps_low", "alpha", "steps", "burn_in", "mask_every", "cam", "seed")
    part = PART(**{name: getattr(chosen, name) for name in names})
    assert (part.budget.eps, part.alpha, part.mask_every) == (12 / 255, 1 / 255, 10)


def test_overriding():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed = preset("cifar10", eps="8/255", eps_low=0, alpha=" 1 / 255 ", steps=7, milestones=[40, 60])
    assert changed == dataclasses.replace(PRESETS["cifar10"], eps_low=0.0, alpha=1 / 255, steps=7, milestones=(40, 60))
    assert changed.alpha == 1 / 255
    assert preset("cifar10") == PRESETS["cifar10"] != changed
    with pytest.raises(dataclasses.FrozenInstanceError):
        changed.eps = 0.1


def test_a_preset_shares_nothing_with_the_table():
    preset("tinyimagenet").arguments["depth_configs"].append(9)
    assert preset("tinyimagenet").arguments["depth_configs"] == [5, 5, 5]
    mine = {"depth_configs": [1]}
    preset("tinyimagenet", arguments=mine).arguments["depth_configs"].append(9)
    assert mine == {"depth_configs": [1]}


def test_the_number_of_classes_reaches_the_architecture():
    assert preset("tinyimagenet", num_classes=20).arguments["num_classes"] == 20
    assert preset("tinyimagenet", num_classes=20).arguments["depth_configs"] == [5, 5, 5]
    wide = preset("cifar10", architecture="wide_resnet.WideResNet", num_classes=7)
    assert wide.arguments == {"num_classes": 7}
    small = preset("tinyimagenet", architecture="resnet.ResNet18", num_classes=10)
    assert small.arguments == {}
    assert preset("tinyimagenet", arguments={"num_classes": 200}).arguments == {"num_classes": 200}


@pytest.mark.parametrize("eps", [0.03, 0.031, 0.0314, "0.031"])
def test_almost_the_usual_radius_is_warned_of(eps):
    expected = f"eps={float(eps):g} is not the usual radius 8/255 = 0.03137; pass eps='8/255' if that is meant"
    with pytest.warns(UserWarning, match="usual radius") as caught:
        assert preset("cifar10", eps=eps).eps == float(eps)
    assert [str(warning.message) for warning in caught] == [expected]
    assert caught[0].filename == __file__


@pytest.mark.parametrize("eps", [8 / 255, "8/255", 0.0313725, "10/255", 0.028, 0.1])
def test_other_radii_are_not_warned_of(eps):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert preset("cifar10", eps=eps).eps == float(Fraction(eps))


KNOWN = ", ".join(repr(known.name) for known in dataclasses.fields(PRESETS["svhn"]))


@pytest.mark.parametrize(
    ("overrides", "error", "expected"),
    [
        (
            {"name": "mnist"},
            ValueError,
            "name='mnist' is not known; choose from 'cifar10', 'svhn', 'tinyimagenet', 'digits'",
        ),
        ({"epsilon": 1}, ValueError, f"setting='epsilon' is not known; choose from {KNOWN}"),
        (
            {"dataset": "mnist"},
            ValueError,
            "dataset='mnist' is not known; choose from 'cifar10', 'svhn', 'tinyimagenet', ",
        ),
        ({"objective": "AT"}, ValueError, "objective='AT' is not known; choose from 'at', 'trades', 'mart'"),
        ({"attack": "fgsm"}, ValueError, "attack='fgsm' is not known; choose from 'pgd', 'mma'"),
        ({"cam": "gradcan"}, ValueError, "cam='gradcan' is not known; choose from 'gradcam', 'xgradcam', 'layercam'"),
        ({"cam": 3}, TypeError, "cam=3 is a int; a str is needed"),
        ({"steps": "10"}, TypeError, "steps='10' is a str; an integer is needed"),
        ({"steps": 0}, ValueError, "steps=0 is not allowed; it must be >= 1"),
        ({"num_classes": 1}, ValueError, "num_classes=1 is not allowed; it must be >= 2"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed; it must be >= 1"),
        ({"burn_in": -1}, ValueError, "burn_in=-1 is not allowed; it must be >= 0"),
        ({"lr": 0}, ValueError, "lr=0 is not allowed; it must be > 0"),
        ({"lr": "0.1"}, TypeError, "lr='0.1' is a str; a number is needed"),
        ({"weight_decay": -1}, ValueError, "weight_decay=-1 is not allowed; it must be >= 0"),
        ({"alpha": 0}, ValueError, "alpha=0.0 is not allowed; it must be > 0"),
        ({"eps": 8}, ValueError, "eps=8 is not a radius; it must be in [0, 1], as a number or as in '8/255'"),
        ({"architecture": None}, TypeError, "architecture=None is a NoneType; a str is needed"),
        ({"arguments": []}, TypeError, "arguments=[] is a list; a dict is needed"),
        ({"milestones": 60}, TypeError, "milestones=60 is a int; a list of epochs is needed"),
        ({"fast": 1}, TypeError, "fast=1 is a int; a list of options is needed"),
        ({"fast": ["quick"]}, ValueError, "fast holds 'quick'; choose from 'fold', 'compile', 'bfloat16', 'float16'"),
        ({"milestones": [0.5]}, TypeError, "milestones=0.5 is a float; an integer is needed"),
        ({"eps": "2/255"}, ValueError, "eps_low=0.027451 is larger than eps=0.00784314; it must be <= eps"),
        ({"eps_low": "9/255"}, ValueError, "eps_low=0.0352941 is larger than eps=0.0313725; it must be <= eps"),
        ({"epochs": 20}, ValueError, "burn_in=20 leaves none of epochs=20 for PART; it must be smaller"),
        (
            {"num_classes": 100, "architecture": "resnet.ResNet34"},
            ValueError,
            "num_classes=100 does not fit architecture 'resnet.ResNet34', which has 10; choose another, e.g. "
            "'resnet.ResNet18'",
        ),
        (
            {"arguments": {"num_classes": 7}},
            ValueError,
            "arguments have num_classes=7, and the setting is num_classes=10; give one",
        ),
    ],
)
def test_wrong_settings(overrides, error, expected):
    text = message(error, preset, **({"name": "cifar10"} | overrides))
    assert text.startswith(expected)
    assert "\n" not in text


def test_a_preset_is_printed_one_setting_a_line():
    assert str(preset("svhn", eps_low=0.0275)).splitlines() == [
        "dataset = svhn",
        "num_classes = 10",
        "architecture = resnet.ResNet18",
        "arguments = {}",
        "objective = at",
        "beta = 6.0",
        "eps = 8/255 (0.03137)",
        "eps_low = 7.013/255 (0.0275)",
        "alpha = 1/255 (0.003922)",
        "steps = 10",
        "burn_in = 20",
        "mask_every = 1",
        "cam = gradcam",
        "attack = pgd",
        "fast = ()",
        "epochs = 80",
        "milestones = (60,)",
        "lr = 0.01",
        "momentum = 0.9",
        "weight_decay = 0.0035",
        "batch_size = 128",
        "seed = 0",
    ]


@pytest.mark.parametrize(
    ("value", "radius"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.03", 0.03),
        ("1e-2", 0.01),
        (0.1, 0.1),
        (0, 0.0),
        (1, 1.0),
        ("0", 0.0),
    ],
)
def test_parse_radius(value, radius):
    parsed = parse_radius("eps", value)
    assert parsed == radius
    assert type(parsed) is float


@pytest.mark.parametrize(
    "value",
    ["x", "", "1/0", "8/", "8/255/2", "-1/255", -0.1, "nan", float("nan"), "inf", "1e999", 8, "__import__('os')"],
)
def test_parse_radius_refuses(value):
    assert message(ValueError, parse_radius, "eps_low", value) == (
        f"eps_low={value!r} is not a radius; it must be in [0, 1], as a number or as in '8/255'"
    )


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (True, "bool"), ([0.1], "list")])
def test_parse_radius_refuses_other_types(value, kind):
    assert message(TypeError, parse_radius, "eps", value) == (
        f"eps={value!r} is a {kind}; a number or text such as '8/255' is needed"
    )


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_masks_move_with_their_images(name):
    """The mask of an image is the image's own bright pixels, before and after; padding is not important."""
    part = PART(burn_in=0, mask_every=5)
    noise = torch.rand(6, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    images = 0.05 + 0.9 * torch.arange(24) / 24 + 0.05 * noise  # brighter to the right
    part._masks = {n: np.packbits((image[:1] > 0.5).numpy()) for n, image in enumerate(images)}
    samples = [(image, n) for n, image in enumerate(images)]
    moved = MovedMasks(samples, part, augmentation(name, (16, 24)))
    flipped = shifted = 0
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(8):
            for n in range(6):
                image, label, index, mask = moved[n]
                assert (type(image), type(mask), label, index) == (torch.Tensor, torch.Tensor, n, n)
                assert torch.equal(mask, image[:1] > 0.5)
                shifted += not torch.equal(image, images[n])
                flipped += bool(image[0, 8, 4] > image[0, 8, 19])
    assert shifted > 40
    assert (flipped > 0) == (name == "cifar10")
    still = MovedMasks(samples, part)[3]
    assert torch.equal(still[0], images[3])
    assert torch.equal(still[3], images[3, :1] > 0.5)
    del part._masks[3]
    assert MovedMasks(samples, part)[3][3].all()
