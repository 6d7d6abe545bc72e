"""The budget as a set: its nearest point, and where an attack may start in it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import Clip


def project(images: Tensor, adv: Tensor, radii: Tensor, clip: Clip = (0.0, 1.0)) -> Tensor:
    """Return the point nearest to `adv` in the budget around `images` and in the allowed range."""
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
    """
    noise = torch.empty_like(images).uniform_(-eps, eps, generator=generator)
    return torch.clamp(images + noise * relative_radii(radii, eps), *clip)


def gaussian_start(
    images: Tensor,
    radii: Tensor,
    clip: Clip = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x + 0.001 * N(0, 1), the start of TRADES and MART, inside the budget."""
    noise = 0.001 * torch.empty_like(images).normal_(generator=generator)
    return torch.clamp(images + torch.clamp(noise, min=-radii, max=radii), *clip)


def relative_radii(radii: Tensor, eps: float) -> Tensor:
    """Return the mask m = radii / eps, exactly 1 where the radius is eps (PART's mask, section 3.2)."""
    return torch.where(radii >= eps, torch.ones_like(radii), radii / max(eps, torch.finfo(radii.dtype).tiny))
