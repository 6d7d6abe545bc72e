"""The budget as a set: its nearest point, where an attack may start in it, and how much of eps each pixel has.

In all of it, `images` are x, (N, C, H, W); `radii` broadcast to them, in their units; `clip` is the allowed range.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from ..checks import Clip


def project(images: Tensor, adv: Tensor, radii: Tensor, clip: Clip = (0.0, 1.0)) -> Tensor:
    """Return the point nearest to `adv` that is within `radii` of `images` and inside `clip`."""
    delta = torch.clamp(adv - images, min=-radii, max=radii)
    return torch.clamp(images + delta, *clip)


def uniform_start(
    images: Tensor,
    radii: Tensor,
    eps: float,
    clip: Clip = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return a point drawn uniformly from the budget: U(-eps, eps) shrunk to each pixel's radius.

    Drawn as torchattacks.PGD draws it, so that radii == eps gives the same start from the same seed.

    Args:
        images: x.
        radii: of the budget.
        eps: the largest of them.
        clip: allowed range.
        generator: source of the random numbers; default: torch's global one.
    """
    noise = torch.empty_like(images).uniform_(-eps, eps, generator=generator)
    return torch.clamp(images + noise * relative_radii(radii, eps), *clip)


def gaussian_start(
    images: Tensor,
    radii: Tensor,
    clip: Clip = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x + 0.001 * N(0, 1), the start of TRADES and MART, inside the budget.

    Args:
        images: x.
        radii: of the budget.
        clip: allowed range.
        generator: source of the random numbers; default: torch's global one.
    """
    noise = 0.001 * torch.empty_like(images).normal_(generator=generator)
    return torch.clamp(images + torch.clamp(noise, min=-radii, max=radii), *clip)


def seeded_generator(device: torch.device, seed: int, step: int, *use: int) -> torch.Generator:
    """Return a generator on `device` that `seed`, the rank of this process and the number of the step determine.

    Args:
        device: where it draws.
        seed: of the training.
        step: number of the batch.
        *use: numbers that tell it from that of another use in the same step.
    """
    return torch.Generator(device).manual_seed(seed_of(seed, _rank(), step, *use))


def seed_of(*numbers: int) -> int:
    """Return a seed for torch that `numbers` determine, unlike those of any others."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _rank() -> int:
    """Return the rank of this process: that of its group, or, before there is one, that which torchrun gave it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", 0))


def relative_radii(radii: Tensor, eps: float) -> Tensor:
    """Return the mask m = radii / eps, exactly 1 where the radius is eps (PART's mask, section 3.2)."""
    return torch.where(radii >= eps, torch.ones_like(radii), radii / max(eps, torch.finfo(radii.dtype).tiny))
