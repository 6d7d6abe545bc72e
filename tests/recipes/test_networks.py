"""Networks of other programs: whatever their files look like, they give what they gave there."""

import argparse
import json

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from foreign import CLASSES, NETWORKS, RESNET, VIT, lived, logits, made_by_timm, made_by_transformers, made_here
from lightning.pytorch import Trainer
from timm.models._hub import save_config_for_hf
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import PART, PARTModule, evaluate, load_checkpoint, load_network, save_checkpoint
from part_plugin.adapters.robustbench import normalize_model
from part_plugin.recipes.networks import describes_itself
from part_plugin.recipes.skeleton import skeleton_of

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TIMM = {"architecture": "timm:resnet10t", "arguments": RESNET}


def same(network, path, **options):
    """Load, compare, and return the description."""
    loaded, description = load_network(path, **options)
    assert not loaded.training
    assert torch.equal(logits(loaded, IMAGES), logits(network, IMAGES))
    return description


@pytest.mark.parametrize("architecture", NETWORKS)
@pytest.mark.parametrize("num_classes", [CLASSES, None])
def test_a_state_dict_of_each_library(tmp_path, architecture, num_classes):
    make, arguments = NETWORKS[architecture]
    network = lived(make)
    torch.save(network.state_dict(), tmp_path / "a.pt")
    state = torch.random.get_rng_state()
    options = {"architecture": architecture, "arguments": arguments, "num_classes": num_classes}
    description = same(network, tmp_path / "a.pt", **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert description["num_classes"] == (num_classes if architecture.startswith("foreign:") else CLASSES)
    assert (description["architecture"], description["notes"]) == (architecture, [])
    assert description["mean"] is description["std"] is None
    loaded, _ = load_network(tmp_path / "a.pt", **options)
    result = evaluate(loaded, IMAGES, torch.arange(3), attacks=["natural", "pgd2"], verbose=False)
    assert (result["natural"].correct == (logits(network, IMAGES).argmax(1) == torch.arange(3)).numpy()).all()


@pytest.mark.parametrize("architecture", [name for name in NETWORKS if not name.startswith("foreign:")])
def test_checkpoints_of_each_library(tmp_path, architecture):
    make, arguments = NETWORKS[architecture]
    network = lived(make)
    arguments = arguments | ({"num_classes": CLASSES} if architecture.startswith("robustbench:") else {})
    save_checkpoint(tmp_path / "a.pt", network, architecture, CLASSES, arguments, [0.5] * 3, [0.25] * 3)
    loaded, description = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(logits(loaded, IMAGES), logits(network, (IMAGES - 0.5) / 0.25))
    assert architecture.partition(":")[0] in description["versions"]
    again, described = load_network(tmp_path / "a.pt")
    assert torch.equal(logits(again, IMAGES), logits(loaded, IMAGES))
    assert described == description | {"notes": []}


def prefixed(prefix, network):
    return {prefix + name: value for name, value in network.state_dict().items()}


def test_what_wraps_a_network_is_taken_off(tmp_path):
    network, path = lived(made_by_timm), tmp_path / "a.pt"
    wrapped = {
        "'module.'": nn.DataParallel(network).state_dict(),
        "'_orig_mod.'": torch.compile(network).state_dict(),
        "'module.' '_orig_mod.'": torch.compile(nn.DataParallel(network)).state_dict(),
        "'network.'": prefixed("network.", network),
        "'model.'": prefixed("model.", network),
        "'trained.net.'": prefixed("trained.net.", network),
        "'module.' ": AveragedModel(network).state_dict(),
    }
    for taken, weights in wrapped.items():
        torch.save(weights, path)
        assert same(network, path, **TIMM)["notes"] == [f"{one} taken off the names" for one in taken.split()]


def test_a_module_of_a_network_that_is_compiled(tmp_path):
    network = lived(made_by_timm)
    weights = {name.replace("layer2.", "layer2._orig_mod."): value for name, value in network.state_dict().items()}
    assert weights.keys() != network.state_dict().keys()
    torch.save(weights, tmp_path / "a.pt")
    same(network, tmp_path / "a.pt", **TIMM)


@pytest.mark.parametrize("key", ["state_dict", "model", "ema", "anything"])
def test_weights_below_a_key(tmp_path, key):
    network = lived(made_by_timm)
    args = argparse.Namespace(lr=0.1, data="x")
    rest = {"epoch": 3, "args": args, "best": np.float64(0.5), "worst": np.float32(0.25), "optimizer": {"state": {}}}
    torch.save(rest | {key: network.state_dict()}, tmp_path / "a.pt")
    assert same(network, tmp_path / "a.pt", **TIMM)["notes"] == [f"weights of {key!r}"]


def test_of_several_one_must_be_named(tmp_path):
    networks = {"model": lived(made_by_timm, 1), "ema": lived(made_by_timm, 2)}
    torch.save({name: one.state_dict() for name, one in networks.items()}, tmp_path / "a.pt")
    torch.save(prefixed("model.", networks["model"]) | prefixed("ema.", networks["ema"]), tmp_path / "b.pt")
    assert not torch.equal(networks["model"](IMAGES), networks["ema"](IMAGES))
    for name, network in networks.items():
        same(network, tmp_path / "a.pt", key=name, **TIMM)
        notes = same(network, tmp_path / "b.pt", key=name, **TIMM)["notes"]
        left = len(network.state_dict())
        assert notes == [f"'{name}.' taken off the names", f"{left} weights left out that are not under '{name}.'"]


def test_a_checkpoint_of_lightning(tmp_path):
    network = lived(made_by_timm)
    module = PARTModule(network, PART("at", steps=1, burn_in=0, seed=0), lambda all_of: torch.optim.SGD(all_of, lr=0.1))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(IMAGES, torch.arange(3)), 3))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    notes = same(network.eval(), tmp_path / "a.ckpt", **TIMM)["notes"]
    assert notes == ["weights of 'state_dict'", "'network.' taken off the names"]


def test_half_precision_and_other_formats(tmp_path):
    network = lived(made_by_timm).half().float()
    weights = {name: one.half() if one.is_floating_point() else one for name, one in network.state_dict().items()}
    torch.save(weights, tmp_path / "a.pt")
    assert same(network, tmp_path / "a.pt", **TIMM)["notes"] == ["weights of float16, computed with in float32"]
    torch.save(network.state_dict(), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    same(network, tmp_path / "b.pt", **TIMM)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "c.safetensors")
    same(network, tmp_path / "c.safetensors", **TIMM)
    old = {name: one for name, one in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "d.pt")
    same(network, tmp_path / "d.pt", **TIMM)


def test_normalisation_is_asked_for_or_found(tmp_path):
    network, path = lived(made_by_timm), tmp_path / "a.pt"
    mean, std = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]
    normalised = normalize_model(network, mean, std)
    torch.save(network.state_dict(), path)
    assert same(normalised, path, mean=mean, std=std, **TIMM)["mean"] == mean
    torch.save(normalised.state_dict(), path)
    description = same(normalised, path, **TIMM)
    assert (description["mean"], description["std"]) == (mean, std)
    assert description["notes"][-1] == "normalisation of the file: mean 0.25, 0.5, 0.75, std 0.5, 0.25, 0.125"
    same(normalize_model(network, [0.5] * 3, [1.0] * 3), path, mean=[0.5] * 3, std=[1] * 3, **TIMM)


def test_a_function_of_ones_own_gets_its_arguments(tmp_path):
    network = lived(lambda: made_here(width=6, num_classes=7))
    torch.save(network.state_dict(), tmp_path / "a.pt")
    options = {"architecture": "foreign:made_here", "num_classes": 7, "arguments": {"width": 6}}
    assert same(network, tmp_path / "a.pt", **options)["num_classes"] == 7
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "b.pt")  # a class, which has no num_classes
    options = {"architecture": "torch.nn:Linear", "num_classes": 3, "arguments": {"in_features": 2, "out_features": 3}}
    assert load_network(tmp_path / "b.pt", **options)[0].out_features == 3


def test_a_directory_of_transformers(tmp_path):
    network = lived(made_by_transformers)
    network.config.id2label = dict(enumerate("abcd"))
    network.save_pretrained(tmp_path / "vit")
    assert describes_itself(tmp_path / "vit")
    description = same(network, tmp_path / "vit")
    assert description["training"] == {"class_names": list("abcd"), "image_shape": [3, 32, 32]}
    assert description["num_classes"] == CLASSES
    assert description["notes"] == ["no preprocessor_config.json, so no normalisation"]
    mean, std = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]
    pictures = {"do_normalize": True, "image_mean": mean, "image_std": std}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(pictures))
    assert same(normalize_model(network, mean, std), tmp_path / "vit")["notes"] == []
    same(normalize_model(network, std, mean), tmp_path / "vit", mean=std, std=mean)
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(pictures | {"do_normalize": False}))
    same(network, tmp_path / "vit")
    same(network, tmp_path / "vit" / "model.safetensors", architecture=description["architecture"], arguments=VIT)
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save(network.state_dict(), tmp_path / "vit" / "pytorch_model.bin")
    same(network, tmp_path / "vit")


def test_names_of_files_of_transformers(tmp_path):
    """Release 5 has other names inside than in files; both are read, also behind a prefix."""
    network = lived(made_by_transformers)
    network.save_pretrained(tmp_path / "vit")
    published = safetensors.torch.load_file(tmp_path / "vit" / "model.safetensors")
    for weights in (published, network.state_dict()):
        torch.save({f"module.{name}": one for name, one in weights.items()}, tmp_path / "a.pt")
        same(network, tmp_path / "a.pt", architecture="transformers:ViTForImageClassification", arguments=VIT)


def test_a_directory_of_timm(tmp_path):
    network = lived(made_by_timm)
    (tmp_path / "resnet").mkdir()
    save_config_for_hf(network, tmp_path / "resnet" / "config.json", model_args=RESNET)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "resnet" / "model.safetensors")
    config = json.loads((tmp_path / "resnet" / "config.json").read_text())
    assert (config["num_classes"], config["architecture"]) == (CLASSES, "resnet10t")
    cfg = config["pretrained_cfg"]
    description = same(normalize_model(network, cfg["mean"], cfg["std"]), tmp_path / "resnet")
    assert description["training"]["image_shape"] == list(cfg["input_size"])
    for changes, what in (
        ({"model_args": [1]}, "arguments=[1] are a list; a dict is needed"),
        ({"model_args": {"checkpoint_path": "x"}}, "'checkpoint_path' is not allowed"),
        ({"num_classes": "4"}, "num_classes='4' is not allowed; an integer from 1 to 65536 is needed"),
        ({"architecture": None}, "architecture='timm:None' is not known"),
        ({"architecture": "hf-hub:timm/resnet18"}, "architecture='timm:hf-hub:timm/resnet18' is not known"),
        ({"pretrained_cfg": {"mean": "abc", "std": "abc"}}, "mean='abc' is not allowed; 3 finite numbers are needed"),
        ({"pretrained_cfg": {"mean": [0.5] * 3}}, "mean and std go together"),
    ):
        (tmp_path / "resnet" / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError) as caught:
            load_network(tmp_path / "resnet")
        assert what in str(caught.value)


def test_a_table_larger_than_reason_is_not_computed():
    """Relative positions of a million patches would be 10^12 pairs, computed before anything has a size."""
    said = "do not fit architecture 'timm:beit_base_patch16_224': it computes tables of more than 67108864 numbers"
    with pytest.raises(ValueError, match=said):
        skeleton_of("timm:beit_base_patch16_224", {"img_size": 1024, "patch_size": 1}, 10)
    network = skeleton_of("timm:beit_base_patch16_224", {"img_size": 224, "depth": 1}, 10)
    made = timm.create_model("beit_base_patch16_224", depth=1, num_classes=10).state_dict()
    assert {name: spec.shape for name, spec in network.weights.items()} == {
        name: one.shape for name, one in made.items()
    }


def test_a_file_cannot_ask_for_more_than_it_holds(tmp_path):
    """What a config.json names is made in the size of the weights or not at all."""
    network = lived(made_by_transformers)
    network.save_pretrained(tmp_path / "vit")
    config = json.loads((tmp_path / "vit" / "config.json").read_text())
    for changes, what in (
        ({"hidden_size": 65536, "num_attention_heads": 1}, "it is larger than 56 tensors with"),
        ({"num_hidden_layers": 60000}, "it is larger than 56 tensors with"),
        ({"hidden_size": 10**12}, "hidden_size=1000000000000 is not a finite number, an integer from 0 to 65536"),
        ({"image_size": 2048}, "sides are at most 1024"),
        (
            {"architectures": ["TimmWrapperForImageClassification"]},
            "is not known; the nearest that transformers has is",
        ),
        ({"architectures": ["../x"]}, "is not known; transformers has none like it"),
        ({"architectures": "ViTForImageClassification"}, "the name of one class is needed"),
        ({"architectures": ["SiglipForImageClassification"]}, "does not take images alone"),
    ):
        (tmp_path / "vit" / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError) as caught:
            load_network(tmp_path / "vit")
        assert what in str(caught.value)
    # what would name code or a repository is not even looked at
    told = {"auto_map": {"AutoModelForImageClassification": "x--y.Z"}, "_name_or_path": "a/b", "dtype": "float16"}
    (tmp_path / "vit" / "config.json").write_text(json.dumps(config | told | {"_attn_implementation": "a/kernels"}))
    same(network, tmp_path / "vit")
