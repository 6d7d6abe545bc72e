"""Networks by name: RobustBench's, and under a prefix those of timm, torchvision and transformers.

As with RobustBench's, what a file may name is a fixed list, and so are the arguments: no weights are read or fetched,
and nothing is called but what makes a network of plain data.
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from types import ModuleType
from typing import Any

from torch import nn

from ..adapters import robustbench
from ..short import short

LIBRARIES = ("robustbench", "timm", "torchvision", "transformers")
LARGEST, LARGEST_SIDE, LONGEST = 65536, 1024, 64
"""Largest integer among the arguments, largest side of an image, a patch or a window, longest list or text."""
_SIDES = ("img_size", "image_size", "patch_size", "patch_sizes", "window_size", "pretrained_window_sizes")
_VALUES = (
    f"a finite number, an integer from 0 to {LARGEST}, True or False, text of at most {LONGEST} characters, or a list "
    f"of at most {LONGEST} of these"
)
_ARGUMENTS: dict[str, Sequence[str]] = {
    "timm": (
        *("in_chans", "img_size", "patch_size", "window_size", "embed_dim", "embed_dims", "depth", "depths", "dims"),
        *("layers", "channels", "num_heads", "mlp_ratio", "mlp_ratios", "qkv_bias", "class_token", "reg_tokens"),
        *("no_embed_class", "pre_norm", "fc_norm", "init_values", "global_pool", "base_width", "cardinality"),
        *("stem_width", "stem_type", "avg_down", "growth_rate", "block_config", "output_stride", "drop_rate"),
        *("drop_path_rate", "proj_drop_rate", "attn_drop_rate", "dynamic_img_size"),
    ),
    "torchvision": (
        *("dropout", "attention_dropout", "stochastic_depth_prob", "drop_rate", "memory_efficient", "image_size"),
        *("width_mult", "width_per_group", "groups", "zero_init_residual", "aux_logits"),
        *("transform_input", "reduced_tail", "dilated"),
    ),
}
_NOT_FROM_PIXELS = ("TimmWrapperForImageClassification",)  # makes whatever its configuration names


def library_of(architecture: str) -> tuple[str, str]:
    """Return the library that has an architecture, and its name there; RobustBench's needs no prefix.

    Args:
        architecture: such as "timm:resnet18", "robustbench:resnet.ResNet18" or "resnet.ResNet18".
    """
    prefix, colon, name = architecture.partition(":")
    return (prefix, name) if colon and prefix in LIBRARIES else ("robustbench", architecture)


def has_own_head(architecture: str) -> bool:
    """Return whether `build_network` makes the last layer of an `architecture` for any number of classes."""
    return library_of(architecture)[0] != "robustbench"


def version_of(architecture: str) -> dict[str, str]:
    """Return {library: version} of the library that has an `architecture`."""
    library = library_of(architecture)[0]
    return {library: metadata.version(library)}


def arguments_of(architecture: str) -> Sequence[str]:
    """Return the names of the arguments that an `architecture` takes.

    Raises:
        ValueError: it is not known.
        ImportError: its library is not installed.
    """
    library, name = library_of(architecture)
    if library == "robustbench":
        robustbench.check_architecture(name, {})
        return list(robustbench.ARCHITECTURES[name])
    return _BUILDERS[library][0](name)


def check_architecture(architecture: Any, arguments: Any) -> None:
    """Raise unless `build_network` may be called with these.

    Args:
        architecture: see there.
        arguments: see there.

    Raises:
        ValueError: an architecture that is not known, arguments that are not allowed.
        ImportError: its library is not installed.
    """
    library, name = library_of(architecture) if isinstance(architecture, str) else ("robustbench", architecture)
    if library == "robustbench":
        robustbench.check_architecture(name, arguments)
        return
    takes = arguments_of(architecture)
    if not isinstance(arguments, Mapping):
        raise ValueError(f"arguments={short(arguments)} are a {type(arguments).__name__}; a dict is needed")
    unfit = f"arguments={short(arguments)} do not fit architecture {architecture!r}: "
    for key, value in arguments.items():
        if key not in takes:
            raise ValueError(f"{unfit}{short(key)} is not allowed; known are {', '.join(map(repr, takes))}")
        if not _is_plain(value, LARGEST_SIDE if key in _SIDES else LARGEST):
            sides = f"; sides are at most {LARGEST_SIDE}" if key in _SIDES else ""
            raise ValueError(f"{unfit}{key}={short(value)} is not {_VALUES}{sides}")


def build_network(architecture: str, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    """Return a new network.

    Args:
        architecture: one of RobustBench's (see `part_plugin.adapters.robustbench.ARCHITECTURES`), "timm:" and a name of
            `timm.list_models()`, "torchvision:" and a name of `torchvision.models.list_models()` that is a classifier,
            or "transformers:" and a class for image classification, such as "transformers:ViTForImageClassification".
        arguments: its keyword arguments, those of a transformers configuration; plain data.
        num_classes: number of logits; RobustBench's networks have it among their arguments.

    Raises:
        ValueError: an architecture that is not known, arguments that are not allowed or that it does not take.
        ImportError: its library is not installed.
    """
    check_architecture(architecture, arguments)
    library, name = library_of(architecture)
    if library == "robustbench":
        return robustbench.build_model(name, arguments)
    if type(num_classes) is not int or not 1 <= num_classes <= LARGEST:
        raise ValueError(f"num_classes={short(num_classes)} is not allowed; an integer from 1 to {LARGEST} is needed")
    try:
        return _BUILDERS[library][1](name, arguments, num_classes)
    except Exception as error:  # each has its own for arguments that do not go together
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(".__init__()", "")
        raise ValueError(f"arguments={short(arguments)} do not fit architecture {architecture!r}: {reason}") from error


def published_names(network: nn.Module) -> dict[str, str]:
    """Return how weights are named in files, with what the `network` calls them; transformers has two names for some.

    Args:
        network: of any library.
    """
    if not type(network).__module__.startswith("transformers."):
        return {}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before release 5 there was one name
        return {}
    own = network.state_dict()
    names = {id(tensor): name for name, tensor in own.items()}
    published = revert_weight_conversion(network, dict(own))
    return {name: names[id(tensor)] for name, tensor in published.items() if id(tensor) in names}


def _is_plain(value: Any, largest: int) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= LONGEST and all(not isinstance(one, dict) and _is_plain(one, largest) for one in value)
    if type(value) is int:
        return 0 <= value <= largest
    if type(value) is float:
        return math.isfinite(value) and abs(value) <= 1e30
    return value is None or type(value) is bool or (type(value) is str and len(value) <= LONGEST)


def _library(name: str) -> ModuleType:
    """Return a library.

    Raises:
        ImportError: it is missing or broken; the sentence says what to do.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a broken one can raise anything
        raise ImportError(
            f"architecture={name + ':...'!r} needs {name}, which cannot be imported ({error}): pip install {name}"
        ) from error


def _check_name(library: str, name: str, names: Sequence[str]) -> None:
    """Raise unless `name` is one of the `names` of a `library`.

    Raises:
        ValueError: it is not.
    """
    if name not in names:
        alike = difflib.get_close_matches(name[:LONGEST], names, 1)
        nearest = (
            f"the nearest that {library} has is {f'{library}:{alike[0]}'!r}" if alike else f"{library} has none like it"
        )
        raise ValueError(f"architecture={short(f'{library}:{name}')} is not known; {nearest}")


def _timm_arguments(name: str) -> Sequence[str]:
    _check_name("timm", name, _library("timm").list_models())
    return _ARGUMENTS["timm"]


def _timm(name: str, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    network: nn.Module = _library("timm").create_model(name, pretrained=False, num_classes=num_classes, **arguments)
    return network


def _torchvision_arguments(name: str) -> Sequence[str]:
    models = _library("torchvision").models
    _check_name("torchvision", name, models.list_models(module=models))
    return _ARGUMENTS["torchvision"]


def _torchvision(name: str, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    models = _library("torchvision").models
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    return network


def _transformers_arguments(name: str) -> Sequence[str]:
    """Return the arguments of the configuration of a class for image classification.

    Raises:
        ValueError: no such class, or none that takes images alone.
    """
    transformers = _library("transformers")
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    names = [one for value in KNOWN.values() for one in ([value] if isinstance(value, str) else value)]
    _check_name("transformers", name, [one for one in names if one not in _NOT_FROM_PIXELS])
    maker = getattr(transformers, name)
    configuration = maker.config_class()
    if maker.main_input_name != "pixel_values" or getattr(configuration, "sub_configs", None):
        raise ValueError(f"architecture='transformers:{name}' does not take images alone; another is needed")
    return [key for key in configuration.to_dict() if key not in transformers.PretrainedConfig().to_dict()]


def _transformers(name: str, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    maker = getattr(_library("transformers"), name)
    network: nn.Module = maker(maker.config_class(**{**arguments, "num_labels": num_classes}))
    return network


_BUILDERS: dict[str, tuple[Callable[[str], Sequence[str]], Callable[[str, Mapping[str, Any], int], nn.Module]]] = {
    "timm": (_timm_arguments, _timm),
    "torchvision": (_torchvision_arguments, _torchvision),
    "transformers": (_transformers_arguments, _transformers),
}
