"""What the attack maximises, where it starts, and what training minimises: AT, TRADES, MART.

All losses are written with log-softmax, so that they stay finite for any logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_choice, check_number, shown
from .deferred import moved
from .labels import labels_of, labels_within
from .mismatch import warn_of_outputs
from .network.view import logits_of

Criterion = Callable[[Tensor, Tensor], Tensor]


class Outputs(NamedTuple):
    """What one training step computed: the loss and the logits (N, K) that it came from."""

    loss: Tensor
    adv_logits: Tensor
    natural_logits: Tensor | None


class Objective:
    """Base of all objectives; subclass it for one of your own.

    In all of them, `adv_logits` and `natural_logits` are those of x' and x, (N, K), and `labels` are y, classes (N,) or
    their probabilities (N, K); the natural ones are None where neither the attack nor training needs them.

    Attributes:
        start: where the attack starts, "uniform" in the budget or "gaussian" next to the image.
        needs_natural: whether training also needs the logits of the natural images.
        attacks_natural: whether the attack needs them too.
    """

    start = "uniform"
    needs_natural = False
    attacks_natural = False

    def attack_loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return the scalar that the attack maximises, from `adv_logits`, `labels` and `natural_logits`."""
        return F.cross_entropy(adv_logits, labels)

    def loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return the scalar that training minimises, from `adv_logits`, `labels` and `natural_logits`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in vars(self).items() if isinstance(v, (int, float)))
        return f"{type(self).__name__}({settings})"


class AT(Objective):
    r"""Adversarial training (Madry et al. 2018, https://arxiv.org/abs/1706.06083), maximised and minimised alike.

    .. math:: \ell(f(x'), y)

    with f the logits, x' the adversarial example and y the label.

    Args:
        criterion: (logits, labels) -> scalar. (Default: cross-entropy)
    """

    def __init__(self, criterion: Criterion = F.cross_entropy):
        self.criterion = criterion

    def attack_loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return l(f(x'), y)."""
        return self.criterion(adv_logits, labels)

    def loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return l(f(x'), y)."""
        return self.criterion(adv_logits, labels)


class TRADES(Objective):
    r"""TRADES (Zhang et al. 2019, https://arxiv.org/abs/1901.08573); the attack maximises the KL alone.

    .. math:: \ell(f(x), y) + \beta \, \mathrm{KL}(p(x) \,\|\, p(x'))

    with f the logits, p their softmax, x and x' the natural image and the adversarial example. The KL is summed over
    classes and averaged over the batch.

    Args:
        beta: weight of the KL. (Default: 6.0)
        criterion: (logits, labels) -> scalar, l above. (Default: cross-entropy)
    """

    start = "gaussian"
    needs_natural = True
    attacks_natural = True

    def __init__(self, beta: float = 6.0, criterion: Criterion = F.cross_entropy):
        self.beta = check_number("beta", beta)
        self.criterion = criterion

    def attack_loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return KL(p(x) || p(x')), summed over the batch."""
        natural = F.softmax(_needed(natural_logits, self), dim=1)
        return F.kl_div(F.log_softmax(adv_logits, dim=1), natural, reduction="sum")

    def loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return l(f(x), y) + beta * KL(p(x) || p(x'))."""
        natural_logits = _needed(natural_logits, self)
        robust = kl_per_sample(natural_logits, adv_logits).mean()
        return self.criterion(natural_logits, labels) + self.beta * robust


class MART(Objective):
    r"""MART (Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS); the attack maximises the cross-entropy.

    .. math::
        -\log p_y(x') - \log(1 - \max_{k \neq y} p_k(x')) + \beta \, \mathrm{KL}(p(x) \,\|\, p(x')) \, (1 - p_y(x))

    with p the softmax of the logits, y the label, x and x' the natural image and the adversarial example. The second
    logarithm is taken of 1.0001 - p as in the authors' code, which keeps it finite. Of labels that are probabilities
    the first term is the cross-entropy, and y the likeliest class in the others.

    Args:
        beta: weight of the KL. (Default: 6.0)
    """

    start = "gaussian"
    needs_natural = True

    def __init__(self, beta: float = 6.0):
        self.beta = check_number("beta", beta)

    def loss(self, adv_logits: Tensor, labels: Tensor, natural_logits: Tensor | None) -> Tensor:
        """Return the formula above, averaged over the batch."""
        natural_logits = _needed(natural_logits, self)
        classes = (labels if labels.dim() == 1 else labels.argmax(1))[:, None]
        rival = F.softmax(adv_logits, dim=1).scatter(1, classes, 0.0).amax(1)
        boosted = F.cross_entropy(adv_logits, labels) - torch.log(1.0001 - rival).mean()
        doubt = 1 - F.softmax(natural_logits, dim=1).gather(1, classes).squeeze(1)
        return boosted + self.beta * (kl_per_sample(natural_logits, adv_logits) * doubt).mean()


def _needed(natural_logits: Tensor | None, objective: Objective) -> Tensor:
    if natural_logits is None:
        raise ValueError(f"natural_logits=None does not go with {objective!r}, which needs those of the natural images")
    return natural_logits


def ascent(
    model: nn.Module, objective: Objective, labels: Tensor, natural_logits: Tensor | None = None, sign: int = 1
) -> Callable[[Tensor], Tensor]:
    """Return what an attack on `model` maximises, as a function of the images alone.

    Args:
        model: network that returns logits (N, K).
        objective: what to maximise.
        labels: classes (N,) or their probabilities (N, K).
        natural_logits: those of the natural images, where the objective needs them.
        sign: -1 for an attack towards the labels.
    """
    known: Tensor | None = None  # labels that the network has, which its first logits tell

    def loss(images: Tensor) -> Tensor:
        nonlocal known
        logits = _within_float16(logits_of(model, images))
        if known is None:
            known = labels_within(labels, logits.shape[1])
        natural = None if natural_logits is None else natural_logits.to(logits.dtype)
        return sign * objective.attack_loss(logits, known, natural)

    return loss


def training_pass(model: nn.Module, objective: Objective, x: Tensor, adv: Tensor, y: Tensor) -> Outputs:
    """Return the loss of an `objective` for adversarial examples `adv` of `x`, and the logits that it came from.

    Args:
        model: network that returns logits (N, K).
        objective: what to minimise.
        x: images (N, C, H, W), which only some objectives look at.
        adv: their adversarial examples.
        y: class indices (N,) or (N, 1), one-hot or probabilities (N, K).
    """
    y = moved(labels_of(y, len(x)), x)
    natural_logits = logits_of(model, x) if objective.needs_natural else None
    adv_logits = logits_of(model, adv)
    warn_of_outputs(model, adv_logits)
    loss = objective.loss(adv_logits, labels_within(y, adv_logits.shape[1]), natural_logits)
    return Outputs(loss, adv_logits, natural_logits)


def _within_float16(logits: Tensor) -> Tensor:
    """Return logits (N, K), those in float16 as float32 whose gradient is scaled, for each image, to a largest of 1.

    An attack follows signs alone, which a factor leaves alone; without it the gradients of sure predictions, 1e-6 and
    less, become 0 on their way down, as float16 has no number below 6e-8.
    """
    if logits.dtype != torch.float16:
        return logits
    wide = logits.float()
    tiny = torch.finfo(wide.dtype).tiny
    wide.register_hook(lambda gradient: gradient / gradient.abs().amax(1, keepdim=True).clamp_min(tiny))
    return wide


def kl_per_sample(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Return KL(p || q) of each row, (N,), with p the softmax of `logits` (N, K) and q that of `other_logits`."""
    log_p, log_q = F.log_softmax(logits, dim=1), F.log_softmax(other_logits, dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)


def make_objective(objective: str | Objective, beta: float | None = None) -> Objective:
    """Return the objective of that name, or the instance itself.

    Args:
        objective: "at", "trades", "mart" or an `Objective`.
        beta: weight of the second term of TRADES and MART. (Default: 6.0)

    Raises:
        TypeError: neither a name nor an `Objective`.
        ValueError: an unknown name or start, a `beta` that is not allowed, or one beside "at" or an `Objective`.
    """
    if isinstance(objective, Objective):
        if beta is not None:
            raise ValueError(f"beta={beta} does not go with objective={objective!r}; give it to the objective")
        check_choice("objective.start", objective.start, ("uniform", "gaussian"))
        return objective
    if not isinstance(objective, str):
        raise TypeError(
            f"objective={shown(objective)} is a {type(objective).__name__}; a name or an Objective instance is needed"
        )
    weight = check_number("beta", 6.0 if beta is None else beta)
    if objective == "at":
        if beta is not None:
            raise ValueError(f"beta={beta} does not go with objective='at'; it weighs the second term of the others")
        return AT()
    if objective == "trades":
        return TRADES(weight)
    if objective == "mart":
        return MART(weight)
    raise ValueError(f"objective={objective!r} is not known; choose from ['at', 'trades', 'mart'] or pass an Objective")
