"""The table of networks: which layer is mapped of each, how it lies, and whether map, attack and network are right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from network_list import ROBUSTBENCH, TIMM, TORCHVISION, TRANSFORMERS
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from rows import Row
from torch import Tensor, nn
from wrapped_networks import WRAPPED

from part_plugin import PixelBudget, PixelPGD, class_activation_map
from part_plugin.adapters.robustbench import build_model
from part_plugin.cam import scaled
from part_plugin.layouts import Layout
from part_plugin.network.replica import replicate
from part_plugin.network.view import logits_of, without_wrappers
from part_plugin.target_layers import _found_layer, transforms_of

CLASSES, IMAGES = 10, 3
EPS, EPS_LOW = 0.1, 0.05


def rows() -> list[Row]:
    """Return one row for each network."""
    kinds: list[tuple[str, dict[str, dict[str, Any]], Callable[..., nn.Module]]] = [
        ("timm", TIMM, _of_timm),
        ("torchvision", TORCHVISION, _of_torchvision),
        ("transformers", TRANSFORMERS, _of_transformers),
        ("robustbench", ROBUSTBENCH, build_model_of),
    ]
    found = [
        row(
            f"{kind} {name}",
            partial(make, name, **_own(options)),
            options.get("size", (64, 64)),
            options.get("target_layers"),
        )
        for kind, networks, make in kinds
        for name, options in networks.items()
    ]
    found += [row(f"wrapped: {name}", make, (64, 64), layers) for name, make, layers in WRAPPED]
    return found


def row(name: str, make: Callable[[], nn.Module], size: tuple[int, int], layers: list[str] | None) -> Row:
    """Return the row of a network.

    Args:
        name: of the row.
        make: returns the network.
        size: of the images, (H, W).
        layers: its target layers, where they have to be given.
    """
    return Row(name, partial(check, make, size, layers), "" if layers is None else f"target_layers={layers}")


def _own(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("size", "target_layers")}


def _of_timm(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name.split()[0], pretrained=False, num_classes=CLASSES, **options)


def _of_torchvision(name: str, **options: Any) -> nn.Module:
    return torchvision.models.get_model(name, num_classes=CLASSES, **options)


def _of_transformers(name: str, **options: Any) -> nn.Module:
    import transformers  # of the extra [compatibility] alone: the list of rows is read without it

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def build_model_of(name: str, **options: Any) -> nn.Module:
    """Return a network of RobustBench."""
    return build_model(name, options)


def check(make: Callable[[], nn.Module], size: tuple[int, int], layers: list[str] | None = None) -> str:
    """Check a network's maps, attack and state, and return its layer and how that lies.

    Args:
        make: returns the network.
        size: of the images, (H, W).
        layers: its target layers, where they have to be given.

    Raises:
        AssertionError: something is wrong and nobody said so.
    """
    model = make()
    images = torch.rand(IMAGES, 3, *size)
    _bring_to_life(model, images)
    model.train()
    next(module for module in model.modules() if module is not model).eval()  # as where batch norms are frozen
    before = _state(model)
    classes, maps = _map_with_signal(model, images, layers)
    assert maps.shape == (IMAGES, 1, *size), f"maps are {tuple(maps.shape)}"
    _check_attack(model, images, layers)
    assert _same(before, _state(model)), "the network was changed"
    layouts = _layers_of(model.eval(), images, layers)
    _check_map(model, images, classes, layers, layouts)
    return " and ".join(f"layer {name!r}, {layout}" for name, layout in layouts.items())


def _bring_to_life(model: nn.Module, images: Tensor) -> None:
    """Give what is all zero at first, such as heads and the scale of last norms, values as training would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and not parameter.any() and not name.endswith("bias"):
                parameter.normal_(0, 0.02) if parameter.dim() > 1 else parameter.fill_(1)
        model.train()(images)  # statistics of batch norms


def _state(model: nn.Module) -> dict[str, Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": [(name, id(module), getattr(module, "training", None)) for name, module in model.named_modules()],
        "hooks": [list(getattr(module, kind)) for module in model.modules() for kind in hooks],
        "parameters": [(id(p), p.requires_grad, id(p.grad)) for p in model.parameters()],
        "values": [value.clone() if isinstance(value, Tensor) else value for value in model.state_dict().values()],
    }


def _same(before: dict[str, Any], after: dict[str, Any]) -> bool:
    plain = all(before[key] == after[key] for key in ("modules", "hooks", "parameters"))
    pairs = zip(before["values"], after["values"], strict=True)
    return plain and all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def _map_with_signal(model: nn.Module, images: Tensor, layers: Any) -> tuple[Tensor, Tensor]:
    """Return the first class with evidence in some image, as classes (N,), and its maps."""
    for number in range(CLASSES):
        classes = torch.full((IMAGES,), number)
        maps = class_activation_map(model, images, classes, target_layers=layers)
        if maps.amax((1, 2, 3)).any():
            break
    assert maps.amax((1, 2, 3)).any(), "no map has any signal"
    assert (maps.isfinite() & (maps >= 0) & (maps <= 1)).all(), "a map is not in [0, 1]"
    return classes, maps


def _check_attack(model: nn.Module, images: Tensor, layers: Any) -> None:
    radii = PixelBudget(EPS, EPS_LOW, target_layers=layers)(model, images)
    labels = torch.arange(IMAGES)
    adv = PixelPGD(model, EPS, alpha=EPS, steps=1, eps_low=EPS_LOW, target_layers=layers)(images, labels)
    moved = (adv - images).abs()
    assert ((moved <= radii + 1e-6) & (adv >= 0) & (adv <= 1)).all(), "an example is outside its budget"
    assert moved.max() > EPS_LOW / 2, "the attack moves nothing"


def _layers_of(model: nn.Module, images: Tensor, layers: list[str] | None) -> dict[str, Layout]:
    """Return which layers were mapped and how their outputs lie, as remembered since the map."""
    network = without_wrappers(model)
    if layers is None:
        return dict([_found_layer(network, network, images)])
    transforms = transforms_of(network, layers, layers, None, images)
    return {name: transform or Layout("NCHW", (1, 1)) for name, transform in transforms.items()}


def _check_map(
    model: nn.Module, images: Tensor, classes: Tensor, layers: list[str] | None, layouts: dict[str, Layout]
) -> None:
    """Compare with pytorch-grad-cam's maps at the same layers, with a reshape_transform written out."""
    model, images = _in_double(model.eval(), images)
    maps = class_activation_map(model, images, classes, target_layers=layers)
    network = replicate(without_wrappers(model))
    for parameter in network.parameters():
        parameter.requires_grad_()
    found = []
    for name, layout in layouts.items():
        layer = network.get_submodule(name)
        with GradCAM(_Logits(network), [layer], reshape_transform=partial(_reshaped, layout)) as library:
            clone = layer.register_forward_hook(lambda module, inputs, output: output.clone())  # before a ReLU in place
            found.append(library(images, [ClassifierOutputTarget(int(number)) for number in classes]))
            clone.remove()
    theirs = scaled(torch.from_numpy(np.stack(found)).mean(0)[:, None])
    difference = float((maps - theirs).abs().max())
    assert difference <= 1e-5, f"the map at {' and '.join(layouts)} differs from pytorch-grad-cam's by {difference:.1e}"


def _in_double(model: nn.Module, images: Tensor) -> tuple[nn.Module, Tensor]:
    """Return both in double precision if the network runs so, as some with tables of their own do not."""
    try:
        with torch.no_grad():
            model.double()(images.double())
    except RuntimeError:
        return model.float(), images
    return model, images.double()


class _Logits(nn.Module):
    """A network of which pytorch-grad-cam gets the logits alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return logits_of(self.network, images)


def _reshaped(layout: Layout, output: Tensor) -> Tensor:
    h, w = layout.grid
    if layout.order == "NCHW":
        return output
    if layout.order == "NHWC":
        return output.transpose(2, 3).transpose(1, 2)
    if layout.order == "NTC":
        return output[:, layout.prefix :].transpose(1, 2).unflatten(2, (h, w))
    if layout.order == "TNC":
        return output[layout.prefix :].permute(1, 2, 0).unflatten(2, (h, w))
    return output[:, :, layout.prefix :].unflatten(2, (h, w))
