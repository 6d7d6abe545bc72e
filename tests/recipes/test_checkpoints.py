"""Checkpoints of RobustBench's architectures."""

import json
import os
import random
import struct

import pytest
import safetensors.torch
import torch
from conftest import SmallNet
from forgery import DESCRIPTION, entries_and_data, forged, sealed, weights
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
    with pytest.raises(TypeError, match=r"a.pt' can hold plain data only: a SmallNet is none"):
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


def test_the_format_is_the_one_that_is_documented(tmp_path):
    """What is forged by hand, after the description of the format, loads; and the two have the same entries."""
    (tmp_path / "a.pt").write_bytes(forged())
    model, description = load_checkpoint(tmp_path / "a.pt")
    assert description == {"format": 2} | DESCRIPTION
    assert all(torch.equal(value, weights()[name]) for name, value in model.state_dict().items())
    save_checkpoint(tmp_path / "b.pt", model, *SMALL, 10, ARGUMENTS)
    content = (tmp_path / "b.pt").read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    told = json.loads(header.pop("__metadata__")["part_plugin"])
    compact = {"separators": (",", ":")}
    text, entries = (json.dumps(one, **compact)[1:-1] for one in ({key: told[key] for key in DESCRIPTION}, header))
    assert sealed(text, entries, content[8 + struct.unpack("<Q", content[:8])[0] :]) == content


def test_other_programs_read_the_weights(tmp_path, network):
    save_checkpoint(tmp_path / "a.safetensors", network, *SMALL, 10, ARGUMENTS)
    read = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert read.keys() == network.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in network.state_dict().items())


def test_the_same_network_gives_the_same_bytes(tmp_path, network):
    for name in "ab":
        save_checkpoint(tmp_path / name, network, *SMALL, 10, ARGUMENTS, training={"b": 1, "a": (2.5, None)})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "shared"])
def test_weights_of_any_layout_are_saved(tmp_path, network, layout):
    if layout == "channels_last":
        network = network.to(memory_format=torch.channels_last)
    elif layout == "transposed":
        network.fc.weight = nn.Parameter(network.fc.weight.detach().t().contiguous().t())
    else:
        network.blocks[0].layer[0].bn2.bias = network.blocks[0].layer[0].bn1.bias
    save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS)
    loaded, _ = load_checkpoint(tmp_path / "a.pt")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


def refusal(path):
    """The sentence with which a file is refused, None if it is not."""
    try:
        load_checkpoint(path)
    except ValueError as error:
        text = str(error)
    else:
        return None
    assert text.startswith(f"checkpoint '{path}' ")
    assert text.isprintable()
    return text


def test_a_flipped_bit_is_told_wherever_it_is(tmp_path):
    """A bit of every byte of the header, every bit of some, and many of what follows."""
    path, content = tmp_path / "a.pt", forged({"training": {"eps": 8 / 255}})
    start = 8 + struct.unpack("<Q", content[:8])[0]
    places = [(byte, byte % 8) for byte in range(start)] + [(byte, bit) for byte in range(120) for bit in range(8)]
    places += [(random.Random(number).randrange(start, len(content)), number % 8) for number in range(300)]
    path.write_bytes(content)
    silent = []
    with open(path, "r+b", buffering=0) as file:
        for byte, bit in places:
            for value in (content[byte] ^ 1 << bit, content[byte]):
                file.seek(byte)
                file.write(bytes([value]))
                if value == content[byte] and byte % 500:  # that the whole file loads again need not be seen each time
                    continue
                if (refusal(path) is None) != (value == content[byte]):
                    silent.append((byte, bit, value))
    assert not silent


def test_a_flipped_bit_of_format_1_changes_nothing_silently(tmp_path):
    """It is told, or it is one of those with which torch.save fills up, and that nobody reads."""
    path, told = tmp_path / "a.pt", 0
    torch.save({"format": 1} | DESCRIPTION | {"state_dict": weights()}, path)
    content = path.read_bytes()
    for number in range(300):
        flipped = bytearray(content)
        flipped[random.Random(number).randrange(len(content))] ^= 1 << number % 8
        path.write_bytes(flipped)
        try:
            loaded, description = load_checkpoint(path)
        except ValueError:
            told += 1
            continue
        assert description == {"format": 1} | DESCRIPTION
        assert all(torch.equal(value, weights()[name]) for name, value in loaded.state_dict().items())
    assert told > 50


def test_format_1_still_loads(tmp_path, network):
    """As earlier releases wrote it, tuples and all."""
    mean, std, training = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4], {"milestones": (60,), "eps": 8 / 255}
    description = DESCRIPTION | {"mean": mean, "std": std, "training": training}
    del description["versions"]
    torch.save({"format": 1} | description | {"state_dict": network.state_dict()}, tmp_path / "old.pt")
    loaded, told = load_checkpoint(tmp_path / "old.pt")
    assert told == {"format": 1} | description | {"versions": {}}
    save_checkpoint(tmp_path / "new.pt", network, *SMALL, 10, ARGUMENTS, mean=mean, std=std, training=training)
    again, told = load_checkpoint(tmp_path / "new.pt")
    assert told["training"] == {"milestones": [60], "eps": 8 / 255}
    assert set(told["versions"]) == {"part_plugin", "torch", "robustbench"}
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(images), again(images))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5] * 3, [1, 1, 0], r"std=\[1, 1, 0\] is not allowed; 3 finite numbers > 0 are needed, one per channel"),
        ([0.5] * 3, [1, 1, -1.0], r"std=\[1, 1, -1.0\] is not allowed"),
        ([0.5] * 3, [1.0, 1.0], r"std=\[1.0, 1.0\] is not allowed"),
        ([0.5, float("inf"), 0], [1] * 3, r"mean=\[0.5, inf, 0\] is not allowed; 3 finite numbers are needed"),
        ([0.5], [1], r"mean=\[0.5\] is not allowed"),
        (["a"] * 3, [1] * 3, r"mean=\['a', 'a', 'a'\] is not allowed"),
    ],
)
def test_a_wrong_normalisation_writes_nothing(tmp_path, network, mean, std, message):
    with pytest.raises(ValueError, match=message):
        save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS, mean=mean, std=std)
    assert not list(tmp_path.iterdir())


def test_normalisation_may_be_a_tensor(tmp_path, network):
    mean, std = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([0.5, 0.25, 1.0]).numpy()
    save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS, mean=mean, std=std)
    assert load_checkpoint(tmp_path / "a.pt")[1]["std"] == [0.5, 0.25, 1.0]


def test_weights_of_another_dtype_are_refused(tmp_path, network):
    with pytest.raises(
        ValueError, match=r"'stem_conv.weight' is float16 \(4, 3, 3, 3\); float32 \(4, 3, 3, 3\) is needed"
    ):
        save_checkpoint(tmp_path / "a.pt", network.half(), *SMALL, 10, ARGUMENTS)


@pytest.mark.parametrize("training", [{1: 2}, {"x": {1, 2}}, {"x": torch.ones(1)}, {"x": b"x"}])
def test_training_settings_that_json_would_change_are_refused(tmp_path, network, training):
    with pytest.raises(TypeError, match="can hold plain data only"):
        save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS, training=training)
    assert not list(tmp_path.iterdir())


def test_a_description_may_not_be_huge(tmp_path, network):
    with pytest.raises(ValueError, match=r"names and description have \d+ bytes; at most 1048576 are allowed"):
        save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS, training={"log": "x" * (1 << 20)})


def test_files_have_the_users_mode_and_links_stay(tmp_path, network):
    (tmp_path / "link.pt").symlink_to("real.pt")
    old = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "link.pt", network, *SMALL, 10, ARGUMENTS)
    finally:
        os.umask(old)
    assert (tmp_path / "link.pt").is_symlink()
    assert (tmp_path / "real.pt").stat().st_mode & 0o777 == 0o640
    assert load_checkpoint(tmp_path / "link.pt")[1]["num_classes"] == 10


def test_loading_draws_nothing(tmp_path, network):
    save_checkpoint(tmp_path / "a.pt", network, *SMALL, 10, ARGUMENTS)
    state = torch.random.get_rng_state()
    load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bytes_that_change_while_they_are_read_are_told(tmp_path):
    """The header is read first, and the whole again: both must be of the same file."""
    from part_plugin.recipes.weights_file import WeightsFile

    path, (entries, data) = tmp_path / "a.pt", entries_and_data(weights())
    path.write_bytes(forged())
    with open(path, "rb") as file:
        stored = WeightsFile(file)
        with open(path, "r+b") as other:
            other.seek(-len(data), os.SEEK_END)
            other.write(bytes(len(data)))
        with pytest.raises(ValueError, match="the checksum of its weights is wrong"):
            stored.tensors()
    assert entries
