"""The table of sources of maps: ours, pytorch-grad-cam, Captum, torch-cam, and functions of one's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytorch_grad_cam
import torch
import torch.nn.functional as F
from common import EPS, EPS_LOW, batch, check_within, lived_in, network, seeded, untouched
from map_functions import (
    CAPTUM,
    CAPTUM_LAYER,
    TORCHCAM,
    average,
    captum,
    guided_gradcam,
    noise_tunnel,
    rollout,
    saliency,
    torchcam,
)
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rows import Row
from torch import Tensor, nn

from part_plugin import PixelBudget, PixelPGD, class_activation_map
from part_plugin.adapters.gradcam import library_methods
from part_plugin.target_layers import resolve_target_layers

Source = Callable[[nn.Module, Tensor, Tensor], Tensor]

OURS = {"gradcam": "GradCAM", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}
"""Our maps, and the classes of pytorch-grad-cam that they agree with."""
GRADIENT_BASED = (
    "EigenGradCAM",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "XGradCAM",
)


def rows() -> list[Row]:
    """Return the rows, library by library."""
    found = [Row(name, partial(in_library, name, theirs)) for name, theirs in OURS.items()]
    found += [Row(f"{name}, on a ViT", partial(in_library, name, theirs, vit)) for name, theirs in OURS.items()]
    found += [
        Row(f"pytorch-grad-cam {name}", partial(in_library, name, name))
        for name in library_methods()
        if name != "ShapleyCAM"
    ]
    shapley = partial(in_library, "ShapleyCAM", "ShapleyCAM", target_layers="4")
    found += [
        Row("pytorch-grad-cam ShapleyCAM", shapley, "target_layers of a layer after which it is not linear"),
        Row(
            "pytorch-grad-cam ShapleyCAM, on layers before a linear end",
            partial(in_library, "ShapleyCAM", "ShapleyCAM"),
        ),
    ]
    found += [
        Row(f"pytorch-grad-cam {name}, on a ViT", partial(in_library, name, name, vit)) for name in GRADIENT_BASED
    ]
    found += [Row(f"Captum {name}", partial(of_your_own, partial(captum, name))) for name in (*CAPTUM, *CAPTUM_LAYER)]
    found += [
        Row("Captum GuidedGradCam", partial(of_your_own, guided_gradcam)),
        Row("Captum NoiseTunnel", partial(of_your_own, noise_tunnel)),
    ]
    found += [Row(f"torch-cam {name}", partial(of_your_own, partial(torchcam, name))) for name in TORCHCAM]
    found += [
        Row("attention rollout", partial(of_your_own, rollout, vit)),
        Row("saliency", partial(of_your_own, saliency)),
        Row("saliency, on a ViT", partial(of_your_own, saliency, vit)),
        Row("mean of gradcam and saliency", partial(of_your_own, average)),
        Row("brightness", partial(of_your_own, lambda model, images, classes: images.mean(1))),
        Row("a constant map", constant),
    ]
    return found


@cache
def _made_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = VisionTransformer(
            image_size=8, patch_size=2, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10
        )
        nn.init.normal_(made.heads.head.weight)  # it is made of zeros
    return made.eval()


def vit() -> nn.Module:
    """Return a small vision transformer with a class token."""
    return _made_vit()


def in_library(
    name: str, theirs: str, make: Callable[[], nn.Module] = lived_in, target_layers: str | None = None
) -> str:
    """Check the maps of a class of pytorch-grad-cam, or ours, against that library called by hand.

    Args:
        name: what is passed as `cam`.
        theirs: name of the class.
        make: makes the network.
        target_layers: as it is passed.
    """
    model, (images, _) = make(), batch(4)
    with torch.no_grad():
        classes = (network() if make is lived_in else model)(images).argmax(1)
    with untouched(model):
        maps = seeded(partial(class_activation_map, model, images, classes, name, target_layers))
    expected = seeded(partial(_by_hand, theirs, make, images, classes, target_layers))
    assert expected.max() > 0.5, "the library's map has no signal"
    assert (maps[:, 0] - expected).abs().max() <= 1e-5, "it is not the map of the library"
    check_budget(name, make, target_layers)
    return "the library's map, to 1e-5"


def _by_hand(
    theirs: str, make: Callable[[], nn.Module], images: Tensor, classes: Tensor, target_layers: str | None
) -> Tensor:
    model = network() if make is lived_in else make()
    method = getattr(pytorch_grad_cam, theirs)
    layers = [] if theirs == "FullGrad" else list(resolve_target_layers(model, target_layers, images).values())
    targets = [ClassifierOutputTarget(label) for label in classes.tolist()]
    if theirs == "FinerCAM":
        targets = None  # it finds the predicted classes and those like them by itself
    maps = method(model, layers, None if make is lived_in else _from_tokens)
    with torch.enable_grad():
        return torch.from_numpy(maps(images.clone().requires_grad_(), targets))


def _from_tokens(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))


def of_your_own(source: Source, make: Callable[[], nn.Module] = lived_in) -> str:
    """Check the maps of a function against the function called by hand.

    Args:
        source: what is passed as `cam`.
        make: makes the network.
    """
    model, (images, labels) = make(), batch(4)
    plain = network() if make is lived_in else make()
    found = seeded(lambda: source(plain, images.clone(), labels)).detach()
    found = found[:, None] if found.dim() == 3 else found.mean(1, keepdim=True)
    with untouched(model):
        maps = seeded(partial(class_activation_map, model, images, labels, cam=source))
    low, high = found.amin((1, 2, 3), keepdim=True), found.amax((1, 2, 3), keepdim=True)
    expected = F.interpolate((found - low) / (high - low), (8, 8), mode="bilinear", align_corners=False)
    low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
    assert (maps - (expected - low) / (high - low)).abs().max() <= 1e-5, "it is not what the function returned"
    check_budget(source, make)
    return "what the function returns, scaled"


def check_budget(cam: Any, make: Callable[[], nn.Module], target_layers: str | None = None) -> None:
    """Assert that the map makes radii of two sizes, that an attack keeps them and leaves the network as it was.

    Args:
        cam: a source of maps.
        make: makes the network.
        target_layers: of the map.
    """
    model, (images, labels) = make(), batch(4)
    budget = PixelBudget(EPS, EPS_LOW, cam=cam, target_layers=target_layers)
    with untouched(model):
        radii = seeded(lambda: budget(model, images, labels))
        adv = seeded(
            lambda: PixelPGD(model, EPS, EPS / 4, 2, eps_low=EPS_LOW, cam=cam, target_layers=target_layers)(
                images, labels
            )
        )
    assert budget.no_signal < len(images), "no map has signal"
    assert radii.unique().tolist() == [EPS_LOW, EPS], f"the radii are {radii.unique().tolist()}"
    check_within(images, adv, radii)
    assert not torch.equal(adv, images), "no pixel moved"


def constant() -> str:
    """Check that a constant map counts as one without signal and leaves every pixel its eps."""
    model, (images, labels) = lived_in(), batch(4)
    budget = PixelBudget(EPS, EPS_LOW, cam=lambda model, images, classes: torch.full((4, 8, 8), 0.3))
    with untouched(model):
        radii = budget(model, images, labels)
    assert budget.no_signal == len(images), "it counts as signal"
    assert (radii == EPS).all(), "it shrinks the budget"
    return "no signal: eps everywhere, counted"
