"""Functions that make maps, as they are passed as `cam`: with Captum, with torch-cam, with torch alone."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from part_plugin import class_activation_map

LAST, EARLIER = "5", "2"
"""Names of layers of the network: the last one with spatial extent, and one before."""

CAPTUM: dict[str, dict[str, Any]] = {
    "Saliency": {},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 8},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "DeepLift": {},
    "FeatureAblation": {"feature_mask": torch.arange(64).reshape(1, 1, 8, 8)},
    "Occlusion": {"sliding_window_shapes": (3, 2, 2), "strides": (3, 2, 2)},
    "GradientShap": {"baselines": torch.zeros(1, 3, 8, 8), "n_samples": 4},
}
"""Captum's attributions of pixels, and what they are called with."""
CAPTUM_LAYER: dict[str, dict[str, Any]] = {
    "LayerGradCam": {},
    "LayerActivation": {},
    "LayerGradientXActivation": {},
    "LayerConductance": {"n_steps": 8},
    "LayerIntegratedGradients": {"n_steps": 8},
    "InternalInfluence": {"n_steps": 8},
    "LayerDeepLift": {},
}
"""Captum's attributions of what a layer gives."""
TORCHCAM = (
    "CAM", "FinerCAM", "GradCAM", "GradCAMpp", "ISCAM", "LayerCAM", "RefineCAM", "SSCAM", "ScoreCAM",
    "SmoothGradCAMpp", "XGradCAM",
)  # fmt: skip


def captum(name: str, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return an attribution of Captum, by name; see `MapSource`."""
    method = getattr(importlib.import_module("captum.attr"), name)
    if name in CAPTUM_LAYER:
        target = {} if name == "LayerActivation" else {"target": classes}
        return method(model, model.get_submodule(EARLIER)).attribute(images, **target, **CAPTUM_LAYER[name])
    return method(model).attribute(images, target=classes, **CAPTUM[name])


def guided_gradcam(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return Captum's guided GradCAM; see `MapSource`."""
    from captum.attr import GuidedGradCam

    return GuidedGradCam(model, model.get_submodule(LAST)).attribute(images, target=classes)


def noise_tunnel(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return Captum's SmoothGrad; see `MapSource`."""
    from captum.attr import NoiseTunnel, Saliency

    return NoiseTunnel(Saliency(model)).attribute(images, nt_samples=4, stdevs=0.1, target=classes)


def torchcam(name: str, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return a map of torch-cam, by name; see `MapSource`."""
    last = model.get_submodule(LAST)
    layer = [model.get_submodule(EARLIER), last] if name == "RefineCAM" else last
    with getattr(importlib.import_module("torchcam.methods"), name)(model, layer, input_shape=(3, 8, 8)) as method:
        scores = model(images.requires_grad_())
        return method(classes.tolist(), scores)[-1]


def saliency(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the size of the gradient of each pixel; see `MapSource`."""
    score = model(images.requires_grad_()).gather(1, classes[:, None]).sum()
    return torch.autograd.grad(score, images)[0].abs()


def average(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the mean of two maps; see `MapSource`."""
    return (saliency(model, images.clone(), classes).mean(1) + class_activation_map(model, images, classes)[:, 0]) / 2


def rollout(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return how much the class token attends to each patch over all layers; see `MapSource`."""
    weights: list[Tensor] = []
    handles = []
    for block in model.encoder.layers:
        attention = block.self_attention
        handles.append(attention.register_forward_pre_hook(_with_weights, with_kwargs=True))
        handles.append(attention.register_forward_hook(lambda module, inputs, output: weights.append(output[1])))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    tokens = weights[0].shape[-1]
    rolled = torch.eye(tokens)
    for each in weights:
        rolled = (each + torch.eye(tokens)) / 2 @ rolled
    return rolled[:, 0, 1:].unflatten(1, (4, 4))


def _with_weights(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return inputs, keywords | {"need_weights": True}
