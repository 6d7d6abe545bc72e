"""Any class of pytorch-grad-cam as a source of maps: slower than ours, but complete."""

from __future__ import annotations

from collections.abc import Callable

import pytorch_grad_cam
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from ..checks import check_class_range
from ..surrogate import gradients_kept, logits_of


def library_methods() -> list[str]:
    """Return the names of the CAM classes that pytorch-grad-cam offers."""
    found = vars(pytorch_grad_cam).items()
    return sorted(name for name, value in found if isinstance(value, type) and issubclass(value, BaseCAM))


def library_map(
    model: nn.Module,
    images: Tensor,
    classes: Tensor | None,
    cam: str | type,
    target_layers: list[nn.Module],
    reshape_transform: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Return the library's maps for a batch, (N, 1, H, W), on the device of `images`, and the logits.

    The library fills `.grad` of every parameter and leaves its hooks on the model; here both are
    put back, also after an exception.
    """
    method = getattr(pytorch_grad_cam, cam) if isinstance(cam, str) else cam
    with torch.no_grad():
        logits = logits_of(model, images)
    classes = logits.argmax(1) if classes is None else classes
    check_class_range(classes, logits.shape[1])
    targets = [ClassifierOutputTarget(label) for label in classes.tolist()]
    with gradients_kept(model):
        maps = method(model=model, target_layers=target_layers, reshape_transform=reshape_transform)
        try:
            # frozen parameters give no gradient, an input that requires one does
            scaled = maps(input_tensor=images.requires_grad_(), targets=targets)
        finally:
            maps.activations_and_grads.release()
    return torch.from_numpy(scaled)[:, None].to(images.device), logits
