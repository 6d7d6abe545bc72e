"""Which layer of a network a map is taken from, and its output as (N, C, h, w)."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .layer_search import find_layer, layout_of
from .layouts import Layout, readings
from .mismatch import CLOSED
from .network.memory import Memory, original_of
from .network.view import logits_of, network_of, without_wrappers

logger = logging.getLogger(__name__)

Layer = str | nn.Module
TargetLayers = Layer | Sequence[Layer] | None
ReshapeTransform = Callable[[Tensor], Tensor]


def resolve_target_layers(model: nn.Module, target_layers: TargetLayers, images: Tensor) -> dict[str, nn.Module]:
    """Return the target layers by their dotted name.

    Args:
        model: the network, in eval mode.
        target_layers: modules or dotted names; None: the one that `find_layer` finds.
        images: (N, C, H, W), one of which is sent through the network to find that one.

    Raises:
        TypeError: something that is no module and no name, nor a list of them.
        ValueError: no layers, layers that are none of the model's or scripted, or none with spatial extent.
    """
    network = network_of(model)
    if target_layers is None:
        name, _ = _found_layer(model, network, images)
        return {name: network.get_submodule(name)}
    if not isinstance(target_layers, (str, nn.Module, Iterable)):
        raise TypeError(
            f"target_layers={target_layers!r} is a {type(target_layers).__name__}; modules or dotted names are needed"
        )
    wanted = [target_layers] if isinstance(target_layers, (str, nn.Module)) else list(target_layers)
    if not wanted:
        raise ValueError("target_layers is empty; give at least one module or dotted name, or None")
    found = dict(_lookup(network, layer) for layer in wanted)
    if any(isinstance(module, torch.jit.ScriptModule) for module in (network, *found.values())):
        raise ValueError(CLOSED)
    return found


def transforms_of(
    model: nn.Module,
    layers: Iterable[str],
    target_layers: TargetLayers,
    reshape_transform: ReshapeTransform | None,
    images: Tensor,
) -> dict[str, ReshapeTransform | None]:
    """Return what turns the output of each of the `layers` into (N, C, h, w); None where it is that already.

    Args:
        model: the network, in eval mode.
        layers: their names, as `resolve_target_layers` returns them.
        target_layers: as the user gave them.
        reshape_transform: the user's own, for all of them.
        images: (N, C, H, W), one of which is sent through the network to tell the layout of a layer.

    Raises:
        ValueError: a layer whose layout cannot be told.
    """
    if reshape_transform is not None:
        return dict.fromkeys(layers, reshape_transform)
    network = network_of(model)
    if target_layers is None:
        return dict([_found_layer(model, network, images)])
    size, look = images.shape[1:], partial(_layout, model, network, images[:1])
    return {name: _layouts.recall(network, (size, name), partial(look, name)) for name in layers}


_found: Memory[tuple[str, Layout]] = Memory()
_layouts: Memory[Layout | None] = Memory()


def _found_layer(model: nn.Module, network: nn.Module, images: Tensor) -> tuple[str, Layout]:
    def find() -> tuple[str, Layout]:
        name, layout = find_layer(model, network, images[:1].detach())
        logger.info("target_layers=None: %r of %s is mapped, %s", name, type(network).__name__, layout)
        return name, layout

    return _found.recall(network, images.shape[1:], find)


def _layout(model: nn.Module, network: nn.Module, image: Tensor, name: str) -> Layout | None:
    """Return how the output of a layer that the user named lies; None where there is nothing to tell, or no map."""
    outputs: list[Any] = []
    with torch.no_grad():
        handle = network.get_submodule(name).register_forward_hook(lambda *call: outputs.append(call[2]))
        try:
            logits_of(model, image.detach())
        finally:
            handle.remove()
    shape = outputs[0].shape if outputs and isinstance(outputs[0], Tensor) else torch.Size()
    if len(shape) == 4:
        orders = [layout.order for layout in readings(shape, image.shape[2:])]
        if "NHWC" not in orders:
            return None
    return layout_of(model, network, image.detach(), name) if len(shape) in (3, 4) else None


WRAPPERS = ("module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
"""What the network inside a wrapper is called there; names are taken with and without."""


def _lookup(network: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    modules = dict(network.named_modules())
    if isinstance(layer, str):
        name = layer if layer and layer in modules else _without_wrappers(layer, modules)
        if name is not None:
            return name, modules[name]
        near = difflib.get_close_matches(layer, modules, n=5, cutoff=0.0)
        raise ValueError(f"target_layers={layer!r} is no module of the model; the nearest are {near}")
    if not isinstance(layer, nn.Module):
        raise TypeError(f"target_layers holds a {type(layer).__name__}; modules or dotted names are needed")
    wanted = without_wrappers(layer)
    for name, module in modules.items():
        if wanted in (module, original_of(module)):
            return name, module
    alike = [name for name, module in modules.items() if name and _alike(module, wanted)]
    hint = f"; one like it is {' or '.join(map(repr, alike))}: pass the name" if alike else ""
    raise ValueError(f"target_layers holds a {type(layer).__name__} that is not part of the model{hint}")


def _without_wrappers(layer: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is `layer` but for the names of wrappers; None if there is none, or several."""

    def bare(name: str) -> list[str]:
        return [part for part in name.split(".") if part not in ("", *WRAPPERS)]

    found = [name for name in names if bare(name) == bare(layer) != []]
    wrapped = all(name.startswith(f"{found[0]}.") for name in found[1:])  # in one another: the outermost
    return found[0] if found and wrapped else None


def _alike(module: nn.Module, other: nn.Module) -> bool:
    """Whether two modules are built alike, as those of a network and its copy are."""
    shapes = [{name: weight.shape for name, weight in each.state_dict().items()} for each in (module, other)]
    return repr(module) == repr(other) and shapes[0] == shapes[1]


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
