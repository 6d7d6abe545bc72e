"""Budgets to compare PART's with: the same masks elsewhere, the same radii spread evenly, the published rule."""

from collections.abc import Sequence

import torch
from matplotlib import colormaps
from torch import Tensor, nn

from part_plugin import FixedBudget, PixelBudget, Threshold
from part_plugin.cam import map_and_logits
from part_plugin.recipes.presets import Preset

BUDGETS = {
    "aligned": "eps where the map of this very image is high: PART",
    "mean": "each image's mean radius under PART, on all its pixels",
    "random": "as many pixels of each image, anywhere",
    "misaligned": "the mask of another image of the batch",
    "inverted": "eps where PART has eps_low, eps_low where it has eps",
    "published": "the published code's rule: a jet picture of the map, each colour for itself",
    "published misaligned": "the same, of another image of the batch, as the published code applies it",
    **{
        f"{place} lowered": f"eps_low in the {place} quarter of every image (Figure 1)"
        for place in ("top-left", "top-right", "bottom-left", "bottom-right")
    },
}


class Changed(Threshold):
    """The paper's rule with a change; its name tells trainings apart."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}{super().__repr__()}"


class Mean(Changed):
    """The mean radius of each image, on all its pixels."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Return weights that are constant for each image."""
        weights = super().__call__(maps).to(maps.dtype)
        return weights.mean((1, 2, 3), keepdim=True).expand_as(maps)


class Random(Changed):
    """As many important pixels in each image, drawn at random."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Return a random mask of the same area."""
        important = super().__call__(maps)
        order = torch.rand(important.shape, device=important.device).flatten(1).argsort(1)
        return important.flatten(1).gather(1, order).view_as(important)


class Misaligned(Changed):
    """The mask of the next image of the batch."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Return the masks, moved on by one image."""
        return super().__call__(maps).roll(1, 0)


class Inverted(Changed):
    """eps_low where the map is high."""

    def __call__(self, maps: Tensor) -> Tensor:
        """Return the complement of the mask."""
        return ~super().__call__(maps)


class Published(PixelBudget):
    """The published rule: the squared map in jet colours, standardised over pixels and colours, above 1.

    Read from github.com/tmlr-group/PART, which enlarges maps with bicubic interpolation where ours is bilinear.
    """

    def weights(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return which colours of which pixels are important, (N, 3, H, W), and the logits."""
        maps, logits = map_and_logits(model, images, None, self.cam)
        colours = torch.tensor(colormaps["jet"](range(256))[:, :3], device=maps.device, dtype=maps.dtype)
        picture = colours[(maps[:, 0].square() * 256).long().clamp(max=255)].permute(0, 3, 1, 2)
        deviation, mean = torch.std_mean(picture, dim=(1, 2, 3), keepdim=True, correction=0)
        return picture - mean > deviation, logits


class PublishedMisaligned(Published):
    """The published rule on the next image of the batch."""

    def weights(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the masks, moved on by one image, and the logits."""
        important, logits = super().weights(model, images)
        return important.roll(1, 0), logits


RULES = {"mean": Mean(), "random": Random(), "misaligned": Misaligned(), "inverted": Inverted()}


def make_budget(name: str, settings: Preset, size: Sequence[int]) -> PixelBudget | FixedBudget | None:
    """Return the budget of that name for images of `size` (H, W); None for PART's own, which needs none."""
    if name == "aligned":
        return None
    if name.endswith(" lowered"):
        eps, eps_low = settings.eps, settings.eps_low
        quarter = FixedBudget.quadrant(name.removesuffix(" lowered"), eps, eps_low, size)
        radii = quarter(None, torch.zeros(1, 1, *size, dtype=torch.float64))
        return FixedBudget(eps + eps_low - radii[0, 0])
    if name in RULES:
        return PixelBudget(settings.eps, settings.eps_low, cam=settings.cam, rule=RULES[name])
    kind = {"published": Published, "published misaligned": PublishedMisaligned}[name]
    return kind(settings.eps, settings.eps_low, cam=settings.cam)
