"""Which layer of a network a map is taken from, and its output as (N, C, h, w)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .network.memory import Memory, original_of
from .network.view import network_of

logger = logging.getLogger(__name__)

Layer = str | nn.Module
TargetLayers = Layer | Sequence[Layer] | None
ReshapeTransform = Callable[[Tensor], Tensor]


def resolve_target_layers(model: nn.Module, target_layers: TargetLayers, images: Tensor) -> dict[str, nn.Module]:
    """Return the target layers by their dotted name.

    Args:
        model: the network, in eval mode.
        target_layers: modules or dotted names; None: the last one with spatial extent.
        images: (N, C, H, W), one of which is sent through the network to find that one.

    Raises:
        TypeError: something that is no module and no name, nor a list of them.
        ValueError: no layers, layers that are none of the model's, or none with spatial extent.
    """
    network = network_of(model)
    if target_layers is None:
        name = _found.recall(network, images.shape[1:], lambda: _find_target_layer(model, network, images))
        return {name: network.get_submodule(name)}
    if not isinstance(target_layers, (str, nn.Module, Iterable)):
        raise TypeError(
            f"target_layers={target_layers!r} is a {type(target_layers).__name__}; modules or dotted names are needed"
        )
    wanted = [target_layers] if isinstance(target_layers, (str, nn.Module)) else list(target_layers)
    if not wanted:
        raise ValueError("target_layers is empty; give at least one module or dotted name, or None")
    return dict(_lookup(network, layer) for layer in wanted)


_found: Memory[str] = Memory()


def _lookup(network: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    modules = dict(network.named_modules())
    if isinstance(layer, str):
        parts = [part for part in layer.split(".") if part not in ("module", "_orig_mod")]
        for name in (layer, ".".join(parts)):
            if name and name in modules:
                return name, modules[name]
        near = difflib.get_close_matches(layer, modules, n=5, cutoff=0.0)
        raise ValueError(f"target_layers={layer!r} is no module of the model; the nearest are {near}")
    if not isinstance(layer, nn.Module):
        raise TypeError(f"target_layers holds a {type(layer).__name__}; modules or dotted names are needed")
    for name, module in modules.items():
        if layer in (module, original_of(module)):
            return name, module
    raise ValueError(f"target_layers holds a {type(layer).__name__} that is not part of the model")


def _find_target_layer(model: nn.Module, network: nn.Module, images: Tensor) -> str:
    """Trace one image; the last module to finish with an (N, C, h, w) output, h * w > 1, wins.

    Raises:
        ValueError: there is none.
    """
    last: list[str] = []

    def recorder(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            if output.dim() == 3:  # tokens: what came before them is no longer where decisions are made
                last.clear()
            elif output.dim() == 4 and output[0, 0].numel() > 1 and not _enlarges(inputs, output):
                last[:] = [name]

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in network.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(recorder(name)).remove)
        model(images[:1].clone())  # a model may work in place on its input
    if not last:
        raise ValueError(
            f"target_layers=None: {type(network).__name__} has no module with an (N, C, h, w) output to map; "
            "pass target_layers (and reshape_transform for tokens)"
        )
    logger.info("target_layers=None: %r of %s is mapped", last[0], type(network).__name__)
    return last[0]


def _enlarges(inputs: tuple[Any, ...], output: Tensor) -> bool:
    """Whether a module repeats its input, as adaptive pooling does on images smaller than its grid."""
    first = inputs[0] if inputs else None
    return isinstance(first, Tensor) and first.dim() == 4 and first[0, 0].numel() < output[0, 0].numel()


def as_maps(name: str, tensor: Tensor, reshape_transform: ReshapeTransform | None) -> Tensor:
    """Return what a layer gave, or its gradient, as (N, C, h, w) in at least single precision.

    Args:
        name: of the layer.
        tensor: what it gave.
        reshape_transform: turns that into (N, C, h, w).

    Raises:
        ValueError: a tensor of another shape, or one without spatial extent.
    """
    if reshape_transform is not None:
        tensor = reshape_transform(tensor)
    if tensor.dim() != 4:
        raise ValueError(
            f"target layer {name!r} gives {tuple(tensor.shape)}; (N, C, h, w) is needed: pass reshape_transform"
        )
    if tensor.shape[2:].numel() < 2:
        raise ValueError(
            f"target layer {name!r} gives {tuple(tensor.shape)}, in which nothing can be told from anything else; "
            "name a layer before the pooling"
        )
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def tensor_of(name: str, output: Any) -> Tensor:
    """Return what the layer `name` gave, its `output`, if it is a tensor.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(output, Tensor):
        raise ValueError(f"target layer {name!r} returns a {type(output).__name__}; a tensor is needed")
    return output


def check_reached(layers: Iterable[str], reached: Container[str]) -> None:
    """Raise unless all `layers` are among those `reached` by a forward pass.

    Raises:
        ValueError: one is not.
    """
    unreached = [name for name in layers if name not in reached]
    if unreached:
        raise ValueError(f"target layer {unreached[0]!r} is not reached by the model's forward pass")


def layer_names(layers: TargetLayers) -> str:
    """Return target `layers` as `repr` shows them."""
    if layers is None:
        return "auto"
    listed = [layers] if isinstance(layers, (str, nn.Module)) else layers
    return "+".join(layer if isinstance(layer, str) else type(layer).__name__ for layer in listed)
