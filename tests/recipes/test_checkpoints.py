"""Checkpoints of RobustBench's architectures."""

import pytest
import torch
from conftest import SmallNet
from torch import nn

from part_plugin import evaluate, load_checkpoint, save_checkpoint
from part_plugin.adapters.robustbench import build_model

SMALL = ("robust_wide_resnet.RobustWideResNet",)
ARGUMENTS = {"channel_configs": [4, 4, 8, 8], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]}


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = build_model(*SMALL, ARGUMENTS)
    model(torch.rand(32, 3, 8, 8))  # batch norm statistics of its own
    return model.eval()


@pytest.mark.parametrize(
    ("architecture", "arguments", "size"),
    [
        ("resnet.ResNet18", {}, 32),
        ("resnet.ResNet18", {"width": 4, "num_classes": 7}, 32),
        ("wide_resnet.WideResNet", {"depth": 10, "widen_factor": 1, "num_classes": 7}, 32),
        ("robust_wide_resnet.RobustWideResNet", ARGUMENTS, 8),
    ],
)
def test_a_checkpoint_round_trip(tmp_path, architecture, arguments, size):
    torch.manual_seed(0)
    model = build_model(architecture, arguments)
    num_classes = arguments.get("num_classes", 10)
    path = tmp_path / "models" / "part.pt"
    training = {"method": "PART", "eps": 8 / 255, "epochs": 80, "history": [1.0, 0.5], "note": None}
    save_checkpoint(path, model, architecture, num_classes, arguments, training=training)
    assert [file.name for file in path.parent.iterdir()] == ["part.pt"]
    loaded, description = load_checkpoint(path)
    assert not loaded.training
    images = torch.rand(3, 3, size, size)
    assert torch.equal(loaded(images), model.eval()(images))
    assert description["training"] == training
    assert description["architecture"] == architecture
    assert description["num_classes"] == num_classes
    assert "state_dict" not in description
    result = evaluate(loaded, images, torch.arange(3), attacks=["natural", "pgd2"], verbose=False)
    assert len(result.results) == 2


def test_normalisation_travels_with_the_weights(tmp_path, network):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS, mean=mean, std=std)
    loaded, _ = load_checkpoint(tmp_path / "a.pt")
    images = torch.rand(2, 3, 8, 8)
    normalised = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(loaded(images), network(normalised))


def test_wrapped_models_are_saved_bare(tmp_path, network):
    save_checkpoint(tmp_path / "a.pt", nn.DataParallel(network), *SMALL, 10, ARGUMENTS)
    loaded, _ = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(loaded.fc.weight, network.fc.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architecture": "resnet.ResNet19"}, "architecture='resnet.ResNet19' is not known"),
        ({"architecture": "os.system"}, "architecture='os.system' is not known"),
        ({"architecture": "resnet.F"}, "architecture='resnet.F' is not known"),
        (
            {"architecture": "resnet.ResNet18", "arguments": {}},
            "the weights do not fit architecture 'resnet.ResNet18': ",
        ),
        ({"arguments": {"depth": 3}}, r"arguments=\{'depth': 3\} do not fit architecture"),
        ({"num_classes": 5}, "num_classes=5 does not fit the weights, which have 10"),
        ({"mean": [0.5] * 3}, "mean and std go together; give both or neither"),
    ],
)
def test_a_description_that_does_not_fit_writes_nothing(tmp_path, network, options, message):
    settings = {"architecture": SMALL[0], "num_classes": 10, "arguments": ARGUMENTS} | options
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "a.pt", network, **settings)
    assert not list(tmp_path.iterdir())


def test_training_settings_must_be_plain_data(tmp_path, network):
    save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS)
    before = (tmp_path / "a.pt").read_bytes()
    with pytest.raises(Exception, match="SmallNet"):
        save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS, training={"model": SmallNet()})
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_files_that_are_no_checkpoints(tmp_path, network):
    with pytest.raises(FileNotFoundError, match=r"none.pt' does not exist"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text.pt' is damaged or holds more than plain data and tensors"):
        load_checkpoint(tmp_path / "text.pt")
    torch.save(network, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match=r"pickle.pt' is damaged or holds more than plain data"):
        load_checkpoint(tmp_path / "pickle.pt")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt' is not one of part_plugin's; save_checkpoint writes one"):
        load_checkpoint(tmp_path / "weights.pt")
