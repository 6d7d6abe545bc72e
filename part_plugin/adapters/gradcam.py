"""Any class of pytorch-grad-cam as a source of maps: slower than ours, but complete."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_grad_cam
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from ..checks import check_choice
from ..network.isolation import gradients_kept, structure_kept


def library_methods() -> list[str]:
    """Return the names of the CAM classes that pytorch-grad-cam offers."""
    found = vars(pytorch_grad_cam).items()
    return sorted(name for name, value in found if isinstance(value, type) and issubclass(value, BaseCAM))


def check_library_method(cam: str | type, own_methods: list[str]) -> None:
    """Raise unless `cam` is a CAM class of pytorch-grad-cam or its name.

    Raises:
        ValueError: it is not; the message lists `own_methods` as well.
    """
    if isinstance(cam, str):
        check_choice("cam", cam, [*own_methods, *library_methods()])
    elif not issubclass(cam, BaseCAM):
        raise ValueError(
            f"cam={cam.__name__} is no CAM class; a name or a subclass of pytorch-grad-cam's BaseCAM is needed"
        )


def library_maps(
    model: nn.Module,
    images: Tensor,
    classes: Tensor,
    cam: str | type,
    target_layers: list[nn.Module],
    reshape_transform: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return the library's maps for a batch, (N, 1, H, W) in [0, 1], on the device of `images`.

    The library fills `.grad` of every parameter and leaves its hooks on the model; here both are
    put back, also after an exception.

    Args:
        model: network that returns logits (N, K).
        images: (N, C, H, W).
        classes: class to map of each image, (N,).
        cam: a CAM class of pytorch-grad-cam, or its name.
        target_layers: layers whose maps are averaged.
        reshape_transform: makes (N, C, h, w) of what a layer returns otherwise.
    """
    method = getattr(pytorch_grad_cam, cam) if isinstance(cam, str) else cam
    targets = [ClassifierOutputTarget(label) for label in classes.tolist()]
    with gradients_kept(model), structure_kept(model):
        maps = method(model=model, target_layers=target_layers, reshape_transform=reshape_transform)
        try:
            if hasattr(maps, "ablation_layer"):  # the library's default is one object for all, and all threads
                maps.ablation_layer = type(maps.ablation_layer)()
            # frozen parameters give no gradient, an input that requires one does
            scaled = maps(input_tensor=images.detach().requires_grad_(), targets=targets)
        finally:
            maps.activations_and_grads.release()
    return torch.from_numpy(scaled)[:, None].to(images.device)
