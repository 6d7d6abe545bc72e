"""Recipes in a loop of one's own, each a function of the method: PART, or the plain one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from common import EPS
from methods import ALPHA, Method
from torch import Tensor, nn

from part_plugin import PixelBudget

Batches = Sequence[tuple[Tensor, Tensor]]


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all recipes.

    Args:
        model: what is trained.
    """
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def steps(
    model: nn.Module,
    method: Method,
    batches: Batches,
    optimizer: Any = None,
    update: Callable[[Tensor, Any], None] | None = None,
) -> list[Tensor]:
    """Train step by step; see `Recipe`.

    Args:
        model: what is trained.
        method: what it is trained with.
        batches: images and classes.
        optimizer: other than `sgd`.
        update: what is done with the loss of a batch and the optimizer.
    """
    optimizer, losses = optimizer or sgd(model), []
    for x, y in batches:
        loss = method.loss(model.train(), x, method.perturb(model, x, y), y)
        (update or _update)(loss, optimizer)
        losses.append(loss.detach())
    return losses


def _update(loss: Tensor, optimizer: Any) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def half_natural(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Attack half of each batch; see `Recipe`."""

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        half = len(x) // 2
        return torch.cat([method.perturb(model, x[:half], y[:half]), x[half:]])

    return steps(model, Method(perturb, method.loss), batches)


def clipped_gradients(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Clip the gradients of the weights, with AdamW and a schedule; see `Recipe`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=len(batches) + 1)

    def update(loss: Tensor, optimizer: Any) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()

    return steps(model, method, batches, optimizer, update)


def accumulated(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Step once for every two parts of a batch; see `Recipe`."""
    optimizer, losses = sgd(model), []
    for x, y in batches:
        optimizer.zero_grad()
        for part in torch.arange(len(x)).chunk(2):
            loss = method.loss(model.train(), x[part], method.perturb(model, x[part], y[part]), y[part]) / 2
            loss.backward()
            losses.append(loss.detach())
        optimizer.step()
    return losses


def weight_perturbation(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Perturb the weights adversarially as well (AWP); see `Recipe`."""
    optimizer, proxy, losses = sgd(model), copy.deepcopy(model), []
    for x, y in batches:
        adv = method.perturb(model, x, y)
        proxy.load_state_dict(model.state_dict())
        weights = [weight for weight in proxy.parameters() if weight.dim() > 1]
        gradients = torch.autograd.grad(method.loss(proxy.train(), x, adv, y), weights)
        moves = [0.01 * weight.detach().norm() * g / g.norm() for weight, g in zip(weights, gradients, strict=True)]
        moved = [weight for weight in model.parameters() if weight.dim() > 1]
        with torch.no_grad():
            torch._foreach_add_(moved, moves)
        loss = method.loss(model.train(), x, adv, y)
        _update(loss, optimizer)
        with torch.no_grad():
            torch._foreach_sub_(moved, moves)
        losses.append(loss.detach())
    return losses


def sharpness_aware(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Step by the gradient at the worst weights nearby (SAM); see `Recipe`."""
    optimizer, losses, weights = sgd(model), [], list(model.parameters())
    for x, y in batches:
        adv = method.perturb(model, x, y)
        gradients = torch.autograd.grad(method.loss(model.train(), x, adv, y), weights)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        moves = [0.05 * gradient / norm for gradient in gradients]
        with torch.no_grad():
            torch._foreach_add_(weights, moves)
        loss = method.loss(model, x, adv, y)
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            torch._foreach_sub_(weights, moves)
        optimizer.step()
        losses.append(loss.detach())
    return losses


def averaged_weights(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Keep a moving average of the weights, and attack that (EMA); see `Recipe`."""
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5), use_buffers=True
    )

    def update(loss: Tensor, optimizer: Any) -> None:
        _update(loss, optimizer)
        average.update_parameters(model)

    return steps(model, Method(lambda _, x, y: method.perturb(average, x, y), method.loss), batches, update=update)


def mixed(alike: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[[nn.Module, Method, Batches], list[Tensor]]:
    """Return a recipe that mixes images and their labels.

    Args:
        alike: mixes images with others, of which it takes a share.
    """

    def recipe(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
        soft = []
        for x, y in batches:
            order, share, labels = torch.randperm(len(x)), 0.25, F.one_hot(y, 10).float()
            soft.append((alike(x, x[order], share), (1 - share) * labels + share * labels[order]))
        return steps(model, method, soft)

    return recipe


def mixup(x: Tensor, others: Tensor, share: float) -> Tensor:
    """Return images of which every pixel is mixed; see `mixed`."""
    return (1 - share) * x + share * others


def cutmix(x: Tensor, others: Tensor, share: float) -> Tensor:
    """Return images with a square of others; see `mixed`."""
    cut = x.clone()
    side = int(x.shape[2] * share**0.5)
    cut[:, :, :side, :side] = others[:, :, :side, :side]
    return cut


def frozen_features(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Train the last layer alone; see `Recipe`."""
    model[:-1].requires_grad_(False)
    return steps(model, method, batches, torch.optim.SGD(model[-1].parameters(), lr=0.05))


def growing_eps(part: Any) -> Method:
    """Return a method whose eps, and with it eps_low at its ratio, grows from batch to batch.

    Args:
        part: PART.
    """

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        part.budget.eps = EPS / 4 * (part.step + 1)
        return part.perturb(model, x, y)

    return Method(perturb, part.method().loss)


def free(eps_low: float) -> Callable[[nn.Module, Method, Batches], list[Tensor]]:
    """Return free adversarial training: one backward pass for weights and images, each batch twice.

    Args:
        eps_low: radius of the unimportant pixels.
    """

    def recipe(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
        optimizer, losses = sgd(model), []
        delta = torch.zeros_like(batches[0][0])
        for x, y in batches:
            radii = PixelBudget(EPS, eps_low).radii(model, x, y)
            for _ in range(2):
                adv = (x + delta.clamp(-radii, radii)).clamp(0, 1).requires_grad_()
                loss = F.cross_entropy(model.train()(adv), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                delta = (delta + ALPHA * adv.grad.sign()).clamp(-EPS, EPS)
                losses.append(loss.detach())
        return losses

    return recipe
