"""A model and images that do not go together, told in one sentence where torch has words of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from .network.memory import original_of
from .network.view import ModelView, network_of

logger = logging.getLogger(__name__)


def check_model(name: str, model: Any) -> None:
    """Raise unless `model`, the argument called `name`, is a network.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} is a {type(model).__name__}; a torch.nn.Module is needed")


@contextmanager
def explained(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Say in a sentence what torch finds wrong with `images` for `model` meanwhile.

    Nothing is looked at before torch complains, so that whatever works is let through: a model may change the dtype
    of its input, or its device.

    Args:
        model: a network, or a view of one.
        images: (N, C, H, W), what it gets.

    Raises:
        TypeError: no network; images of another dtype than the weights.
        ValueError: images on another device, with other channels or of another size than the network takes, a
            network that cannot be differentiated or looked into, or was exported for one shape.
        RuntimeError: whatever else torch has to say.
        AssertionError: whatever else an exported network has.
    """
    check_model("model", model)
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        reason = _reason(model, images, str(error))
        if reason is None:
            raise
        raise reason from error


NO_GRADIENT = (
    "the model's output carries no gradient to the images: its forward pass detaches it, by no_grad, detach or "
    "quantised layers"
)
CLOSED = (
    "the model is scripted, traced or exported, and a map looks into its layers; pass the model as it was before, a "
    "cam of your own, budget=FixedBudget(eps), or masks of your own as important"
)
_WRONG_SIZE = ("shapes cannot be multiplied", "Kernel size can't be greater", "Output size is too small")


def _reason(model: nn.Module, images: Tensor, said: str) -> Exception | None:
    """Return what torch means by what it `said`, if that is one of the common mistakes."""
    if "does not require grad" in said or "not have been used in the graph" in said:
        return ValueError(NO_GRADIENT)
    if said.startswith("Guard failed"):  # an assertion of torch.export
        return ValueError(
            f"images have shape {tuple(images.shape)}, and the model was exported for one shape alone; export it with "
            "a batch of any size: torch.export.Dim('batch')"
        )
    if "not supported on ScriptModules" in said:
        return ValueError(CLOSED)
    if any(words in said for words in _WRONG_SIZE):
        return ValueError(
            f"images have shape {tuple(images.shape)}, of a height and width that the model does not take"
        )
    network = network_of(model)
    weight = next((weight for weight in network.parameters() if weight.is_floating_point()), None)
    if weight is None:
        return None
    if weight.device != images.device and ("device" in said or "type" in said):
        return ValueError(f"images are on {images.device} and the model is on {weight.device}; one of them must move")
    if weight.dtype != images.dtype and "type" in said:
        return TypeError(
            f"images are {images.dtype} and the model's weights {weight.dtype}; pass images.to({weight.dtype})"
        )
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and first.in_channels != images.shape[1] and "channels" in said:
        return ValueError(_wrong_channels(images, first.in_channels))
    return None


def _wrong_channels(images: Tensor, needed: int) -> str:
    n, channels = tuple(images.shape), images.shape[1]
    if images.shape[3] == needed:
        return f"images have shape {n}, (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)"
    if channels == 1:
        return f"images have shape {n}, one channel; the model takes {needed}: images.expand(-1, {needed}, -1, -1)"
    return f"images have shape {n}, {channels} channels; the model takes {needed}"


_looked_at: WeakSet[nn.Module] = WeakSet()


def are_probabilities(outputs: Tensor) -> bool:
    """Return whether each row of `outputs` (N, K) is a probability distribution, as after a softmax."""
    rounding = 1e-5 if torch.finfo(outputs.dtype).bits > 16 else 1e-2
    return bool(outputs.min() >= 0 and ((outputs.sum(1) - 1).abs() < rounding).all())


def warn_of_probabilities(model: nn.Module, logits: Tensor) -> None:
    """Warn if the `logits` of a `model` are none; of each network once, as a GPU must be waited for."""
    network = original_of(network_of(model))
    if network in _looked_at:
        return
    _looked_at.add(network)
    if are_probabilities(logits.detach()):
        logger.warning(
            "%s returns probabilities; losses and attacks need the logits: remove its softmax", type(network).__name__
        )


def warn_of_outputs(model: nn.Module, logits: Tensor) -> None:
    """Do what `warn_of_probabilities` and `warn_of_one_device` do with a `model` and its `logits`."""
    warn_of_probabilities(model, logits)
    warn_of_one_device(model)


_on_one_device: WeakSet[nn.Module] = WeakSet()


def warn_of_one_device(model: nn.Module) -> None:
    """Warn, once, if a `model` is a `DataParallel` whose other devices idle while it is attacked."""
    while isinstance(model, ModelView):
        model = model.module
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1 and model not in _on_one_device:
        _on_one_device.add(model)
        logger.warning(
            "the attack on DataParallel over %d devices uses one of them; DistributedDataParallel uses all",
            len(model.device_ids),
        )
