"""Pixel-AG: adversarial examples under a radius of their own for every pixel (PART, section 3.2).

Three ways to them: projected gradient ascent, the minimum-margin attack on top of it, and a change of
variable that turns any other l_inf attack into one without touching its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .checks import Clip, check_class_range, check_count
from .surrogate import in_parts, logits_of, within_memory


def pixel_ag(
    loss: Callable[[Tensor], Tensor],
    images: Tensor,
    radii: Tensor,
    alpha: float,
    steps: int,
    start: Tensor | None = None,
    clip: Clip = (0.0, 1.0),
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Maximise loss(x + d) subject to |d_i| <= radii_i and clip[0] <= x + d <= clip[1] (Eq. 4).

    Each step is d <- clip(d + alpha * sign(gradient), -radii, radii), then x + d is clipped to the
    allowed range. The paper writes a product with a mask instead of the element-wise clip; the
    feasible set is the same, and the clip is its projection.

    Args:
        loss: images (N, C, H, W) -> scalar, differentiable.
        images: x, (N, C, H, W).
        radii: broadcasts to x, >= 0, in the units of x.
        alpha: step size, in the units of x.
        steps: number of gradient steps.
        start: first iterate, inside the budget; default: x itself.
        clip: allowed range of x + d.
        watch: called with the first gradient, to look for samples that have none.

    Returns:
        x + d, (N, C, H, W), detached.
    """
    adv = (images if start is None else start).detach().clone()
    for step in range(steps):
        adv.requires_grad_()
        gradient = torch.autograd.grad(loss(adv), adv)[0]
        if step == 0 and watch is not None:
            watch(gradient)
        adv = project(images, adv.detach() + alpha * gradient.sign(), radii, clip).detach()
    return adv


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
        watch: see `pixel_ag`.
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
        watch: Callable[[Tensor], None] | None = None,
    ):
        with torch.no_grad():
            logits = torch.cat(within_memory(lambda rows: logits_of(model, images[rows]), len(images)))
        check_class_range(labels, logits.shape[1])
        if logits.shape[1] < 2:
            raise ValueError("the model has 1 class; a margin is between at least 2")
        copies = min(check_count("targets", targets), logits.shape[1] - 1)
        self.model, self.alpha, self.clip, self.watch = model, alpha, clip, watch
        self.targets = _rivals(logits, labels).topk(copies).indices.T.flatten()  # target by target
        self.images, self.radii = images.repeat(copies, 1, 1, 1), radii.repeat(copies, 1, 1, 1)
        self.labels, self.samples = labels.repeat(copies), len(labels)
        self.adv = (images if start is None else start).detach().repeat(copies, 1, 1, 1)
        self.best, self.margin = self.adv.clone(), torch.full_like(self.adv[:, 0, 0, 0], -torch.inf)

    def advance(self, steps: int) -> Tensor:
        """Take `steps` more and return the best example of each sample so far, (N, C, H, W)."""
        in_parts(lambda rows: self._ascend(rows, steps), self.model, self.adv)
        self.watch = None
        winner = self.margin.unflatten(0, (-1, self.samples)).argmax(0)
        return self.best[winner * self.samples + torch.arange(self.samples, device=winner.device)]

    def _ascend(self, rows: slice, steps: int) -> None:
        def margin(adv: Tensor) -> Tensor:
            logits = logits_of(self.model, adv)
            self._keep_best(rows, adv.detach(), logits.detach())
            true, target = (logits.gather(1, of[rows, None]) for of in (self.labels, self.targets))
            return (target - true).sum()

        images, radii, adv = self.images[rows], self.radii[rows], self.adv[rows]
        adv = pixel_ag(margin, images, radii, self.alpha, steps, adv, self.clip, self.watch)
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
    return torch.clamp(images + noise * share(radii, eps), *clip)


def gaussian_start(
    images: Tensor,
    radii: Tensor,
    clip: Clip = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return x + 0.001 * N(0, 1), the start of TRADES and MART, inside the budget."""
    noise = 0.001 * torch.empty_like(images).normal_(generator=generator)
    return torch.clamp(images + torch.clamp(noise, min=-radii, max=radii), *clip)


def share(radii: Tensor, eps: float) -> Tensor:
    """Return the mask m = radii / eps, exactly 1 where the radius is eps (PART's mask, section 3.2)."""
    return torch.where(radii >= eps, torch.ones_like(radii), radii / max(eps, torch.finfo(radii.dtype).tiny))


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

    def hook(module: nn.Module, inputs: tuple) -> tuple:
        z, *rest = inputs
        return (_shrink(z, *_paired(z, images, mask)), *rest)

    handle = model.register_forward_pre_hook(hook, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def pull_back(images: Tensor, z: Tensor, radii: Tensor, mask: Tensor, clip: Clip = (0.0, 1.0)) -> Tensor:
    """Return x + m * (z - x), projected onto the budget where the attack itself overstepped it."""
    adv = _shrink(z, images, mask)
    rounding = torch.finfo(images.dtype).eps * torch.maximum(images.abs(), adv.abs())
    outside = (adv - images).abs() > radii + rounding
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
