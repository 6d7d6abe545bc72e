"""Any l_inf attack turned into a Pixel-AG attack without touching its code, by a change of variable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import Clip
from .projection import project


@contextmanager
def change_of_variable(model: nn.Module, images: Tensor, mask: Tensor) -> Iterator[None]:
    """While this is active, `model(z)` computes f(x + m * (z - x)).

    Any l_inf attack of radius eps then searches, unawares, the budget m * eps; `pull_back` turns
    its z into the adversarial example. An attack that sends other rows than the batch (the samples
    it has not fooled yet, say) is served by pairing each row with the nearest image.

    Args:
        model: module whose input is images in the units of `images`.
        images: x, (N, C, H, W).
        mask: m, broadcasts to x, in [0, 1].
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        z, *rest = inputs
        return (_shrink(z, *_paired(z, images, mask)), *rest)

    handle = model.register_forward_pre_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def pull_back(images: Tensor, z: Tensor, radii: Tensor, mask: Tensor, clip: Clip = (0.0, 1.0)) -> Tensor:
    """Return x + m * (z - x), projected onto the budget where the attack itself overstepped it.

    Args:
        images: x, (N, C, H, W).
        z: what the attack found, (N, C, H, W).
        radii: of the budget, broadcast to x.
        mask: m, see `change_of_variable`.
        clip: allowed range of pixels.
    """
    adv = _shrink(z, images, mask)
    outside = (adv - images).abs() > radii  # by a rounding only, at the edge of the budget: projecting changes nothing
    return torch.clamp(torch.where(outside, project(images, adv, radii, clip), adv), *clip)


def _shrink(z: Tensor, images: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask < 1, images + mask * (z - images), z)  # z itself, to the bit, where m = 1


def _paired(z: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if z.shape[1:] != images.shape[1:]:
        raise ValueError(
            f"the attack sends inputs of shape {tuple(z.shape)} for images of shape {tuple(images.shape)}; "
            "an attack that changes the image size cannot be given a budget per pixel"
        )
    if len(z) == len(images):
        return images, mask
    with torch.no_grad():
        nearest = torch.cdist(z.detach().flatten(1).float(), images.flatten(1).float(), p=torch.inf).argmin(1)
    return images[nearest], mask.expand(len(images), *mask.shape[1:])[nearest]
