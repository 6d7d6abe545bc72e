"""The architectures of RobustBench that a checkpoint may name, the arguments that each takes, and `build_model`.

What is not in this list is never called. It holds the networks that are built from plain data alone: no class is
needed as an argument, and nothing is read, fetched or run.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ...short import short
from .resnet18 import ResNet18
from .toolkit import architectures

LARGEST, DEEPEST, LONGEST = 65536, 1024, 64
SIZE = f"an integer from 1 to {LARGEST}"
COUNT = f"an integer from 0 to {LARGEST}"
NUMBER = "a finite number"
FLAG = "True or False"
NAME = f"text of at most {LONGEST} characters"
DEPTH = f"an integer from 1 to {DEEPEST}"
SIZES, DEPTHS, NUMBERS, NAMES = (f"a list of at most {LONGEST}, each {one}" for one in (SIZE, DEPTH, NUMBER, NAME))

_SINGLE: dict[str, Callable[[Any], bool]] = {
    SIZE: lambda value: type(value) is int and 1 <= value <= LARGEST,
    DEPTH: lambda value: type(value) is int and 1 <= value <= DEEPEST,
    COUNT: lambda value: type(value) is int and 0 <= value <= LARGEST,
    NUMBER: lambda value: type(value) in (int, float) and abs(value) <= 1e30 and math.isfinite(value),
    FLAG: lambda value: type(value) is bool,
    NAME: lambda value: type(value) is str and len(value) <= LONGEST,
}
_EACH = {SIZES: SIZE, DEPTHS: DEPTH, NUMBERS: NUMBER, NAMES: NAME}

_CLASSES = {"num_classes": SIZE}
_DEEPMIND = _CLASSES | {
    "depth": SIZE,
    "width": COUNT,
    "mean": NUMBERS,
    "std": NUMBERS,
    "padding": COUNT,
    "num_input_channels": SIZE,
}
_CONVNEXT = _CLASSES | {"in_chans": SIZE, "drop_path_rate": NUMBER, "head_init_scale": NUMBER}

ARCHITECTURES: dict[str, Mapping[str, str]] = {
    "resnet.ResNet18": {"width": SIZE} | _CLASSES,
    "resnet.ResNet34": {},
    "resnet.ResNet50": {},
    "resnet.ResNet101": {},
    "resnet.ResNet152": {},
    "resnet.PreActResNet18": {},
    "wide_resnet.WideResNet": _CLASSES
    | {"depth": SIZE, "widen_factor": SIZE, "sub_block1": FLAG, "dropRate": NUMBER, "bias_last": FLAG},
    "robust_wide_resnet.RobustWideResNet": _CLASSES
    | {"channel_configs": SIZES, "depth_configs": DEPTHS, "stride_config": SIZES, "drop_rate_config": NUMBERS},
    "robust_resnet.PreActResNet": _CLASSES
    | {
        "channel_configs": SIZES,
        "depth_configs": DEPTHS,
        "stride_config": SIZES,
        "stem_stride": SIZE,
        "kernel_size_configs": SIZES,
        "activations": NAMES,
        "normalizations": NAMES,
        "use_init": FLAG,
        "pre_process": FLAG,
    },
    "robust_resnet.get_model": {"modelname": NAME} | _CLASSES,
    "boosting_wide_resnet.BoostingWideResNet": {"depth": SIZE, "widen_factor": SIZE},
    "dm_wide_resnet.DMWideResNet": _DEEPMIND,
    "dm_wide_resnet.DMPreActResNet": _DEEPMIND,
    "dm_rn.WideResNet": _DEEPMIND,
    "Meansparse_wrn_70_16.DMWideResNet": _DEEPMIND,
    "Meansparse_wrn_94_16.MeanSparse_DMWideResNet": _DEEPMIND,
    "Meansparse_ra_wrn_70_16.get_model": {"model_name": NAME},
    "Meansparse_swin_L.swin_large_patch4_window7_224_with_MeanSparse": _CLASSES,
    "robustarch_wide_resnet.get_model": {"model_name": NAME},
    "paf_wide_resnet.pssilu_wrn_28_10": {"dropRate": NUMBER} | _CLASSES,
    "CARD_resnet.LRR_ResNet": {"layers": DEPTHS, "width": SIZE} | _CLASSES,
    "CARD_resnet.WidePreActResNet": {"num_blocks": DEPTHS, "widen_factor": SIZE} | _CLASSES,
    "bit_rn_v2.ResNetV2": {"block_units": DEPTHS, "width_factor": SIZE, "head_size": SIZE, "zero_head": FLAG},
    "resnest.ResNest152": _CLASSES,
    "alexnet.alexnet_imagenet_corruptions": _CLASSES,
    "convnext_v2.ConvNeXtV2": _CONVNEXT | {"depths": DEPTHS, "dims": SIZES},
    "convnext_v2.convnextv2_atto": _CONVNEXT,
    "convnext_v2.convnextv2_femto": _CONVNEXT,
    "convnext_v2.convnext_pico": _CONVNEXT,
    "convnext_v2.convnextv2_nano": _CONVNEXT,
    "convnext_v2.convnextv2_tiny": _CONVNEXT,
    "convnext_v2.convnextv2_base": _CONVNEXT,
    "convnext_v2.convnextv2_large": _CONVNEXT,
    "convnext_v2.convnextv2_huge": _CONVNEXT,
    "convstem_models.get_convstem_models": {"modelname": NAME},
    "deit.tian2022deeper_deit_s_imagenet_corruptions": _CLASSES,
    "deit.tian2022deeper_deit_b_imagenet_corruptions": _CLASSES,
    "MIMIR_swin_transformer.build_swin_base": {},
    "MIMIR_swin_transformer.build_swin_large": {},
    **{
        f"xcit.debenedetti2022light_xcit_{size}12_{data}_linf": _CLASSES
        for size in ("s", "m", "l")
        for data in ("cifar10", "cifar100", "imagenet")
    },
}
"""Name -> arguments that it takes, each with what its value must be."""


def build_model(architecture: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Return a new network of a RobustBench architecture.

    Args:
        architecture: one of `ARCHITECTURES`, e.g. "resnet.ResNet18", "wide_resnet.WideResNet" or
            "robust_wide_resnet.RobustWideResNet".
        arguments: its keyword arguments, e.g. {"depth": 34, "widen_factor": 10}; those of ResNet18,
            which takes none there, are `width` (channels of the first block, 64) and `num_classes` (10).

    Raises:
        ValueError: an architecture that is not in the list, or arguments that it does not take; nothing was called.
    """
    arguments = {} if arguments is None else arguments
    check_architecture(architecture, arguments)
    module, _, name = architecture.partition(".")
    try:
        maker = getattr(importlib.import_module(f"{architectures.__name__}.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"architecture={architecture!r} is not in the installed release of robustbench") from error
    if maker is architectures.resnet.ResNet18 and arguments:
        maker = ResNet18
    try:
        model: nn.Module = maker(**arguments)
    except Exception as error:  # each architecture has its own for arguments that do not go together
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"arguments={short(arguments)} do not fit architecture {architecture!r}: {reason}") from error
    return model


def check_architecture(architecture: Any, arguments: Any) -> None:
    """Raise unless `build_model` may be called with these.

    Args:
        architecture: a key of `ARCHITECTURES`.
        arguments: plain data, {name: value}, of the kinds that are listed there.

    Raises:
        ValueError: anything else.
    """
    if type(architecture) is not str or architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture={short(architecture)} is not known; it must be one of the {len(ARCHITECTURES)} of "
            "part_plugin.adapters.robustbench.ARCHITECTURES, e.g. 'resnet.ResNet18'"
        )
    if not isinstance(arguments, Mapping):
        raise ValueError(f"arguments={short(arguments)} are a {type(arguments).__name__}; a dict is needed")
    takes = ARCHITECTURES[architecture]
    for name, value in arguments.items():
        if name not in takes:
            known = ", ".join(map(repr, takes)) or "none"
            raise ValueError(
                f"arguments={short(arguments)} do not fit architecture {architecture!r}: it has no {short(name)}; "
                f"known are {known}"
            )
        if not _is(takes[name], value):
            raise ValueError(
                f"arguments={short(arguments)} do not fit architecture {architecture!r}: {name}={short(value)} is "
                f"not {takes[name]}"
            )


def _is(kind: str, value: Any) -> bool:
    if kind in _SINGLE:
        return _SINGLE[kind](value)
    single = _SINGLE[_EACH[kind]]
    return type(value) in (list, tuple) and len(value) <= LONGEST and all(map(single, value))
