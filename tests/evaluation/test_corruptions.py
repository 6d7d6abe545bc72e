import json
import random
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot
from imagecorruptions import corrupt, get_corruption_names
from torch import nn

from part_plugin.evaluation.corruptions import CORRUPTIONS, CorruptionResult, corrupted, corruption_accuracy

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
TRIO = ("fog", "gaussian_noise", "contrast")


@pytest.fixture(scope="module")
def labels(cifar_net, photos):
    """What the network makes of the clean photographs: its accuracy on them is 1."""
    with torch.no_grad():
        return cifar_net(photos).argmax(1)


@pytest.fixture(scope="module")
def cifar_10_c(tmp_path_factory, photos, labels):
    """A folder in CIFAR-10-C's layout with two corruptions; all but eight images per severity are black."""
    folder = tmp_path_factory.mktemp("data") / "CIFAR-10-C"
    folder.mkdir()
    for name in ("fog", "contrast"):
        images = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        for severity in range(1, 6):
            pictures = (255 * corrupted(photos, name, severity)).round().byte().permute(0, 2, 3, 1)
            images[10_000 * (severity - 1) :][: len(photos)] = pictures.numpy()
        images.flush()
    classes = np.zeros(10_000, np.uint8)
    classes[: len(labels)] = labels.numpy()
    np.save(folder / "labels.npy", np.tile(classes, 5))
    return folder.parent


@pytest.fixture
def result():
    table = pd.DataFrame(
        [[0.9, 0.7], [0.5, 0.25]],
        pd.Index(["fog", "jpeg_compression"], name="corruption"),
        pd.Index([1, 5], name="severity"),
    )
    return CorruptionResult(table, "CIFAR-10-C files", 20)


def test_every_corruption_of_the_package_in_the_papers_order():
    assert set(CORRUPTIONS) == set(get_corruption_names("all"))
    assert len(CORRUPTIONS) == 19
    assert CORRUPTIONS[:4] == ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
    assert CORRUPTIONS[-3:] == ("pixelate", "jpeg_compression", "saturate")


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_images_stay_images_and_depend_on_nothing_but_content_and_seed(photos, corruption):
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
def test_the_package_called_directly_gives_the_same(photos, corruption):
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
def test_severity_is_a_strength(photos, corruption):
    changes = [float((corrupted(photos, corruption, severity) - photos).abs().mean()) for severity in range(1, 6)]
    assert all(np.diff(changes) > 0)


def test_a_spatter_without_drops_leaves_the_image_as_it_is():
    """The package itself returns a black picture then."""
    grey = torch.full((1, 3, 32, 32), 128 / 255)
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
    images = torch.stack([torch.zeros(3, 32, 32), torch.ones(3, 32, 32)])
    for corruption in CORRUPTIONS:
        assert torch.isfinite(corrupted(images, corruption, 1)).all()


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
    assert result.source.startswith("generated by imagecorruptions-imaug 1.")
    assert 0 < result.mean < 1


def test_formats_of_images_and_labels(cifar_net, photos, labels):
    def table(x, y, **options):
        settings = {"corruptions": ["shot_noise"], "severities": [2, 4], "verbose": False} | options
        return corruption_accuracy(cifar_net, x, y, **settings).table

    expected = table(photos, labels)
    assert expected.equals(table(photos.numpy(), labels.numpy(), batch_size=5))
    assert expected.equals(table(photos, nn.functional.one_hot(labels, 10), severities=np.array([2, 4, 2])))
    assert table(photos, labels, n_examples=3).equals(table(photos[:3], labels[:3]))


def test_files_give_what_robustbench_gives(cifar_net, cifar_10_c):
    from part_plugin.adapters.robustbench import robustbench

    result = corruption_accuracy(
        cifar_net,
        data_dir=cifar_10_c,
        n_examples=50,
        corruptions=("fog", "contrast"),
        severities=(1, 5),
        batch_size=20,
        verbose=False,
    )
    for corruption in ("fog", "contrast"):
        for severity in (1, 5):
            x, y = robustbench.data.load_cifar10c(50, severity, str(cifar_10_c), corruptions=[corruption])
            assert result.table.loc[corruption, severity] == robustbench.utils.clean_accuracy(cifar_net, x, y)
    assert (result.source, result.n) == ("CIFAR-10-C files", 50)


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


def test_inference_mode(cifar_net, photos, labels):
    settings = {"corruptions": ["fog"], "severities": [2], "verbose": False}
    expected = corruption_accuracy(cifar_net, photos, labels, **settings).table
    with torch.inference_mode():
        assert corruption_accuracy(cifar_net, photos * 1, labels * 1, **settings).table.equals(expected)


def test_means_and_mce_by_hand(result):
    assert result.by_corruption.to_dict() == pytest.approx({"fog": 0.8, "jpeg_compression": 0.375})
    assert result.mean == pytest.approx(0.5875)
    assert result.unnormalised == pytest.approx(0.4125)
    assert result.mce is None
    result.reference = {"jpeg_compression": 0.5, "fog": 0.4}
    assert result.mce == pytest.approx((0.2 / 0.4 + 0.625 / 0.5) / 2)


def test_forms_of_a_reference(cifar_net, photos, labels):
    def measured(model, **options):
        settings = {"corruptions": TRIO, "severities": [4, 5], "verbose": False} | options
        return corruption_accuracy(model, photos, labels, **settings)

    own = measured(cifar_net)
    assert (own.by_corruption < 1).all()
    assert measured(cifar_net, reference=own).mce == pytest.approx(1)
    assert measured(cifar_net, reference=own.table).mce == pytest.approx(1)
    doubled = (2 * (1 - own.by_corruption)).clip(upper=1)
    relative = measured(cifar_net, reference=doubled.to_dict())
    assert relative.mce == pytest.approx(((1 - own.by_corruption) / doubled).mean())
    first = measured(cifar_net, corruptions=["fog"], severities=[5], reference=own)
    assert first.reference == pytest.approx({"fog": 1 - own.table.loc["fog", 5]})


@pytest.mark.parametrize("reference", [None, {"fog": 0.4, "jpeg_compression": 0.5}])
def test_round_trip_through_json(result, reference):
    result.reference = reference
    again = CorruptionResult.from_dict(json.loads(json.dumps(result.to_dict(), sort_keys=True)))
    pd.testing.assert_frame_equal(again.table, result.table)
    assert (again.source, again.n, again.reference) == (result.source, result.n, reference)
    assert str(again) == str(result)


def test_a_measured_result_is_plain_data(cifar_net, photos, labels):
    settings = {"corruptions": ["fog"], "severities": np.array([5]), "verbose": False}
    own = corruption_accuracy(cifar_net, photos, labels, **settings)
    related = corruption_accuracy(cifar_net, photos, labels, **settings, reference=own)
    again = CorruptionResult.from_dict(json.loads(json.dumps(related.to_dict())))
    pd.testing.assert_frame_equal(again.table, related.table)
    assert again.mce == related.mce == 1


def test_wrong_plain_data(result):
    with pytest.raises(ValueError, match=r"values have the entries \['n', 'table'\]; \['n', 'reference', 'source'"):
        CorruptionResult.from_dict({"table": {}, "n": 1})


def test_text_forms(result):
    assert result.to_markdown() == (
        "| Corruption | Accuracy |\n|---|---:|\n| Fog | 80.00 |\n| JPEG Compression | 37.50 |\n| Mean | 58.75 |"
    )
    text = str(result)
    assert "accuracy in % by severity: 20 images, CIFAR-10-C files" in text
    assert text.endswith("mean accuracy 58.75%, mean corruption error 41.25%")
    assert text.splitlines()[-2].split() == ["JPEG", "Compression", "50.00", "25.00", "37.50"]
    result.reference = {"fog": 0.4, "jpeg_compression": 0.5}
    assert str(result).endswith("mean corruption error 41.25%, mCE 87.50% of the reference's")


class Untouchable(nn.Module):
    """A wrong argument is noticed before the model is called."""

    def forward(self, images):
        raise AssertionError("called")


REFERENCE = dict.fromkeys(CORRUPTIONS, 0.5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"x": None}, ValueError, "either x and y or data_dir is needed; given is y"),
        ({"x": None, "y": None}, ValueError, "either x and y or data_dir is needed; given is none of them"),
        ({"data_dir": "."}, ValueError, "either x and y or data_dir is needed; given is x and y and data_dir"),
        ({"x": torch.full((8, 3, 32, 32), 255.0)}, ValueError, r"images span \[255, 255\]; allowed is \[0, 1\]"),
        ({"x": torch.zeros(8, 3, 32, 32).byte()}, TypeError, "images are torch.uint8; a floating-point tensor"),
        (
            {"x": torch.zeros(8, 1, 32, 32)},
            ValueError,
            r"images have shape \(8, 1, 32, 32\); \(N, 3, H, W\) with H and W >= 32 is needed",
        ),
        ({"x": torch.zeros(8, 3, 8, 8)}, ValueError, r"images have shape \(8, 3, 8, 8\)"),
        ({"y": torch.zeros(7)}, ValueError, r"labels have shape \(7,\); expected \(8,\)"),
        ({"y": torch.full((8,), -1)}, ValueError, "labels contain class -1; allowed is 0 and above"),
        ({"n_examples": 9}, ValueError, "n_examples=9 is not allowed; there are 8 images"),
        ({"n_examples": 0}, ValueError, "n_examples=0 is not allowed; it must be >= 1"),
        ({"corruptions": ["fog", "rain"]}, ValueError, "corruptions holds 'rain'; choose from 'gaussian_noise', 'sh"),
        ({"corruptions": "fog"}, TypeError, "corruptions='fog' is a str; a list is needed"),
        ({"corruptions": []}, ValueError, "corruptions is empty; choose from 'gaussian_noise'"),
        ({"severities": (0, 1)}, ValueError, "severities holds 0; choose from 1, 2, 3, 4, 5"),
        ({"severities": 5}, TypeError, "severities=5 is a int; a list is needed"),
        ({"severities": ()}, ValueError, "severities is empty; choose from 1, 2, 3, 4, 5"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed; it must be >= 1"),
        ({"seed": -1}, ValueError, "seed=-1 is not allowed; it must be >= 0"),
        ({"reference": {"fog": 0.5}}, ValueError, "reference has no 'gaussian_noise'; it needs every corruption"),
        ({"reference": REFERENCE | {"fog": 0.0}}, ValueError, r"reference\['fog'\]=0.0 is not allowed; it must be > 0"),
        (
            {"reference": REFERENCE | {"fog": 50.0}},
            ValueError,
            r"reference\['fog'\]=50 is not allowed; an error rate is at most 1",
        ),
        ({"reference": pd.DataFrame({5: REFERENCE})}, ValueError, "reference has no severity 1; it needs every"),
        ({"reference": 0.5}, TypeError, "reference is a float; a result, its table or a dictionary is needed"),
    ],
)
def test_wrong_arguments(photos, labels, options, error, message):
    with pytest.raises(error, match=message):
        corruption_accuracy(Untouchable(), **({"x": photos, "y": labels, "verbose": False} | options))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"corruption": "rain"}, ValueError, "corruption='rain' is not known; choose from 'gaussian_noise'"),
        ({"severity": 6}, ValueError, "severity=6 is not known; choose from 1, 2, 3, 4, 5"),
        ({"seed": 0.5}, TypeError, "seed=0.5 is a float; an integer is needed"),
        ({"images": torch.zeros(1, 4, 32, 32)}, ValueError, r"images have shape \(1, 4, 32, 32\)"),
    ],
)
def test_wrong_arguments_of_corrupted(photos, options, error, message):
    with pytest.raises(error, match=message):
        corrupted(**({"images": photos, "corruption": "fog", "severity": 1} | options))


def test_logits_are_needed(photos, labels):
    with pytest.raises(ValueError, match=r"the model's output is \(8, 3, 32, 32\); logits of shape \(8, K\)"):
        corruption_accuracy(nn.Identity(), photos, labels, verbose=False)


def from_files(folder, **options):
    settings = {"corruptions": ["fog"], "severities": [1], "n_examples": 8, "verbose": False} | options
    return corruption_accuracy(Untouchable(), data_dir=folder, **settings)


def test_missing_files_are_named_and_nothing_is_made_or_downloaded(tmp_path, cifar_10_c):
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match="absent' holds no CIFAR-10-C/labels.npy; unpack CIFAR-10-C.tar of htt"):
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


def test_missing_packages_are_named(monkeypatch, photos, labels, cifar_10_c):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(
        ImportError, match=r"generated by imagecorruptions-imaug \(.*\): pip install imagecorruptions-i"
    ):
        corruption_accuracy(Untouchable(), photos, labels, verbose=False)
    monkeypatch.setitem(sys.modules, "part_plugin.adapters.robustbench", None)
    with pytest.raises(
        ImportError, match=r"data_dir is read by RobustBench \(.*\): pip install part_plugin\[robustben"
    ):
        from_files(cifar_10_c)
