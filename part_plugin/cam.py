"""Class activation maps: where in an image the network finds its evidence for a class.

One batched forward pass and a gradient from the class score down to the target layer only; no
autograd graph is built below that layer, nothing leaves the device, `.grad` is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cam_methods import METHODS
from .checks import check_batch, check_class_range, class_indices
from .network.isolation import callers_own, isolated
from .network.view import logits_of, without_wrappers
from .plugins import map_libraries
from .target_layers import ReshapeTransform, TargetLayers, as_maps, resolve_target_layers

MapSource = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A source of maps: (model, images (N, C, H, W), classes (N,)) -> (N, h, w), (N, 1, h, w) or (N, C, h, w), any scale.

The model is in eval mode and takes the images as they are; what comes back is averaged over channels, resized and
scaled here. Captum, torch-cam, attention rollout or saliency plug in so.
"""
Cam = str | type | MapSource
Maps = Callable[[Tensor, Tensor], Tensor]


def class_activation_map(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    cam: Cam = "gradcam",
    target_layers: TargetLayers = None,
    reshape_transform: ReshapeTransform | None = None,
) -> Tensor:
    """Return one map per image, (N, 1, H, W), scaled to [0, 1]; all zeros where a map has no signal.

    Agrees with pytorch-grad-cam's maps. As there, the maps of several layers are scaled and averaged.

    Args:
        model: network that returns logits (N, K); left exactly as it was.
        images: (N, C, H, W), floating point, as the model takes them.
        classes: (N,) class whose evidence is mapped; default: the predicted one.
        cam: "gradcam", "xgradcam", "layercam"; any pytorch-grad-cam class or its name, which runs through that
            library (slower); or a source of maps of your own, see `MapSource`.
        target_layers: modules or dotted names; default: the last module with spatial extent. Not for your own source.
        reshape_transform: turns a layer's output into (N, C, h, w), as in pytorch-grad-cam.

    Raises:
        TypeError: `images` that are no floating-point tensor, `target_layers` that are no layers.
        ValueError: unknown method or layer, a layer without spatial extent, a class out of range.
        ImportError: `cam` is of pytorch-grad-cam, which is not installed.
    """
    return map_and_logits(model, images, classes, cam, target_layers, reshape_transform)[0]


def map_and_logits(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None = None,
    cam: Cam = "gradcam",
    target_layers: TargetLayers = None,
    reshape_transform: ReshapeTransform | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `class_activation_map` does, and the logits (N, K) that were computed on the way.

    It takes `model`, `images`, `classes`, `cam`, `target_layers` and `reshape_transform` as that does.
    """
    check_cam(cam, target_layers, reshape_transform)
    check_batch(images)
    if classes is not None:
        classes = class_indices(classes, len(images))
    model = without_wrappers(model)
    with isolated(model, images) as model:
        images = images.detach().clone()  # from here on no one else's, and no tensor of inference_mode
        if isinstance(cam, str) and cam in METHODS:
            layers = resolve_target_layers(model, target_layers, images)
            recorded, logits = _record(model, images, classes, layers, reshape_transform)
            maps = [METHODS[cam](*pair)[:, None].relu() for pair in recorded]
        else:
            with torch.no_grad():
                logits = logits_of(model, images)
            of = _known_classes(logits, classes)
            maps = [_foreign_maps(model, images, of, cam, target_layers, reshape_transform)]
        at_size = [resized(scaled(each), images) for each in maps]
        return scaled(torch.stack(at_size).mean(0)), logits


def check_cam(cam: Any, target_layers: Any = None, reshape_transform: Any = None) -> None:
    """Raise unless `cam` is a source of maps and goes with `target_layers` and `reshape_transform`.

    Raises:
        TypeError: neither a name, nor a class, nor a function.
        ValueError: an unknown name or class, or target layers beside a function, which needs none.
        ImportError: `cam` is of pytorch-grad-cam, which is not installed.
    """
    if isinstance(cam, str) and cam in METHODS:
        return
    if isinstance(cam, (str, type)):
        _library().check_library_method(cam, list(METHODS))
    elif not callable(cam):
        raise TypeError(
            f"cam={cam!r} is a {type(cam).__name__}; a name, a pytorch-grad-cam class or a function "
            "(model, images, classes) -> maps is needed"
        )
    elif target_layers is not None or reshape_transform is not None:
        raise ValueError("target_layers and reshape_transform do not go with a cam of your own, which needs none")


def cam_name(cam: Cam) -> str:
    """Return `cam`, a source of maps, as `repr` shows it."""
    return cam if isinstance(cam, str) else getattr(cam, "__name__", type(cam).__name__)


def _library() -> Any:
    return map_libraries[0]()


def _foreign_maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    cam: str | type | MapSource,
    target_layers: TargetLayers,
    reshape_transform: ReshapeTransform | None,
) -> Tensor:
    """Return the maps of pytorch-grad-cam or of a source of the user's own, (N, 1, h, w)."""
    if isinstance(cam, (str, type)):
        layers = list(resolve_target_layers(model, target_layers, images).values())
        maps: Tensor = _library().library_maps(model, images, classes, cam, layers, reshape_transform)
        return maps
    with callers_own(model) as own:  # which the source may hold as well
        return _checked(cam(own, images, classes), images)


def _checked(maps: Any, images: Tensor) -> Tensor:
    """Return the maps of a user's own source as (N, 1, h, w).

    Raises:
        ValueError: they are no maps of these images.
    """
    shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
    if not isinstance(maps, Tensor) or maps.dim() not in (3, 4) or len(maps) != len(images) or not maps.numel():
        raise ValueError(f"cam returned {shape}; maps (N, h, w) or (N, C, h, w) of the {len(images)} images are needed")
    found: Tensor = maps.detach().to(images.device, torch.promote_types(maps.dtype, torch.float32))
    found = found[:, None] if found.dim() == 3 else found.mean(1, keepdim=True)
    largest = found.abs().amax((1, 2, 3), keepdim=True)
    return found / largest.clamp_min(torch.finfo(found.dtype).tiny)  # any scale: `scaled` is made for that of GradCAM


def _record(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None,
    layers: dict[str, nn.Module],
    reshape_transform: ReshapeTransform | None,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the activations at each layer and the gradients of the class scores there; and the logits.

    Raises:
        ValueError: a layer that is not reached, gives no tensor, or has no part in the logits.
    """
    recorded: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise ValueError(f"target layer {name!r} returns a {type(output).__name__}; a tensor is needed")
            torch.set_grad_enabled(True)  # from here on up; below, the forward pass runs without a graph
            recorded[name] = output if output.requires_grad else output.detach().requires_grad_()
            return recorded[name].clone()  # so that a later in-place ReLU does not change what was recorded

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(recorder(name)).remove)
        logits = logits_of(model, images)
    unreached = [name for name in layers if name not in recorded]
    if unreached:
        raise ValueError(f"target layer {unreached[0]!r} is not reached by the model's forward pass")
    activations = [recorded[name] for name in layers]
    if not logits.requires_grad:
        raise ValueError(
            f"the model's output carries no gradient to target layer {next(iter(layers))!r}: it does not depend on it, "
            "or its forward pass is not differentiable"
        )
    scores = logits.gather(1, _known_classes(logits, classes)[:, None]).sum()
    gradients = torch.autograd.grad(scores, activations, allow_unused=True)
    for name, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            raise ValueError(f"the model's output does not depend on target layer {name!r}")
    pairs = [
        (as_maps(name, activation.detach(), reshape_transform), as_maps(name, gradient, reshape_transform))
        for name, activation, gradient in zip(layers, activations, gradients, strict=True)
    ]
    return pairs, logits.detach()


def _known_classes(logits: Tensor, classes: Tensor | None) -> Tensor:
    """Return the classes to map, (N,): those given, if the network has them, or the predicted ones."""
    if classes is None:
        return logits.detach().argmax(1)
    check_class_range(classes, logits.shape[1])
    return classes.to(logits.device)


def resized(maps: Tensor, images: Tensor) -> Tensor:
    """Return `maps` (N, 1, h, w) at the size of the `images`, interpolated as pytorch-grad-cam does."""
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)


def scaled(maps: Tensor) -> Tensor:
    """Scale each of the `maps` to [0, 1] as pytorch-grad-cam does; one constant to rounding becomes zeros."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    span = high - low
    signal = span > 4 * torch.finfo(maps.dtype).eps * torch.maximum(high, -low)  # false as well for NaN and infinity
    return torch.where(signal, (maps - low) / (span + 1e-7), torch.zeros_like(maps))
