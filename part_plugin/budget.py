"""How far each pixel may move: the one idea that every attack and trainer here shares.

A budget is called with a model and a batch and answers with a tensor of l_inf radii, (N, 1, H, W)
(or (N, C, H, W) for a fixed one), in the units of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .cam import Layer, check_cam, map_and_logits
from .checks import check_choice, check_eps_pair, class_indices


class PixelBudget:
    """Full eps on the pixels that a class activation map calls important, eps_low elsewhere.

    With L the map resized to (H, W), the weight is w = (L - mean(L)) / std(L) per image, a pixel is
    important where w > threshold, and eps_i = eps there and eps_low elsewhere (PART, section 3.2).
    A map without signal says nothing about its image, so that image keeps eps everywhere; `images`
    and `no_signal` count the maps and how many of them were of that kind.

    Args:
        eps: largest perturbation of important pixels, in the images' units. (Default: 8/255)
        eps_low: largest perturbation of the others; eps_low == eps needs no map. (Default: 7/255)
        cam, target_layers, reshape_transform: see `class_activation_map`.
        threshold: weight above which a pixel is important. (Default: 1.0)
        target: class to map, "predicted" or "true". (Default: "predicted")

    Raises:
        ValueError: eps < 0, eps_low < 0, eps_low > eps, an unknown `cam` or `target`.
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        eps_low: float = 7 / 255,
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        threshold: float = 1.0,
        target: str = "predicted",
    ):
        check_eps_pair(eps, eps_low)
        check_cam(cam)
        self.eps, self.eps_low = eps, eps_low
        self.cam = cam
        self.target_layers = target_layers
        self.reshape_transform = reshape_transform
        self.threshold = threshold
        self.target = check_choice("target", target, ("predicted", "true"))
        self.reset_counts()

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the radius of every pixel, (N, 1, H, W), for images (N, C, H, W) and labels (N,)."""
        if self.eps_low == self.eps:
            return _uniform(images, self.eps)
        return self.radii(self.important(model, images, labels), images)

    def important(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return where the important pixels are, bool (N, 1, H, W); everywhere if there is no signal."""
        return self.look(model, images, labels)[0]

    def look(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `important` does, and the logits (N, K) that were computed on the way."""
        classes = None
        if self.target == "true":
            if labels is None:
                raise ValueError("labels=None does not go with target='true'; pass labels or target='predicted'")
            classes = class_indices(labels, len(images))
        maps, logits = map_and_logits(model, images, classes, self.cam, self.target_layers, self.reshape_transform)
        deviation, mean = torch.std_mean(maps, dim=(1, 2, 3), keepdim=True, correction=0)
        no_signal = deviation == 0
        self.images += len(images)
        self._no_signal = self._no_signal.to(maps.device) + no_signal.sum()
        return ((maps - mean) > self.threshold * deviation) | no_signal, logits

    def radii(self, important: Tensor, images: Tensor) -> Tensor:
        """Return eps where `important`, eps_low elsewhere, in the dtype of `images`."""
        check_eps_pair(self.eps, self.eps_low)
        return torch.where(important, _uniform(images, self.eps), _uniform(images, self.eps_low))

    @property
    def no_signal(self) -> int:
        """How many maps had no signal since the last `reset_counts`."""
        return int(self._no_signal)

    def reset_counts(self) -> None:
        """Count `images` and `no_signal` from zero again."""
        self.images = 0
        self._no_signal = torch.zeros((), dtype=torch.long)  # a tensor: counting must not wait for a GPU

    def __repr__(self) -> str:
        cam = self.cam.__name__ if isinstance(self.cam, type) else self.cam
        layers = "auto" if self.target_layers is None else _layer_names(self.target_layers)
        return (
            f"PixelBudget(eps={self.eps}, eps_low={self.eps_low}, cam={cam}, target_layers={layers}, "
            f"threshold={self.threshold}, target={self.target})"
        )


class FixedBudget:
    """A budget that asks no model: one radius for all pixels, or a given radius for each.

    Args:
        eps: a number, or a tensor that broadcasts to (N, C, H, W), in the images' units.

    Raises:
        ValueError: a negative or non-finite radius.
    """

    def __init__(self, eps: float | Tensor):
        self._radii = torch.as_tensor(eps, dtype=torch.float64)
        if self._radii.numel() == 0 or not bool(((self._radii >= 0) & self._radii.isfinite()).all()):
            raise ValueError(f"eps={eps} is not allowed; every radius must be finite and >= 0")

    @property
    def eps(self) -> float:
        """Largest radius."""
        return float(self._radii.max())

    @property
    def eps_low(self) -> float:
        """Smallest radius."""
        return float(self._radii.min())

    @classmethod
    def quadrant(cls, name: str, eps: float, eps_low: float, size: tuple[int, int]) -> FixedBudget:
        """Full eps in one quarter of an image of `size` (H, W), eps_low in the rest (PART, Figure 1)."""
        check_eps_pair(eps, eps_low)
        check_choice("name", name, ("top-left", "top-right", "bottom-left", "bottom-right"))
        height, width = size
        rows = slice(None, height // 2) if name.startswith("top") else slice(height // 2, None)
        columns = slice(None, width // 2) if name.endswith("left") else slice(width // 2, None)
        radii = torch.full((height, width), eps_low, dtype=torch.float64)
        radii[rows, columns] = eps
        return cls(radii)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the radius of every pixel, (N, 1, H, W) or (N, C, H, W)."""
        channels = self._radii.shape[-3] if self._radii.dim() >= 3 else 1
        shape = (len(images), channels, *images.shape[2:])
        try:
            return self._radii.to(images.dtype).to(images.device).expand(shape)
        except RuntimeError:
            raise ValueError(
                f"eps of shape {tuple(self._radii.shape)} does not fit images of shape {tuple(images.shape)}"
            ) from None

    def __repr__(self) -> str:
        same = self.eps_low == self.eps
        return f"FixedBudget(eps={self.eps})" if same else f"FixedBudget({self.eps_low} to {self.eps})"


Budget = PixelBudget | FixedBudget


def _uniform(images: Tensor, eps: float) -> Tensor:
    return images.new_full((len(images), 1, *images.shape[2:]), eps)


def _layer_names(layers: Layer | Sequence[Layer]) -> str:
    listed = [layers] if isinstance(layers, (str, nn.Module)) else layers
    return "+".join(layer if isinstance(layer, str) else type(layer).__name__ for layer in listed)
