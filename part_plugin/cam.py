"""Class activation maps: where in an image the network finds its evidence for a class.

One batched forward pass and a gradient from the class score down to the target layer only; no
autograd graph is built below that layer, nothing leaves the device, `.grad` is never touched.
"""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_batch, check_choice, check_class_range, class_indices
from .surrogate import logits_of, network_of, undisturbed, without_wrappers

logger = logging.getLogger(__name__)

Layer = str | nn.Module


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """GradCAM (Selvaraju et al. 2017): channels weighted by their mean gradient. (N,C,h,w) -> (N,h,w)."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1)


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGradCAM (Fu et al. 2020): gradients weighted by normalised activations. (N,C,h,w) -> (N,h,w)."""
    share = activations / (activations.sum((2, 3), keepdim=True) + 1e-7)
    return ((gradients * share).sum((2, 3), keepdim=True) * activations).sum(1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM (Jiang et al. 2021): pixels weighted by their positive gradient. (N,C,h,w) -> (N,h,w)."""
    return (gradients.relu() * activations).sum(1)


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "xgradcam": xgradcam,
    "layercam": layercam,
}


def class_activation_map(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    cam: str | type = "gradcam",
    target_layers: Layer | Sequence[Layer] | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return one map per image, (N, 1, H, W), scaled to [0, 1]; all zeros where a map has no signal.

    Agrees with pytorch-grad-cam's maps. As there, the maps of several layers are scaled and averaged.

    Args:
        model: network that returns logits (N, K); left exactly as it was.
        images: (N, C, H, W), floating point, as the model takes them.
        classes: (N,) class whose evidence is mapped; default: the predicted one.
        cam: "gradcam", "xgradcam", "layercam", or any pytorch-grad-cam class or its name, which
            runs through that library (slower).
        target_layers: modules or dotted names; default: the last module with spatial extent.
        reshape_transform: turns a layer's output into (N, C, h, w), as in pytorch-grad-cam.

    Raises:
        ValueError: unknown method or layer, a layer without spatial extent, a class out of range.
    """
    return map_and_logits(model, images, classes, cam, target_layers, reshape_transform)[0]


def map_and_logits(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    cam: str | type = "gradcam",
    target_layers: Layer | Sequence[Layer] | None = None,
    reshape_transform: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `class_activation_map` does, and the logits (N, K) that were computed on the way."""
    check_cam(cam)
    check_batch(images)
    if classes is not None:
        classes = class_indices(classes, len(images))
    model = without_wrappers(model)
    with undisturbed(model):
        images = images.detach().clone()  # a model may work in place on its input
        layers = resolve_target_layers(model, target_layers, images)
        if cam not in METHODS:
            return _library(cam).library_map(model, images, classes, cam, list(layers.values()), reshape_transform)
        recorded, logits = _record(model, images, classes, layers, reshape_transform)
        maps = [_scale(_native_map(cam, *pair).relu()) for pair in recorded]
        resized = [F.interpolate(m, images.shape[-2:], mode="bilinear", align_corners=False) for m in maps]
        return _scale(torch.stack(resized).mean(0)), logits


def check_cam(cam: Any) -> None:
    """Raise unless `cam` names a method: one of ours, or a pytorch-grad-cam class or its name."""
    if not isinstance(cam, type) and cam not in METHODS:
        check_choice("cam", cam, [*METHODS, *_library(cam).library_methods()])


def _library(cam: str | type) -> ModuleType:
    try:
        return importlib.import_module("part_plugin.adapters.gradcam")
    except ImportError as error:
        raise ImportError(
            f"cam={cam!r} needs pytorch-grad-cam, which is not installed: pip install grad-cam"
        ) from error


def resolve_target_layers(
    model: nn.Module, target_layers: Layer | Sequence[Layer] | None, images: Tensor
) -> dict[str, nn.Module]:
    """Return the target layers by their dotted name; `None` finds the last one with spatial extent."""
    network = network_of(model)
    if target_layers is None:
        by_size = _found.setdefault(network, {})
        size = images.shape[1:]
        if size not in by_size:
            by_size[size] = _find_target_layer(model, network, images)
            logger.info("target_layers=None: %r of %s is mapped", by_size[size], type(network).__name__)
        return {by_size[size]: network.get_submodule(by_size[size])}
    wanted = [target_layers] if isinstance(target_layers, (str, nn.Module)) else list(target_layers)
    if not wanted:
        raise ValueError("target_layers is empty; give at least one module or dotted name, or None")
    return dict(_lookup(network, layer) for layer in wanted)


_found: WeakKeyDictionary[nn.Module, dict[torch.Size, str]] = WeakKeyDictionary()


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
        if module is layer:
            return name, module
    raise ValueError(f"target_layers holds a {type(layer).__name__} that is not part of the model")


def _find_target_layer(model: nn.Module, network: nn.Module, images: Tensor) -> str:
    """Trace one image; the last module to finish with an (N, C, h, w) output, h * w > 1, wins."""
    last: list[str] = []

    def watch(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
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
                hooks.callback(module.register_forward_hook(watch(name)).remove)
        model(images[:1])
    if not last:
        raise ValueError(
            f"target_layers=None: {type(network).__name__} has no module with an (N, C, h, w) output to map; "
            "pass target_layers (and reshape_transform for tokens)"
        )
    return last[0]


def _enlarges(inputs: tuple, output: Tensor) -> bool:
    """Whether a module repeats its input, as adaptive pooling does on images smaller than its grid."""
    first = inputs[0] if inputs else None
    return isinstance(first, Tensor) and first.dim() == 4 and first[0, 0].numel() < output[0, 0].numel()


def _record(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None,
    layers: dict[str, nn.Module],
    reshape_transform: Callable[[Tensor], Tensor] | None,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the activations at each layer and the gradients of the class scores there; and the logits."""
    recorded: dict[str, Tensor] = {}

    def record(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(f"target layer {name!r} returns a {type(output).__name__}; a tensor is needed")
            torch.set_grad_enabled(True)  # from here on up; below, the forward pass runs without a graph
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            recorded[name] = output
            return output.clone()  # so that a later in-place ReLU does not change what was recorded

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(record(name)).remove)
        logits = logits_of(model, images)
    unreached = [name for name in layers if name not in recorded]
    if unreached:
        raise ValueError(f"target layer {unreached[0]!r} is not reached by the model's forward pass")
    activations = [recorded[name] for name in layers]
    gradients = torch.autograd.grad(_scores(logits, classes), activations, allow_unused=True)
    for name, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            raise ValueError(f"the model's output does not depend on target layer {name!r}")
    pairs = [
        tuple(_as_maps(name, tensor.detach(), reshape_transform) for tensor in pair)
        for name, *pair in zip(layers, activations, gradients, strict=True)
    ]
    return pairs, logits.detach()


def _scores(logits: Tensor, classes: Tensor | None) -> Tensor:
    if not logits.requires_grad:
        raise ValueError("the model's output carries no gradient; its forward pass must be differentiable")
    if classes is None:
        return logits.gather(1, logits.detach().argmax(1, keepdim=True)).sum()
    check_class_range(classes, logits.shape[1])
    return logits.gather(1, classes.to(logits.device)[:, None]).sum()


def _as_maps(name: str, tensor: Tensor, reshape_transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    if reshape_transform is not None:
        tensor = reshape_transform(tensor)
    if tensor.dim() != 4:
        raise ValueError(
            f"target layer {name!r} gives {tuple(tensor.shape)}; (N, C, h, w) is needed: pass reshape_transform"
        )
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _native_map(cam: str, activations: Tensor, gradients: Tensor) -> Tensor:
    return METHODS[cam](activations, gradients)[:, None]


def _scale(maps: Tensor) -> Tensor:
    """Scale each map to [0, 1] as pytorch-grad-cam does; a map constant to rounding becomes zeros."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    span = high - low
    signal = span > 4 * torch.finfo(maps.dtype).eps * high  # false as well for NaN and infinity
    return torch.where(signal, (maps - low) / (span + 1e-7), torch.zeros_like(maps))
