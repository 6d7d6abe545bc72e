"""PART: budget + objective + schedule = the loss of one batch, for any training loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .attacks.minimum_margin import MinimumMargin
from .attacks.pixel_ag import pixel_ag
from .attacks.projection import gaussian_start, uniform_start
from .budget import uniform
from .checks import Clip, check_choice, check_clip, check_count, check_images, check_number, check_within, class_indices
from .masks import MaskMemory
from .network.batching import in_parts
from .network.fast import accelerated, check_fast
from .network.isolation import eval_mode, frozen
from .network.view import logits_of, without_replicas
from .objectives import Objective, ascent, make_objective
from .pixel_budget import BudgetOptions, make_budget
from .schedule import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Outputs(NamedTuple):
    """What one training step computed: a scalar and the logits (N, K) that it came from."""

    loss: Tensor
    adv_logits: Tensor
    natural_logits: Tensor | None


class PART:
    """Pixel-reweighted adversarial training (PART, ICML 2024) in a loop of your own.

    >>> part = PART("trades", beta=6.0, eps=8/255, burn_in=20)
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
        eps: radius of important pixels, in the images' units. (Default: 8/255)
        alpha: step size of the attack, in the images' units. (Default: 2/255)
        steps: number of steps of the attack. (Default: 10)
        random_start: whether an attack that starts uniformly in the budget does so, or at x.
        attack: "pgd" on the objective's own loss, or "mma", the minimum-margin attack. (Default: "pgd")
        burn_in: number of first epochs with eps everywhere; counted by `set_epoch`. (Default: 20)
        mask_every: masks are renewed every so many epochs (the paper's s) and in between remembered per
            sample, a bit per pixel. That needs `index`, and images that look the same in every epoch, or
            `important`, masks that moved with their images (see `recipes.augmentation.MovedMasks`). (Default: 1)
        clip: smallest and largest pixel value. (Default: (0, 1))
        fast: options that make the attack cheaper and its gradients approximate; see `network.fast.FAST`.
        seed: seed of the random starts, together with the rank and `step`, so that nothing has to
            be saved to resume; default: torch's global generator.
        eps_low: radius of the other pixels. (Default: 7/8 of eps, the paper's ratio)
        budget: a budget to use instead of one made from the arguments; see `Budget`.
        **options: cam, target_layers, reshape_transform, rule, target; see `PixelBudget`.

    Raises:
        TypeError, ValueError: an argument that is not allowed; the sentence names it.
    """

    def __init__(
        self,
        objective: str | Objective = "at",
        *,
        beta: float | None = None,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        attack: str = "pgd",
        burn_in: int = 20,
        mask_every: int = 1,
        clip: Clip = (0.0, 1.0),
        fast: str | Sequence[str] = (),
        seed: int | None = None,
        eps_low: float | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ):
        self.objective = make_objective(objective, beta)
        self.clip = check_clip(clip)
        self.budget = make_budget(eps, eps_low, budget, **options)
        self.alpha = check_number("alpha", alpha, above=True)
        check_within("eps", self.budget.eps, clip)
        check_within("alpha", alpha, clip)
        self.steps = check_count("steps", steps)
        self.minimum_margin = check_choice("attack", attack, ("pgd", "mma")) == "mma"
        self.random_start = random_start
        self.schedule = Schedule(burn_in, mask_every)
        if mask_every > 1 and not self.budget.has_weights:
            raise ValueError(f"mask_every={mask_every} needs a PixelBudget; {self.budget!r} has no masks to renew")
        self.fast = check_fast(fast)
        self.seed = seed if seed is None else check_count("seed", seed, 0)
        self.step = 0
        self.attacked = 0
        self._zero_gradients = torch.zeros((), dtype=torch.long)
        self.masks = MaskMemory()

    def set_epoch(self, epoch: int) -> None:
        """Tell PART the number of the epoch that begins, counted from 0."""
        self.schedule.set_epoch(epoch)

    @property
    def burning_in(self) -> bool:
        """Whether this epoch still uses eps everywhere."""
        return self.schedule.burning_in

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
            RuntimeError: `set_epoch` was not called, and burn_in or mask_every need it.
        """
        return self.training_pass(model, x, self.perturb(model, x, y, index, important), y).loss

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None, important: Tensor | None = None
    ) -> Tensor:
        """Return the Pixel-AG examples of one batch, (N, C, H, W), each pixel inside its budget.

        Args:
            model, x, y, index, important: see `loss`.

        Raises:
            TypeError, ValueError, RuntimeError: see `loss`.
        """
        check_images(x, self.clip)
        self._check_important(important, x)
        y = class_indices(y, len(x))
        model = without_replicas(model)
        with eval_mode(model), frozen(model):
            x, y = x.detach().clone(), y.to(x.device).clone()  # also tensors made under inference_mode will do
            radii, natural_logits = self._radii(model, x, y, index, important)
            with accelerated(model, x, self.fast) as attacked:
                adv = self.attack(attacked, x, y, radii, natural_logits)
        self.step += 1
        return adv

    def attack(
        self, model: nn.Module, x: Tensor, y: Tensor, radii: Tensor, natural_logits: Tensor | None = None
    ) -> Tensor:
        """Return adversarial examples within `radii`; override it to attack otherwise.

        Args:
            model: the network in eval mode, frozen.
            x, y: images (N, C, H, W) and class indices (N,).
            radii: (N, 1, H, W) or (N, C, H, W).
            natural_logits: those of x in eval mode, where the map has computed them already.
        """
        start = self._start(x, radii)
        if self.minimum_margin:
            attack = MinimumMargin(model, x, y, radii, self.alpha, start, self.clip, on_first_gradient=self._count)
            return attack.advance(self.steps)
        if self.objective.attacks_natural and natural_logits is None:
            with torch.no_grad():
                natural_logits = logits_of(model, x)

        def climb(rows: slice) -> Tensor:
            loss = ascent(model, self.objective, y[rows], None if natural_logits is None else natural_logits[rows])
            first = None if start is None else start[rows]
            return pixel_ag(loss, x[rows], radii[rows], self.alpha, self.steps, first, self.clip, self._count)

        return torch.cat(in_parts(climb, model, x))

    @property
    def zero_gradients(self) -> int:
        """How many of the `attacked` samples, times targets for "mma", gave the attack no gradient to follow."""
        return int(self._zero_gradients)

    def _count(self, gradient: Tensor) -> None:
        largest = gradient.flatten(1).abs().amax(1)
        self.attacked += len(gradient)
        self._zero_gradients = self._zero_gradients.to(gradient.device) + (~(largest > 0) | largest.isinf()).sum()

    def training_pass(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Outputs:
        """Return the objective's loss and the logits that it came from.

        Args:
            model, x, y: see `loss`.
            adv: adversarial examples of x, (N, C, H, W).
        """
        y = class_indices(y, len(x)).to(x.device)
        natural_logits = logits_of(model, x) if self.objective.needs_natural else None
        adv_logits = logits_of(model, adv)
        return Outputs(self.objective.loss(adv_logits, y, natural_logits), adv_logits, natural_logits)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, tensors and plain data: the step and the remembered masks."""
        return {"step": self.step, **self.masks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.step = state["step"]
        self.masks.load_state_dict(state)

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

    def _check_important(self, important: Tensor | None, x: Tensor) -> None:
        if important is None:
            return
        if not self.budget.has_weights:
            raise ValueError(f"important does not go with {self.budget!r}, which has a radius for every pixel already")
        if important.shape != (len(x), 1, *x.shape[2:]) or important.dtype != torch.bool:
            raise ValueError(
                f"important is {important.dtype} {tuple(important.shape)}; bool {(len(x), 1, *x.shape[2:])} is needed"
            )

    def _radii(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None, important: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the radii, and the natural logits if a map has computed them."""
        if self.burning_in:
            return uniform(x, self.budget.eps), None
        if not self.budget.has_weights or self.budget.eps_low == self.budget.eps:
            return self.budget.radii(model, x, y), None
        if important is not None:
            return self.budget.radii_of(important.to(x.device), x), None
        if self.schedule.mask_every > 1:
            return self.budget.radii_of(self._remembered(model, x, y, index), x), None
        weights, natural_logits = self._weights(model, x, y)
        return self.budget.radii_of(weights, x), natural_logits

    def _weights(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = in_parts(lambda rows: self.budget.weights(model, x[rows], y[rows]), model, x)
        weights, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        return weights, logits

    def _remembered(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
        """Return the masks of the samples numbered `index`, computing those not seen since renewal."""
        if index is None or len(index) != len(x):
            raise ValueError(
                f"mask_every={self.schedule.mask_every} remembers masks per sample; pass index of shape ({len(x)},)"
            )
        self.masks_due()
        keys = torch.as_tensor(index).tolist()
        new = [row for row, key in enumerate(keys) if key not in self.masks]
        if new:
            self.masks.put([keys[row] for row in new], self._weights(model, x[new], y[new])[0])
        return torch.stack([self.masks.get(key, x.shape[2:]) for key in keys]).to(x.device)

    def masks_due(self) -> bool:
        """Forget the masks if this epoch renews them, and return whether there are none yet.

        Raises:
            RuntimeError: `set_epoch` was not called.
        """
        renewal = self.schedule.renewal
        self.masks.renew(renewal)
        return renewal is not None and not self.masks

    def remember(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> None:
        """Compute and keep the masks of images as they are before they are augmented.

        Args:
            model, x, y, index: see `loss`.

        Raises:
            TypeError, ValueError, RuntimeError: see `loss`.
        """
        check_images(x, self.clip)
        model = without_replicas(model)
        with eval_mode(model), frozen(model):
            self._remembered(model, x.detach().clone(), class_indices(y, len(x)).to(x.device), index)

    def mask_of(self, index: int, size: Sequence[int]) -> Tensor:
        """Return the mask of one sample of `size` (H, W), bool (1, H, W); all True where none is remembered."""
        return self.masks.get(index, size)

    def __repr__(self) -> str:
        attack = "mma" if self.minimum_margin else "pgd"
        return (
            f"PART({self.objective}, {self.budget}, alpha={self.alpha}, steps={self.steps}, attack={attack}, "
            f"burn_in={self.schedule.burn_in}, mask_every={self.schedule.mask_every})"
        )
