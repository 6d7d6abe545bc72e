"""PART: budget + objective + schedule = the loss of one batch, for any training loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .budget import Budget, FixedBudget, PixelBudget
from .cam import Layer
from .checks import Clip, check_choice, check_count, check_images, check_number, class_indices
from .objectives import Objective, ascent, make_objective
from .pixel_ag import MinimumMargin, gaussian_start, pixel_ag, uniform_start
from .surrogate import check_fast, in_parts, lean, logits_of, sped_up, undisturbed, without_replicas


class Outputs(NamedTuple):
    """What one training step computed: a scalar and the logits (N, K) that it came from."""

    loss: Tensor
    adv_logits: Tensor
    natural_logits: Tensor | None


class PART:
    """Pixel-reweighted adversarial training (PART, ICML 2024) in a loop of your own.

    >>> part = PART("trades", beta=6.0, eps=8/255, eps_low=7/255, burn_in=20)
    >>> for epoch in range(80):
    ...     part.set_epoch(epoch)
    ...     for x, y in loader:
    ...         loss = part.loss(model, x, y)
    ...         optimizer.zero_grad(); loss.backward(); optimizer.step()

    The attack sees the model in eval mode and leaves no trace on it; the training pass runs in the
    mode that the model is in.

    Args:
        objective: "at", "trades", "mart" or an `Objective`.
        beta: weight of the second term of TRADES and MART. (Default: 6.0)
        eps, eps_low: radius of important and of other pixels, in the images' units.
        alpha: step size of the attack, in the images' units. (Default: 2/255)
        steps: number of steps of the attack. (Default: 10)
        attack: "pgd" on the objective's own loss, or "mma", the minimum-margin attack. (Default: "pgd")
        random_start: whether an attack that starts uniformly in the budget does so, or at x.
        burn_in: number of first epochs with eps everywhere; counted by `set_epoch`. (Default: 20)
        mask_every: masks are renewed every so many epochs (the paper's s) and in between remembered per
            sample, a bit per pixel. That needs `index`, and images that look the same in every epoch, or
            `important`, masks that moved with their images (see `data.MovedMasks`). (Default: 1)
        clip: smallest and largest pixel value. (Default: (0, 1))
        cam, target_layers: see `class_activation_map`.
        budget: a budget to use instead of one made from the arguments.
        fast: options that make the attack cheaper and its gradients approximate; see `surrogate.FAST`.
        seed: seed of the random starts, together with the rank and `step`, so that nothing has to
            be saved to resume; default: torch's global generator.
        **budget_options: reshape_transform, threshold, target; see `PixelBudget`.
    """

    def __init__(
        self,
        objective: str | Objective = "at",
        *,
        beta: float = 6.0,
        eps: float = 8 / 255,
        eps_low: float = 7 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        attack: str = "pgd",
        random_start: bool = True,
        burn_in: int = 20,
        mask_every: int = 1,
        clip: Clip = (0.0, 1.0),
        cam: str | type = "gradcam",
        target_layers: Layer | Sequence[Layer] | None = None,
        budget: Budget | None = None,
        fast: str | Sequence[str] = (),
        seed: int | None = None,
        **budget_options,
    ):
        self.objective = make_objective(objective, beta)
        self.budget = budget or PixelBudget(eps, eps_low, cam, target_layers, **budget_options)
        self.alpha = check_number("alpha", alpha, above=True)
        self.steps = check_count("steps", steps)
        self.minimum_margin = check_choice("attack", attack, ("pgd", "mma")) == "mma"
        self.random_start = random_start
        self.burn_in = check_count("burn_in", burn_in, 0)
        self.mask_every = check_count("mask_every", mask_every)
        if self.mask_every > 1 and not isinstance(self.budget, PixelBudget):
            raise ValueError(f"mask_every={mask_every} needs a PixelBudget; a fixed budget has no masks to renew")
        self.clip = clip
        self.fast = check_fast(fast)
        self.seed = seed
        self.step = 0
        self.attacked = 0
        self._zero_gradients = torch.zeros((), dtype=torch.long)
        self.epoch: int | None = None
        self._masks: dict[int, np.ndarray] = {}
        self._masks_since: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Tell PART the number of the epoch that begins, counted from 0."""
        self.epoch = check_count("epoch", epoch, 0)

    @property
    def burning_in(self) -> bool:
        """Whether this epoch still uses eps everywhere."""
        if self.epoch is None and (self.burn_in or self.mask_every > 1):
            raise RuntimeError(
                f"burn_in={self.burn_in} and mask_every={self.mask_every} count epochs: call set_epoch(epoch) at the "
                "start of each, or pass burn_in=0 and mask_every=1"
            )
        return self.epoch is not None and self.epoch < self.burn_in

    def loss(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None, important: Tensor | None = None
    ) -> Tensor:
        """Return the training loss of one batch, a scalar to call `backward` on.

        Args:
            model: network that returns logits (N, K); DistributedDataParallel is welcome.
            x: images (N, C, H, W) inside `clip`.
            y: class indices (N,) or (N, 1), or one-hot (N, K).
            index: number of each sample in its dataset, (N,); only for mask_every > 1.
            important: where the important pixels of x are, bool (N, 1, H, W), instead of maps made here.

        Raises:
            TypeError, ValueError: images outside `clip`, NaN, integer images, wrong labels or masks.
        """
        return self.training_pass(model, x, self.perturb(model, x, y, index, important), y).loss

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None, important: Tensor | None = None
    ) -> Tensor:
        """Return the Pixel-AG examples of one batch, (N, C, H, W), each pixel inside its budget."""
        check_images(x, self.clip)
        if important is not None and (important.shape != (len(x), 1, *x.shape[2:]) or important.dtype != torch.bool):
            raise ValueError(
                f"important is {important.dtype} {tuple(important.shape)}; bool {(len(x), 1, *x.shape[2:])} is needed"
            )
        y = class_indices(y, len(x))
        model = without_replicas(model)
        with undisturbed(model), lean(model):
            x, y = x.detach().clone(), y.to(x.device).clone()  # also tensors made under inference_mode will do
            radii, natural_logits = self._radii(model, x, y, index, important)
            with sped_up(model, x, self.fast) as attacked:
                adv = self.attack(attacked, x, y, radii, natural_logits)
        self.step += 1
        return adv

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        """Maximise the objective's attack loss, or the margin, within `radii`; override it to attack otherwise.

        `natural_logits` are those of x in eval mode, where the map has computed them already.
        """
        start = self._start(x, radii)
        if self.minimum_margin:
            return MinimumMargin(model, x, y, radii, self.alpha, start, self.clip, watch=self._watch).advance(
                self.steps
            )
        if self.objective.attacks_natural and natural_logits is None:
            with torch.no_grad():
                natural_logits = logits_of(model, x)

        def climb(rows: slice) -> Tensor:
            loss = ascent(model, self.objective, y[rows], None if natural_logits is None else natural_logits[rows])
            first = None if start is None else start[rows]
            return pixel_ag(loss, x[rows], radii[rows], self.alpha, self.steps, first, self.clip, self._watch)

        return torch.cat(in_parts(climb, model, x))

    @property
    def zero_gradients(self) -> int:
        """How many of the `attacked` samples, times targets for "mma", gave the attack no gradient to follow."""
        return int(self._zero_gradients)

    def _watch(self, gradient: Tensor) -> None:
        largest = gradient.flatten(1).abs().amax(1)
        self.attacked += len(gradient)
        self._zero_gradients = self._zero_gradients.to(gradient.device) + (~(largest > 0) | largest.isinf()).sum()

    def training_pass(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Outputs:
        """Return the objective's loss on images `x`, adversarial examples `adv` and labels `y`."""
        y = class_indices(y, len(x)).to(x.device)
        natural_logits = logits_of(model, x) if self.objective.needs_natural else None
        adv_logits = logits_of(model, adv)
        return Outputs(self.objective.loss(adv_logits, y, natural_logits), adv_logits, natural_logits)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, tensors and plain data: the step and the remembered masks."""
        masks = np.stack(list(self._masks.values())) if self._masks else np.empty((0, 0), np.uint8)
        return {
            "step": self.step,
            "masks_since": self._masks_since,
            "mask_keys": torch.tensor(list(self._masks), dtype=torch.long),
            "masks": torch.from_numpy(masks),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.step, self._masks_since = state["step"], state["masks_since"]
        self._masks = dict(zip(state["mask_keys"].tolist(), state["masks"].cpu().numpy(), strict=True))

    def _start(self, x: Tensor, radii: Tensor) -> Tensor | None:
        generator = self._generator(x.device)
        if self.objective.start == "gaussian":
            return gaussian_start(x, radii, self.clip, generator)
        return uniform_start(x, radii, self.budget.eps, self.clip, generator) if self.random_start else None

    def _generator(self, device: torch.device) -> torch.Generator | None:
        if self.seed is None:
            return None
        key = np.random.SeedSequence((self.seed, int(os.environ.get("RANK", 0)), self.step))
        return torch.Generator(device).manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))

    def _radii(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None, important: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the radii, and the natural logits if a map has computed them."""
        if self.burning_in:
            return FixedBudget(self.budget.eps)(model, x), None
        if not isinstance(self.budget, PixelBudget) or self.budget.eps_low == self.budget.eps:
            return self.budget(model, x, y), None
        if important is not None:
            return self.budget.radii(important.to(x.device), x), None
        if self.mask_every > 1:
            return self.budget.radii(self._remembered(model, x, y, index), x), None
        important, natural_logits = self._look(model, x, y)
        return self.budget.radii(important, x), natural_logits

    def _look(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        looks = in_parts(lambda rows: self.budget.look(model, x[rows], y[rows]), model, x)
        important, logits = (torch.cat(each) for each in zip(*looks, strict=True))
        return important, logits

    def _remembered(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        """Return the masks of the samples numbered `index`, computing those not seen since renewal."""
        if index is None or len(index) != len(x):
            raise ValueError(
                f"mask_every={self.mask_every} remembers masks per sample; pass index of shape ({len(x)},)"
            )
        self.masks_due()
        keys = torch.as_tensor(index).tolist()
        new = [row for row, key in enumerate(keys) if key not in self._masks]
        if new:
            masks = self._look(model, x[new], y[new])[0].cpu().numpy()
            self._masks.update((keys[row], np.packbits(mask)) for row, mask in zip(new, masks, strict=True))
        return torch.stack([self.mask_of(key, x.shape[2:]) for key in keys]).to(x.device)

    def masks_due(self) -> bool:
        """Forget the masks if this epoch renews them, and return whether there are none yet."""
        since = None if self.burning_in else (self.epoch - self.burn_in) // self.mask_every
        if since != self._masks_since:
            self._masks, self._masks_since = {}, since
        return since is not None and not self._masks

    def remember(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> None:
        """Compute and keep the masks of images (N, C, H, W) as they are before they are augmented."""
        model = without_replicas(model)
        with undisturbed(model), lean(model):
            self._remembered(model, x.detach().clone(), class_indices(y, len(x)).to(x.device), index)

    def mask_of(self, index: int, size: Sequence[int]) -> Tensor:
        """Return the mask of one sample of `size` (H, W), bool (1, H, W); all True where none is remembered."""
        height, width = size
        if index not in self._masks:
            return torch.ones(1, height, width, dtype=torch.bool)
        bits = np.unpackbits(self._masks[index], count=height * width)
        return torch.from_numpy(bits.reshape(1, height, width).astype(bool))

    def __repr__(self) -> str:
        attack = "mma" if self.minimum_margin else "pgd"
        return (
            f"PART({self.objective}, {self.budget}, alpha={self.alpha}, steps={self.steps}, attack={attack}, "
            f"burn_in={self.burn_in}, mask_every={self.mask_every})"
        )
