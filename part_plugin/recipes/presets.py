"""The paper's settings (PART, Appendix G): `preset`."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from ..checks import check_choice, check_count, check_number, check_seed
from ..map_sources import check_cam
from ..network.fast import check_fast
from ..radius import check_eps_pair, parse_radius, warn_of_unusual
from .datasets import DATASETS

_RADII = ("eps", "eps_low", "alpha")


@dataclass(frozen=True)
class Preset:
    """The settings of a training, as in the paper (PART, Appendix G); made by `preset`, printed one a line, as YAML.

    Attributes:
        dataset: name for `load_dataset`.
        num_classes: number of logits.
        architecture, arguments: of RobustBench, timm, torchvision or transformers, see `architectures.build_network`.
        objective: "at", "trades" or "mart".
        beta: weight of the second term of TRADES and MART.
        eps, eps_low: l_inf radius of important and of other pixels, for images in [0, 1].
        alpha: step size of the attack, for images in [0, 1].
        steps: number of steps of the attack.
        burn_in: number of first epochs with eps everywhere.
        mask_every: masks are renewed every so many epochs.
        cam: name of a method, see `class_activation_map`.
        attack: "pgd" or "mma".
        fast: options that make the attack cheaper and approximate, see `part_plugin.network.fast.FAST`.
        epochs: number of epochs, burn-in included.
        milestones: numbers of epochs after which the learning rate is divided by 10.
        lr, momentum, weight_decay: of SGD.
        batch_size: images in a batch.
        seed: of everything random.
    """

    dataset: str
    num_classes: int = 10
    architecture: str = "resnet.ResNet18"
    arguments: dict[str, Any] = field(default_factory=dict)
    objective: str = "at"
    beta: float = 6.0
    eps: float = 8 / 255
    eps_low: float = 7 / 255
    alpha: float = 2 / 255
    steps: int = 10
    burn_in: int = 20
    mask_every: int = 1
    cam: str = "gradcam"
    attack: str = "pgd"
    fast: tuple[str, ...] = ()
    epochs: int = 80
    milestones: tuple[int, ...] = (60,)
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 2e-4
    batch_size: int = 128
    seed: int = 0

    def __str__(self) -> str:
        return "\n".join(f"{name}: {_yaml(name, value)}" for name, value in vars(self).items())


def _yaml(name: str, value: Any) -> str:
    if name in _RADII and len(repr(value)) > 6 and round(255 * value) / 255 == value:
        return f"{round(255 * value)}/255"
    if isinstance(value, float) and "." not in repr(value):
        return repr(value).replace("e", ".0e")  # else YAML takes 5e-05 for text
    return value if isinstance(value, str) else json.dumps(value)


PRESETS: dict[str, Preset] = {
    "cifar10": Preset("cifar10"),
    "svhn": Preset("svhn", alpha=1 / 255, weight_decay=3.5e-3),
    # WideResNet-34-10 under another name: wide_resnet.WideResNet has the same weights, but pools windows of 8x8, which
    # for images of 64x64 are four, and makes of each image four rows of logits; this one pools whatever there is.
    "tinyimagenet": Preset(
        "tinyimagenet",
        num_classes=200,
        architecture="robust_wide_resnet.RobustWideResNet",
        arguments={"depth_configs": [5, 5, 5], "channel_configs": [16, 160, 320, 640], "num_classes": 200},
        lr=0.02,
        weight_decay=5e-4,
        batch_size=512,
    ),
    # not of the paper: a network for images of any size, for a folder of one's own
    "imagefolder": Preset(
        "imagefolder",
        architecture="robust_wide_resnet.RobustWideResNet",
        arguments={"depth_configs": [2, 2, 2], "channel_configs": [16, 64, 128, 256], "num_classes": 10},
        weight_decay=5e-4,
    ),
    # not of the paper: a network of 10,000 weights without strides, so that maps are as fine as the 8x8 images
    "digits": Preset(
        "digits",
        architecture="robust_wide_resnet.RobustWideResNet",
        arguments={"channel_configs": [8, 8, 16, 16], "depth_configs": [1, 1, 1], "stride_config": [1, 1, 1]},
        eps=0.2,
        eps_low=0.175,
        alpha=0.05,
        burn_in=5,
        epochs=20,
        milestones=(15,),
        lr=0.05,
        weight_decay=5e-4,
        batch_size=32,
    ),
}

_CHOICES = {"dataset": DATASETS, "objective": ("at", "trades", "mart"), "attack": ("pgd", "mma")}
_LOWEST = {"num_classes": 2, "steps": 1, "burn_in": 0, "mask_every": 1, "epochs": 1, "batch_size": 1}
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "architecture": ((str,), "str"),
    "cam": ((str,), "str"),
    "arguments": ((dict,), "dict"),
    "milestones": ((list, tuple), "list of epochs"),
    "fast": ((str, list, tuple), "list of options"),
}


def preset(name: str, **overrides: Any) -> Preset:
    """Return the paper's settings for a dataset (PART, Appendix G), with those in `overrides` changed.

    Args:
        name: "cifar10", "svhn" or "tinyimagenet"; or, not in the paper, "imagefolder", a WideResNet-16-4 for class
            folders of one's own, and "digits", which trains in a minute.
        **overrides: any attribute of `Preset`; eps, eps_low and alpha also as "8/255". A new `eps` takes `eps_low`
            with it, to 7/8 of it, unless that is given too (None is the same as not given). A new `architecture`
            starts from no `arguments`, and `num_classes` is added to them.

    Raises:
        TypeError: a setting of the wrong type.
        ValueError: an unknown name or setting, or settings that are not allowed or do not fit each other.
    """
    base = PRESETS[check_choice("name", name, tuple(PRESETS))]
    for setting in overrides:
        check_choice("setting", setting, [known.name for known in dataclasses.fields(Preset)])
    given = {setting: value for setting, value in overrides.items() if setting != "eps_low" or value is not None}
    checked = {setting: _check_setting(setting, value) for setting, value in given.items()}
    if "architecture" in checked:
        checked.setdefault("arguments", {})
    if "eps" in checked:  # a quotient of radii, not 7/8, as the table's eps must give the table's eps_low to the bit
        checked.setdefault("eps_low", base.eps_low * (checked["eps"] / base.eps))
    settings = dataclasses.replace(copy.deepcopy(base), **checked)
    check_eps_pair(settings.eps, settings.eps_low)
    if settings.burn_in >= settings.epochs:
        raise ValueError(
            f"burn_in={settings.burn_in} leaves none of epochs={settings.epochs} for PART; it must be smaller"
        )
    warn_of_unusual(settings.eps)
    num_classes = overrides.get("arguments", {}).get("num_classes")
    return dataclasses.replace(settings, arguments=_with_num_classes(settings, num_classes))


def _with_num_classes(settings: Preset, given: int | None) -> dict[str, Any]:
    """Return the architecture's arguments with the number of classes in them; `given` is what they had of their own.

    Raises:
        ValueError: two numbers, or an architecture that has 10 classes and no others.
    """
    num_classes = settings.num_classes
    if given not in (None, num_classes):
        raise ValueError(f"arguments have num_classes={given}, and the setting is num_classes={num_classes}; give one")
    if ":" in settings.architecture:  # of another library, whose networks are built for any number
        return settings.arguments
    if not settings.architecture.startswith("resnet."):
        return settings.arguments | {"num_classes": num_classes}
    if num_classes == 10:  # which RobustBench's ResNets have anyway
        return settings.arguments
    if settings.architecture != "resnet.ResNet18":
        raise ValueError(
            f"num_classes={num_classes} does not fit architecture {settings.architecture!r}, which has 10; choose "
            "another, e.g. 'resnet.ResNet18'"
        )
    return settings.arguments | {"num_classes": num_classes}


def _check_setting(name: str, value: Any) -> Any:
    """Return the value of one setting in its own type.

    Raises:
        TypeError: it has another.
    """
    if name in _RADII:
        return check_number(name, parse_radius(name, value), above=name == "alpha")
    if name in _CHOICES:
        return check_choice(name, value, _CHOICES[name])
    if name == "seed":
        return check_seed(name, value)
    if name in _LOWEST:
        return check_count(name, value, _LOWEST[name])
    if name not in _KINDS:
        return check_number(name, value, above=name == "lr")
    kinds, needed = _KINDS[name]
    fits: bool = isinstance(value, kinds)  # apart, as mypy would know less of the value after it
    if not fits:
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}; a {needed} is needed")
    if name == "cam":
        check_cam(value)
    if name == "fast":
        return check_fast(value)
    if name == "milestones":
        return tuple(check_count(name, epoch) for epoch in value)
    return copy.deepcopy(value)
