"""Maps that others make: a class of pytorch-grad-cam, or a function of the user's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .cam_methods import METHODS
from .network.isolation import callers_own
from .network.view import logits_of
from .plugins import map_libraries
from .target_layers import (
    ReshapeTransform,
    TargetLayers,
    as_maps,
    check_reached,
    resolve_target_layers,
    tensor_of,
    transforms_of,
)

MapSource = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A source of maps: (model, images (N, C, H, W), classes (N,)) -> (N, h, w), (N, 1, h, w) or (N, C, h, w), any scale.

The model is in eval mode and takes the images as they are; its layers go by the names that they have in the network,
also where it stands for that network behind a normalisation. The images are nobody else's: a source that takes
gradients calls `images.requires_grad_()` first, as the weights may be frozen; `network.view.logits_of(model, images)`
are the logits of a model that returns more than those. What comes back is averaged over channels, resized and scaled
here. Captum, torch-cam, attention rollout or saliency plug in so, see examples/map_sources.py.
"""
Cam = str | type | MapSource
_CALLED_OTHERWISE = ("captum", "torchcam")
"""Libraries of maps whose objects are called with other arguments than a source of maps."""


def check_cam(cam: Any, target_layers: Any = None, reshape_transform: Any = None) -> None:
    """Raise unless `cam` is a source of maps and goes with `target_layers` and `reshape_transform`.

    Raises:
        TypeError: neither a name, nor a class, nor a function of three arguments, or one that Captum or torch-cam made.
        ValueError: an unknown name or class, or target layers beside one that takes none.
        ImportError: `cam` is of pytorch-grad-cam, which is not installed.
    """
    if isinstance(cam, str) and cam in METHODS:
        return
    if _package(cam) in _CALLED_OTHERWISE:
        raise TypeError(
            f"cam={cam_name(cam)} is of {_package(cam)}, which calls its own otherwise; a function (model, images, "
            "classes) -> maps around it is needed, see examples/map_sources.py"
        )
    if isinstance(cam, (str, type)):
        _library().check_library_method(cam, list(METHODS))
        if target_layers is not None and not _library().takes_layers(cam):
            raise ValueError(f"target_layers does not go with cam={cam_name(cam)}, which takes all layers with a bias")
    elif type(cam).__module__.startswith("pytorch_grad_cam."):
        name = type(cam).__name__
        raise TypeError(f"cam is a {name} that was made already; pass its class: cam={name}")
    elif not callable(cam) or not _takes_three(cam):
        shown = cam_name(cam) if callable(cam) else repr(cam)
        raise TypeError(
            f"cam={shown} is a {type(cam).__name__}; a name, a pytorch-grad-cam class or a function "
            "(model, images, classes) -> maps is needed"
        )
    elif target_layers is not None or reshape_transform is not None:
        raise ValueError("target_layers and reshape_transform do not go with a cam of your own, which needs none")


def cam_name(cam: Cam) -> str:
    """Return `cam`, a source of maps, as `repr` shows it."""
    if isinstance(cam, functools.partial):
        return cam_name(cam.func)
    return cam if isinstance(cam, str) else getattr(cam, "__name__", type(cam).__name__)


def library_maps(
    model: nn.Module,
    images: Tensor,
    classes: Callable[[Tensor], Tensor],
    cam: str | type,
    target_layers: TargetLayers,
    reshape_transform: ReshapeTransform | None,
) -> tuple[Tensor, Tensor]:
    """Return the maps of a class of pytorch-grad-cam, (N, 1, h, w), and the logits (N, K).

    Args:
        model: network in eval mode.
        images: (N, C, H, W).
        classes: logits (N, K) -> classes to map, (N,).
        cam: the class or its name.
        target_layers: see `resolve_target_layers`.
        reshape_transform: see `as_maps`.

    Raises:
        ValueError: a layer that is called more than once or not at all, or that gives no map.
    """
    library = _library()
    layers = resolve_target_layers(model, target_layers, images) if library.takes_layers(cam) else {}
    transforms = transforms_of(model, layers, target_layers, reshape_transform, images)
    transform = next(iter(transforms.values()), reshape_transform)
    if any(other != transform for other in transforms.values()):
        raise ValueError(f"target_layers of several layouts do not go with cam={cam_name(cam)}; name layers of one")
    given: dict[str, list[Any]] = {name: [] for name in layers}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in layers.items():
            keep = given[name].append
            hooks.callback(module.register_forward_hook(lambda module, inputs, output, keep=keep: keep(output)).remove)
        logits = logits_of(model, images)
    check_reached(layers, [name for name, outputs in given.items() if outputs])
    for name, outputs in given.items():
        as_maps(name, tensor_of(name, outputs[0]), transform)
        if len(outputs) > 1:
            raise ValueError(
                f"target layer {name!r} is called {len(outputs)} times in a pass, of which pytorch-grad-cam maps the "
                f"first; {', '.join(map(repr, METHODS))} map the last"
            )
    maps: Tensor = library.library_maps(model, images, classes(logits), cam, list(layers.values()), transform)
    return maps, logits


def own_maps(model: nn.Module, images: Tensor, classes: Tensor, cam: MapSource) -> Tensor:
    """Return the maps (N, 1, h, w) of the user's own `cam`, for `images` (N, C, H, W) and `classes` (N,).

    Args:
        model: network in eval mode; the source gets the caller's own.
        images: (N, C, H, W).
        classes: (N,).
        cam: the source.

    Raises:
        ValueError: what comes back are no maps of these images, or the source takes a gradient that is not there.
        RuntimeError: whatever else torch has to say.
    """
    with callers_own(model) as own:  # which the source may hold as well
        try:
            return _checked(cam(own, images, classes), images)
        except RuntimeError as error:
            if not any("does not require grad" in str(each) for each in (error, error.__cause__)):
                raise
            raise ValueError(
                f"cam={cam_name(cam)} takes a gradient of what requires none: call images.requires_grad_() in it "
                "first; a forward pass under no_grad or with detach gives none either"
            ) from error


def _library() -> Any:
    return map_libraries[0]()


def _package(cam: Any) -> str:
    """Return which package made `cam`: the class, the object, or that whose method it is."""
    made = cam.func if isinstance(cam, functools.partial) else cam
    made = getattr(made, "__self__", made)
    return (made if isinstance(made, type) else type(made)).__module__.partition(".")[0]


def _takes_three(cam: Any) -> bool:
    """Return whether a function can be called with a model, images and classes, as far as Python tells."""
    try:
        inspect.signature(cam.forward if isinstance(cam, nn.Module) else cam).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # no signature
        return True
    return True


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
