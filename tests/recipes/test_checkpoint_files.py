"""Checkpoints of format 1 as they lie on people's disks, and what else may lie there."""

import pytest
import torch

from part_plugin import load_checkpoint
from part_plugin.adapters.robustbench import build_model

ARCHITECTURE = "robust_wide_resnet.RobustWideResNet"
ARGUMENTS = {"channel_configs": [4, 4, 8, 8], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]}
TRAINING = {"dataset": "digits", "eps": 0.2, "eps_low": 0.175, "milestones": (15,), "image_shape": [3, 8, 8]}


REMEDY = "save_checkpoint writes one, other weights need architecture"


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(ARCHITECTURE, ARGUMENTS)
        model(torch.rand(32, 3, 8, 8))  # batch norm statistics of its own
    return model.eval()


@pytest.fixture
def content(network):
    """Every entry that the first version wrote, by hand."""
    return {
        "format": 1,
        "architecture": ARCHITECTURE,
        "arguments": ARGUMENTS,
        "num_classes": 10,
        "mean": None,
        "std": None,
        "training": TRAINING,
        "state_dict": dict(network.state_dict()),
    }


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


@pytest.mark.parametrize("normalised", [False, True])
def test_a_file_of_the_first_version_loads(tmp_path, network, content, normalised):
    mean, std = ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]) if normalised else (None, None)
    torch.save(content | {"mean": mean, "std": std}, tmp_path / "old.pt")
    loaded, description = load_checkpoint(tmp_path / "old.pt")
    x = torch.rand(4, 3, 8, 8)
    seen = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None] if normalised else x
    torch.testing.assert_close(loaded(x), network(seen))
    assert not loaded.training
    assert description == {
        "format": 1,
        "architecture": ARCHITECTURE,
        "arguments": ARGUMENTS,
        "num_classes": 10,
        "mean": mean,
        "std": std,
        "training": TRAINING,
        "versions": {},
    }


def test_loading_leaves_the_global_generator_alone(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    before = torch.get_rng_state()
    load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "has format 2; this version of part_plugin reads 1"),
        (
            {"format": None},
            f"is not one of part_plugin's; {REMEDY}",
        ),
        (
            {"arguments": None},
            f"is damaged or of another kind: 'arguments' is a NoneType; dict is needed; {REMEDY}",
        ),
    ],
)
def test_a_file_that_is_not_of_this_format(tmp_path, content, changes, expected):
    torch.save(content | changes, tmp_path / "a.pt")
    assert message(ValueError, load_checkpoint, tmp_path / "a.pt") == f"checkpoint '{tmp_path}/a.pt' {expected}"


def test_a_file_that_lacks_an_entry(tmp_path, content):
    for name in list(content)[1:]:
        torch.save({key: value for key, value in content.items() if key != name}, tmp_path / "a.pt")
        assert message(ValueError, load_checkpoint, tmp_path / "a.pt") == (
            f"checkpoint '{tmp_path}/a.pt' is damaged or of another kind: {name!r} is missing; {REMEDY}"
        )


def test_a_file_that_does_not_fit_its_own_description(tmp_path, content):
    torch.save(content | {"num_classes": 7}, tmp_path / "a.pt")
    begins = f"checkpoint '{tmp_path}/a.pt' cannot be used: "
    text = begins + "num_classes=7 does not fit the weights, which have 10"
    assert message(ValueError, load_checkpoint, tmp_path / "a.pt") == text
    torch.save(content | {"std": [1.0] * 3}, tmp_path / "a.pt")
    text = begins + "mean and std go together; give both or neither"
    assert message(ValueError, load_checkpoint, tmp_path / "a.pt") == text
    weights = dict(content["state_dict"])
    del weights["fc.bias"]
    torch.save(content | {"state_dict": weights}, tmp_path / "a.pt")
    assert message(ValueError, load_checkpoint, tmp_path / "a.pt") == (
        begins + f"the weights do not fit architecture '{ARCHITECTURE}': 'fc.bias' is missing"
    )


def test_a_device_that_is_not_there_is_told_before_the_file_is_read(tmp_path):
    text = message(ValueError, load_checkpoint, tmp_path / "none.pt", "gpu")
    assert text.startswith("device='gpu' cannot be used here (Expected one of cpu, cuda, ")
    assert "\n" not in text


def test_a_network_goes_to_the_device(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    loaded, _ = load_checkpoint(tmp_path / "a.pt", "meta")
    assert {weights.device.type for weights in loaded.parameters()} == {"meta"}
