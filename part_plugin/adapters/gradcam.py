"""Any class of pytorch-grad-cam as a source of maps: slower than ours, but complete.

Where a ReLU works in place on what the target layer gives (DenseNet), its maps differ from ours on a CPU, and from its
own on a GPU; see `part_plugin.class_activation_map`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytorch_grad_cam
import torch
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils import model_targets
from torch import Tensor, nn

from ..checks import check_choice
from ..network.isolation import gradients_kept, structure_kept
from ..network.view import logits_of

RIVALS = 3
"""How many of the classes most like the mapped one FinerCAM tells it from: the library's default."""


def library_methods() -> list[str]:
    """Return the names of the CAM classes that pytorch-grad-cam offers."""
    return sorted(name for name, value in vars(pytorch_grad_cam).items() if _is_cam(value))


def _is_cam(value: Any) -> bool:
    """Whether it is made of a model and target layers, and makes maps for targets; not all have a base class."""
    forward = getattr(value, "forward", None)
    if not isinstance(value, type) or not callable(forward):
        return False
    made, asked = (set(inspect.signature(function).parameters) for function in (value, forward))
    alike = {"model", "target_layers", "reshape_transform"} <= made and {"input_tensor", "targets"} <= asked
    return issubclass(value, BaseCAM) or alike


def check_library_method(cam: str | type, own_methods: list[str]) -> None:
    """Raise unless `cam` is a CAM class of pytorch-grad-cam or its name.

    Raises:
        ValueError: it is not; the message lists `own_methods` as well.
    """
    if isinstance(cam, str):
        check_choice("cam", cam, [*own_methods, *library_methods()])
    elif not _is_cam(cam):
        raise ValueError(
            f"cam={cam.__name__} is no CAM class; a name or a subclass of pytorch-grad-cam's BaseCAM is needed"
        )


def takes_layers(cam: str | type) -> bool:
    """Return whether `cam` maps target layers; FullGrad takes all layers with a bias instead."""
    return not issubclass(_class_of(cam), FullGrad)


def _class_of(cam: str | type) -> Any:
    return getattr(pytorch_grad_cam, cam) if isinstance(cam, str) else cam


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
    put back, also after an exception. Its progress bars are not shown.

    Args:
        model: network that returns logits (N, K).
        images: (N, C, H, W).
        classes: class to map of each image, (N,).
        cam: a CAM class of pytorch-grad-cam, or its name.
        target_layers: layers whose maps are averaged.
        reshape_transform: makes (N, C, h, w) of what a layer returns otherwise.

    Raises:
        ValueError: a method of second derivatives (ShapleyCAM) at a layer where there are none.
        RuntimeError: whatever else torch has to say.
    """
    method = _class_of(cam)
    targets = _targets(method, model, images, classes)
    with gradients_kept(model), structure_kept(model), _quietly():
        maps = method(model=_Logits(model), target_layers=target_layers, reshape_transform=reshape_transform)
        try:
            if hasattr(maps, "ablation_layer"):  # the library's default is one object for all, and all threads
                maps.ablation_layer = type(maps.ablation_layer)()
            # frozen parameters give no gradient, an input that requires one does
            scaled = maps(input_tensor=images.detach().requires_grad_(), targets=targets)
        except RuntimeError as error:
            if getattr(maps, "detach", True) or "does not require grad" not in str(error):
                raise
            raise ValueError(
                f"cam={method.__name__} takes second derivatives, and the network is linear after its target layer; "
                "name an earlier one in target_layers"
            ) from error
        finally:
            for each in _inside(maps):
                each.activations_and_grads.release()
    return torch.from_numpy(scaled)[:, None].to(images.device)


class _Logits(nn.Module):
    """A network as the library wants it: logits alone, and with a gradient also of images that SESS makes anew."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, C, H, W); as weights are frozen, the images must ask for gradients."""
        return logits_of(self.network, images if images.requires_grad else images.detach().requires_grad_())


def _inside(maps: Any) -> list[Any]:
    """Return whatever has hooks on the model: a CAM, or those that SESS, FinerCAM and RefineCAM are made of."""
    parts = [maps, getattr(maps, "base_cam", None), *getattr(maps, "base_cam_per_layer", [])]
    return [part for part in parts if hasattr(part, "activations_and_grads")]


def _targets(method: type, model: nn.Module, images: Tensor, classes: Tensor) -> list[Any]:
    """Return what is mapped of each image: its class, for FinerCAM what tells it from the classes most like it."""
    if not issubclass(method, getattr(pytorch_grad_cam, "FinerCAM", ())):
        return [model_targets.ClassifierOutputTarget(label) for label in classes.tolist()]
    with torch.no_grad():
        logits = logits_of(model, images)
    distance = (logits - logits.gather(1, classes[:, None])).abs().scatter(1, classes[:, None], -1.0)
    rivals = distance.argsort(1)[:, 1 : 1 + RIVALS].tolist()
    pairs = zip(classes.tolist(), rivals, strict=True)
    return [model_targets.FinerWeightedTarget(label, others, 1.0) for label, others in pairs]


_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide the library's progress bars from the maps that this thread makes meanwhile."""
    before = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(before)


class _Bars:
    """The module tqdm as the library sees it: its bars, but for those of maps that are made here."""

    def __init__(self, original: Any):
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def tqdm(self, iterable: Iterable[Any], *args: Any, **kwargs: Any) -> Iterable[Any]:
        """Return what is iterated over, with a bar or without."""
        bars: Iterable[Any] = self.original.tqdm(iterable, *args, **kwargs) if not _quiet.get() else iterable
        return bars


for _name, _module in list(sys.modules.items()):
    if _name.startswith("pytorch_grad_cam.") and hasattr(getattr(_module, "tqdm", None), "tqdm"):
        vars(_module)["tqdm"] = _Bars(vars(_module)["tqdm"])
