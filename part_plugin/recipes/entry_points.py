"""A network of one's own, made by a function that is named "package.module:function", never by a file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..short import short
from .architectures import LIBRARIES


def is_entry(architecture: str) -> bool:
    """Return whether an `architecture` is named as "package.module:function"."""
    module = architecture.partition(":")[0]
    return ":" in architecture and module not in LIBRARIES


def from_entry(architecture: str, arguments: Mapping[str, Any], num_classes: int | None) -> nn.Module:
    """Return what a function of one's own gives.

    Args:
        architecture: "package.module:function".
        arguments: passed to it.
        num_classes: likewise, if it has an argument of this name.

    Raises:
        ValueError: there is no such function, or it does not take the arguments.
        TypeError: it returns no network.
    """
    module, _, name = architecture.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"architecture={architecture!r} is not there ({error}); 'package.module:function' is needed, or one of the "
            f"libraries {', '.join(LIBRARIES)} before the colon"
        ) from error
    options = dict(arguments)
    try:
        if num_classes is not None and "num_classes" in inspect.signature(function).parameters:
            options = {"num_classes": num_classes} | options
        inspect.signature(function).bind(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"arguments={short(options)} do not fit architecture {architecture!r}: {error}") from error
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        network = function(**options)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"architecture={architecture!r} returned a {type(network).__name__}; a torch.nn.Module is needed"
        )
    return network
