"""PART: budget + objective + schedule = the loss of one batch, for any training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .attacks.minimum_margin import MinimumMargin
from .attacks.pixel_ag import GradientCount, pixel_ag
from .attacks.projection import gaussian_start, seeded_generator, uniform_start
from .checks import Clip, check_choice, check_clip, check_count, check_images, check_number, check_within, shown
from .deferred import DeferredChecks, moved
from .labels import classes_of, labels_of
from .mismatch import explained
from .network.batching import in_parts
from .network.fast import accelerated, check_fast
from .network.isolation import isolated
from .network.view import logits_of
from .objectives import Objective, Outputs, ascent, make_objective, training_pass
from .pixel_budget import BudgetOptions, make_budget
from .schedule import Radius, at_first
from .scheduled_budget import ScheduledBudget

if TYPE_CHECKING:
    from typing_extensions import Unpack

_RANGE_HINT = "; clip=(smallest, largest) tells the range of normalised images, and eps and alpha are in their units"


class PART:
    """Pixel-reweighted adversarial training (PART, ICML 2024) in a loop of your own.

    >>> part = PART("trades", beta=6.0, eps=8/255, burn_in=20)
    >>> for epoch in range(80):
    ...     part.set_epoch(epoch)
    ...     for x, y in loader:
    ...         loss = part.loss(model, x, y)
    ...         optimizer.zero_grad(); loss.backward(); optimizer.step()

    The attack sees the model in eval mode and leaves no trace on it; the training pass runs in the mode that it is in.
    No step but the first waits for a GPU: what is wrong with the images or labels of one is then said some steps later.

    Args:
        objective: "at", "trades", "mart" or an `Objective`.
        beta: weight of the second term of TRADES and MART. (Default: 6.0)
        eps: radius of important pixels, in the images' units, or a function of the epoch. (Default: 8/255)
        alpha: step size of the attack, in the images' units. (Default: 2/255)
        steps: number of steps of the attack. (Default: 10)
        random_start: whether an attack that starts uniformly in the budget does so, or at x.
        attack: "pgd" on the objective's own loss, or "mma", the minimum-margin attack. (Default: "pgd")
        burn_in: number of first epochs with eps everywhere; counted by `set_epoch`. (Default: 20)
        mask_every: masks are renewed every so many epochs (the paper's s), in between remembered, a bit per pixel (8 of
            numbers). That needs `index`, and images that look the same in every epoch or `important`, masks that moved
            with them (see `recipes.augmentation.MovedMasks`). (Default: 1)
        clip: smallest and largest pixel value. (Default: (0, 1))
        fast: options that make the attack cheaper and its gradients approximate; see `network.fast.FAST`.
        seed: of the random starts, with the rank and `step`; nothing is saved to resume. (Default: torch's generator)
        eps_low: radius of the other pixels, or a function of the epoch. (Default: 7/8 of eps, the paper's ratio)
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
        eps: Radius = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        attack: str = "pgd",
        burn_in: int = 20,
        mask_every: int = 1,
        clip: Clip = (0.0, 1.0),
        fast: str | Sequence[str] = (),
        seed: int | None = None,
        eps_low: Radius | None = None,
        budget: Any = None,
        **options: Unpack[BudgetOptions],
    ):
        self.objective = make_objective(objective, beta)
        self.clip = check_clip(clip)
        if callable(eps) and budget is not None:
            raise ValueError(f"eps={shown(eps)} does not go with budget={budget!r}, which has its own")
        self.budget = make_budget(at_first(eps), at_first(eps_low), budget, **options)
        check_within("eps", self.budget.eps, self.clip)
        self.alpha = check_within("alpha", check_number("alpha", alpha, above=True), self.clip)
        self.steps = check_count("steps", steps)
        self.minimum_margin = check_choice("attack", attack, ("pgd", "mma")) == "mma"
        self.random_start = random_start
        self.scheduled = ScheduledBudget(self.budget, burn_in, mask_every, eps=eps, eps_low=eps_low)
        self.schedule, self.masks = self.scheduled.schedule, self.scheduled.masks
        self.fast = check_fast(fast)
        self.seed = seed if seed is None else check_count("seed", seed, 0)
        self.step = 0
        self.gradients, self.deferred = GradientCount(), DeferredChecks()

    def set_epoch(self, epoch: int) -> None:
        """Tell PART the number of the `epoch` that begins, counted from 0.

        Raises:
            TypeError, ValueError: an epoch, or a radius of it, that is not allowed.
        """
        if epoch != self.schedule.epoch:
            self.deferred.make()
        self.scheduled.set_epoch(epoch)
        check_within("eps", self.budget.eps, self.clip)

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
            y: class indices (N,) or (N, 1), one-hot or probabilities (N, K), whose likeliest is the true one.
            index: number of each sample in its dataset, (N,); only for mask_every > 1. On a GPU it is waited for.
            important: which pixels of x are important, bool or in [0, 1], (N, 1, H, W), in place of maps made here.

        Raises:
            TypeError, ValueError: images outside `clip`, NaN, integer images, wrong labels or masks.
            RuntimeError: `set_epoch` was not called, and burn_in or mask_every need it.
        """
        return self.training_pass(model, x, self.perturb(model, x, y, index, important), y).loss

    def perturb(
        self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor | None = None, important: Tensor | None = None
    ) -> Tensor:
        """Return the Pixel-AG examples of one batch, (N, C, H, W), each pixel inside its budget.

        The arguments `model`, `x`, `y`, `index` and `important` are those of `loss`, and so are the errors.
        """
        with self.deferred.during(self.step):
            check_images(x, self.clip, hint=_RANGE_HINT)
            if important is not None:
                important = self.budget.check_important(important, x)
            y = labels_of(y, len(x))
            with explained(model, x), isolated(model, x, channels_last=True) as model:
                x, y = x.detach().clone(), moved(y, x).clone()  # also tensors made under inference_mode will do
                radii, natural_logits = self.scheduled.radii(model, x, classes_of(y), index, important)
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
            x: images (N, C, H, W).
            y: class indices (N,) or probabilities (N, K).
            radii: (N, 1, H, W) or (N, C, H, W).
            natural_logits: those of x in eval mode, where the map has computed them already.
        """
        start = self._start(x, radii)
        if self.minimum_margin:
            of, count = classes_of(y), self.gradients
            margin = MinimumMargin(model, x, of, radii, self.alpha, start, self.clip, on_first_gradient=count)
            return margin.advance(self.steps)
        if self.objective.attacks_natural and natural_logits is None:
            with torch.no_grad():
                natural_logits = logits_of(model, x)

        def climb(rows: slice) -> Tensor:
            natural, first = (None if each is None else each[rows] for each in (natural_logits, start))
            loss = ascent(model, self.objective, y[rows], natural)
            return pixel_ag(loss, x[rows], radii[rows], self.alpha, self.steps, first, self.clip, self.gradients)

        return torch.cat(in_parts(climb, model, x))

    @property
    def attacked(self) -> int:
        """How many samples were attacked, times targets for "mma"."""
        return self.gradients.samples

    @property
    def zero_gradients(self) -> int:
        """How many of the `attacked` samples gave the attack no gradient to follow."""
        return self.gradients.missing

    def training_pass(self, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> Outputs:
        """Return the objective's loss for adversarial examples `adv` of `x`, and the logits that it came from.

        The arguments `model`, `x` and `y` are those of `loss`.
        """
        with self.deferred.during(max(self.step - 1, 0)):  # the step that `perturb` has begun
            return training_pass(model, self.objective, x, adv, y)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, tensors and plain data: the step and the remembered masks."""
        self.deferred.make()
        return {"step": self.step, **self.masks.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`, what `state_dict` returned."""
        self.step = state["step"]
        self.masks.load_state_dict(state)

    def masks_due(self) -> bool:
        """Forget the masks if this epoch, which `set_epoch` told, renews them; return whether there are none yet."""
        return self.scheduled.masks_due()

    def remember(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> None:
        """Compute and keep the masks of images as they are before they are augmented.

        The arguments `model`, `x`, `y` and `index` are those of `loss`, and so are the errors.
        """
        check_images(x, self.clip, hint=_RANGE_HINT)
        with explained(model, x), isolated(model, x, channels_last=True) as model:
            x, y = x.detach().clone(), moved(classes_of(labels_of(y, len(x))), x)
            self.scheduled.remembered(model, x, y, index)

    def masks_of(self, index: Tensor, size: Sequence[int]) -> Tensor:
        """Return the masks of samples `index` (N,) of `size` (H, W) in this epoch, bool or float32 (N, 1, H, W).

        They are all 1 while burning in, and with mask_every=1.

        Raises:
            RuntimeError: no mask of a sample is remembered, or the epoch is not known.
        """
        return self.scheduled.masks_of(index, size)

    def _start(self, x: Tensor, radii: Tensor) -> Tensor | None:
        generator = None if self.seed is None else seeded_generator(x.device, self.seed, self.step)
        if self.objective.start == "gaussian":
            return gaussian_start(x, radii, self.clip, generator)
        return uniform_start(x, radii, self.budget.eps, self.clip, generator) if self.random_start else None

    def __repr__(self) -> str:
        return (
            f"PART({self.objective}, {self.budget}, alpha={self.alpha}, steps={self.steps}, "
            f"attack={'mma' if self.minimum_margin else 'pgd'}, burn_in={self.schedule.burn_in}, "
            f"mask_every={self.schedule.mask_every})"
        )
