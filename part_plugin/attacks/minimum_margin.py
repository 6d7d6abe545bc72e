"""The minimum-margin attack under a radius per pixel: the paper's MMA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..checks import Clip, check_class_range, check_count
from ..network.batching import in_parts, within_memory
from ..network.view import logits_of
from .pixel_ag import pixel_ag


class MinimumMargin:
    """The minimum-margin attack (Gao et al. 2022) under a radius per pixel (PART, Appendix H.4).

    For each of the most likely wrong classes t it maximises the margin z_t - z_y of the logits by
    `pixel_ag`. A sample's answer is the iterate, of any target, that came furthest: the one with the
    largest max_{k != y} z_k - z_y, which is positive where the model errs. All targets of a batch
    are attacked at once, in parts only where memory does not allow it.

    Steps have a fixed size, as in PART's experiments, where Gao et al. take the shrinking ones of
    APGD: 20 steps and then 80 are then the same as 100.

    Args:
        model: network that returns logits (N, K), in eval mode.
        images: x, (N, C, H, W).
        labels: y, (N,).
        radii: (N, 1, H, W) or (N, C, H, W), in the units of x.
        alpha: step size, in the units of x.
        start: first iterate for every target; default: x itself.
        clip: allowed range of pixels.
        targets: number of target classes; all wrong classes if there are fewer. (Default: 3)
        on_first_gradient: see `pixel_ag`.

    Raises:
        TypeError: `targets` is no integer.
        ValueError: less than one target, a label out of range, a model with one class.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        radii: Tensor,
        alpha: float,
        start: Tensor | None = None,
        clip: Clip = (0.0, 1.0),
        targets: int = 3,
        on_first_gradient: Callable[[Tensor], None] | None = None,
    ):
        with torch.no_grad():
            logits = torch.cat(within_memory(lambda rows: logits_of(model, images[rows]), len(images)))
        labels = check_class_range(labels, logits.shape[1])
        if logits.shape[1] < 2:
            raise ValueError("the model has 1 class; a margin is between at least 2")
        copies = min(check_count("targets", targets), logits.shape[1] - 1)
        self.model, self.alpha, self.clip = model, alpha, clip
        self.on_first_gradient = on_first_gradient
        self.targets = _rivals(logits, labels).topk(copies).indices.T.flatten()  # target by target
        self.images, self.radii = images.repeat(copies, 1, 1, 1), radii.repeat(copies, 1, 1, 1)
        self.labels, self.samples = labels.repeat(copies), len(labels)
        self.adv = (images if start is None else start).detach().repeat(copies, 1, 1, 1)
        self.best, self.margin = self.adv.clone(), torch.full_like(self.adv[:, 0, 0, 0], -torch.inf)

    def advance(self, steps: int) -> Tensor:
        """Take so many `steps` more and return the best example of each sample so far, (N, C, H, W)."""
        in_parts(lambda rows: self._ascend(rows, steps), self.model, self.adv)
        self.on_first_gradient = None
        winner = self.margin.unflatten(0, (-1, self.samples)).argmax(0)
        return self.best[winner * self.samples + torch.arange(self.samples, device=winner.device)]

    def _ascend(self, rows: slice, steps: int) -> None:
        def margin(adv: Tensor) -> Tensor:
            logits = logits_of(self.model, adv)
            self._keep_best(rows, adv.detach(), logits.detach())
            true, target = (logits.gather(1, of[rows, None]) for of in (self.labels, self.targets))
            return (target - true).sum()

        images, radii, adv = self.images[rows], self.radii[rows], self.adv[rows]
        adv = pixel_ag(margin, images, radii, self.alpha, steps, adv, self.clip, self.on_first_gradient)
        with torch.no_grad():
            margin(adv)
        self.adv[rows] = adv

    def _keep_best(self, rows: slice, adv: Tensor, logits: Tensor) -> None:
        labels = self.labels[rows]
        margin = (_rivals(logits, labels).amax(1) - logits.gather(1, labels[:, None])[:, 0]).to(self.margin.dtype)
        better = margin > self.margin[rows]
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.best[rows] = torch.where(better[:, None, None, None], adv, self.best[rows])


def _rivals(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits of the wrong classes, -inf at the true one."""
    return logits.scatter(1, labels[:, None], -torch.inf)
