"""Class activation maps: where in an image the network finds its evidence for a class.

One batched forward pass and a gradient from the class score down to the target layer only; no
autograd graph is built below that layer, nothing leaves the device, `.grad` is never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cam_methods import METHODS
from .checks import check_batch, check_class_range, class_indices
from .deferred import moved
from .map_sources import Cam, check_cam, library_maps, own_maps
from .mismatch import explained
from .network.isolation import isolated
from .network.view import logits_of, without_wrappers
from .target_layers import (
    ReshapeTransform,
    TargetLayers,
    as_maps,
    check_reached,
    resolve_target_layers,
    tensor_of,
    transforms_of,
)

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

    Agrees with pytorch-grad-cam's maps. As there, the maps of several layers are scaled and averaged. It differs where
    a ReLU works in place on what a target layer gives (DenseNet's last batch norm): here that layer is mapped as it
    is, before the ReLU; pytorch-grad-cam has, on a CPU, the activations after it and the gradients before it, which
    belong to no map of the network. And where a layer is called more than once: here its last call is mapped, there
    its first, so that its classes are refused for such a layer.

    Args:
        model: network that returns logits (N, K); left exactly as it was.
        images: (N, C, H, W), floating point, as the model takes them.
        classes: (N,) class whose evidence is mapped; default: the predicted one.
        cam: "gradcam", "xgradcam", "layercam"; any pytorch-grad-cam class or its name, which runs through that
            library (slower); or a source of maps of your own, see `MapSource`.
        target_layers: modules or dotted names; default: the last module with spatial extent. Not for your own source.
        reshape_transform: turns a layer's output into (N, C, h, w), as in pytorch-grad-cam.

    Raises:
        TypeError: `images` that are no floating-point tensor or of another dtype than the weights, `target_layers`
            that are no layers.
        ValueError: unknown method or layer, a layer without spatial extent, a class out of range, images on another
            device or with other channels than the network takes.
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
    with explained(model, images), isolated(model, images, compiled=False) as model:
        images = images.detach().clone()  # from here on no one else's, and no tensor of inference_mode
        if isinstance(cam, str) and cam in METHODS:
            layers = resolve_target_layers(model, target_layers, images)
            transforms = transforms_of(model, layers, target_layers, reshape_transform, images)
            recorded, logits = _record(model, images, classes, layers, transforms)
            maps = [METHODS[cam](*pair)[:, None].relu() for pair in recorded]
        elif isinstance(cam, (str, type)):
            known = partial(_known_classes, classes=classes)
            found, logits = library_maps(model, images, known, cam, target_layers, reshape_transform)
            maps = [found]
        else:
            with torch.no_grad():
                logits = logits_of(model, images)
            maps = [own_maps(model, images, _known_classes(logits, classes), cam)]
        at_size = [resized(scaled(each), images) for each in maps]
        return scaled(torch.stack(at_size).mean(0)), logits


def _record(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None,
    layers: dict[str, nn.Module],
    transforms: dict[str, ReshapeTransform | None],
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the activations at each layer and the gradients of the class scores there; and the logits.

    Of a layer that is called more than once it is the last call.

    Raises:
        ValueError: a layer that is not reached, gives no tensor, or has no part in the logits.
    """
    recorded: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
            output = tensor_of(name, output)
            torch.set_grad_enabled(True)  # from here on up; below, the forward pass runs without a graph
            recorded[name] = output if output.requires_grad else output.detach().requires_grad_()
            return recorded[name].clone()  # so that a later in-place ReLU does not change what was recorded

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in layers.items():
            hooks.callback(module.register_forward_hook(recorder(name)).remove)
        logits = logits_of(model, images)
    check_reached(layers, recorded)
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
        if len(gradient) != len(images):
            raise ValueError(
                f"target layer {name!r} gives {len(gradient)} rows for {len(images)} images; one of each is needed"
            )
    pairs = [
        (as_maps(name, activation.detach(), transforms[name]), as_maps(name, gradient, transforms[name]))
        for name, activation, gradient in zip(layers, activations, gradients, strict=True)
    ]
    return pairs, logits.detach()


def _known_classes(logits: Tensor, classes: Tensor | None) -> Tensor:
    """Return the classes to map, (N,): those given, if the network has them, or the predicted ones."""
    if classes is None:
        return logits.detach().argmax(1)
    return moved(check_class_range(classes, logits.shape[1]), logits)


def resized(maps: Tensor, images: Tensor) -> Tensor:
    """Return `maps` (N, 1, h, w) at the size of the `images`, interpolated as pytorch-grad-cam does."""
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)


def scaled(maps: Tensor) -> Tensor:
    """Scale each of the `maps` to [0, 1] as pytorch-grad-cam does; one constant to rounding becomes zeros."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    span = high - low
    signal = span > 4 * torch.finfo(maps.dtype).eps * torch.maximum(high, -low)  # false as well for NaN and infinity
    return torch.where(signal, (maps - low) / (span + 1e-7), torch.zeros_like(maps))
