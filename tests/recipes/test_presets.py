"""The paper's settings, and what may be changed of them."""

import dataclasses
import hashlib
import json
import warnings
from fractions import Fraction

import pytest
import torch
import yaml

from part_plugin import PART
from part_plugin.adapters.robustbench import build_model
from part_plugin.radius import parse_radius
from part_plugin.recipes.presets import PRESETS, preset


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


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
    assert list(PRESETS) == [*own, "imagefolder", "digits"]
    for name, settings in own.items():
        made = dataclasses.asdict(preset(name))
        assert made == dataclasses.asdict(PRESETS[name])
        assert made.pop("architecture").endswith("WideResNet" if name == "tinyimagenet" else "ResNet18")
        del made["arguments"]
        assert made == {"dataset": name} | common | settings


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("cifar10", "9a8a5eb3b6b9"),
        ("svhn", "162ea008c859"),
        ("tinyimagenet", "8ae4716f3ea9"),
        ("digits", "52c5b2e0a433"),
    ],
)
def test_stored_settings_are_the_same_to_the_bit(name, digest):
    """Results of benchmarks are found by a hash of these, and a stopped training goes on with no others."""
    for settings in (preset(name), preset(name, eps=PRESETS[name].eps), preset(name, eps_low=None)):
        stored = json.dumps(dataclasses.asdict(settings), sort_keys=True)
        assert hashlib.sha256(stored.encode()).hexdigest()[:12] == digest


@pytest.mark.parametrize("name", ["cifar10", "svhn", "tinyimagenet", "digits"])
def test_eps_low_follows_eps(name):
    assert preset(name).eps_low == pytest.approx(7 / 8 * preset(name).eps, rel=1e-15)
    for eps in (0, "4/255", 0.1, 1):
        settings = preset(name, eps=eps)
        assert settings.eps_low == pytest.approx(7 / 8 * parse_radius("eps", eps), rel=1e-15)
        assert preset(name, eps=eps, eps_low=None) == settings
    assert preset("cifar10", eps="4/255").eps_low == 3.5 / 255
    assert preset("digits", eps=0.1).eps_low == 0.0875


def test_an_eps_low_that_is_given_is_kept():
    """Equal radii are plain adversarial training."""
    assert preset("cifar10", eps_low="8/255").eps_low == preset("cifar10").eps == 8 / 255
    settings = preset("cifar10", eps="12/255", eps_low=0)
    assert (settings.eps, settings.eps_low) == (12 / 255, 0)


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
    assert (part.budget.eps, part.alpha, part.schedule.mask_every) == (12 / 255, 1 / 255, 10)


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
    narrow = preset("cifar10", num_classes=7, arguments={"width": 4})
    assert narrow.arguments == {"width": 4, "num_classes": 7}
    assert preset("cifar10", arguments={"width": 4}).arguments == {"width": 4}
    assert preset("svhn", architecture="resnet.ResNet34").arguments == {}
    for made in (narrow, small):
        network = build_model(made.architecture, made.arguments)
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, made.num_classes)


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
            "name='mnist' is not known; choose from 'cifar10', 'svhn', 'tinyimagenet', 'imagefolder', ",
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
        (
            {"eps": "2/255", "eps_low": "7/255"},
            ValueError,
            "eps_low=0.027451 is larger than eps=0.00784314; it must be <= eps",
        ),
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
        "dataset: svhn",
        "num_classes: 10",
        "architecture: resnet.ResNet18",
        "arguments: {}",
        "objective: at",
        "beta: 6.0",
        "eps: 8/255",
        "eps_low: 0.0275",
        "alpha: 1/255",
        "steps: 10",
        "burn_in: 20",
        "mask_every: 1",
        "cam: gradcam",
        "attack: pgd",
        "fast: []",
        "epochs: 80",
        "milestones: [60]",
        "lr: 0.01",
        "momentum: 0.9",
        "weight_decay: 0.0035",
        "batch_size: 128",
        "seed: 0",
    ]


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_is_yaml_of_the_same_settings(name):
    """To the bit, also of numbers that have many digits, or an exponent."""
    for changes in ({}, {"eps": 0.1 + 0.2, "eps_low": 1e-5, "lr": 1 / 3, "weight_decay": 5e-5, "fast": ["fold"]}):
        settings = preset(name, **changes)
        assert preset("cifar10", **yaml.safe_load(str(settings))) == settings
