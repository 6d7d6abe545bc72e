"""Recipes that change how a loop is computed: precision, layout, compiler, processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from loop_recipes import Batches, steps
from methods import Method
from torch import Tensor, nn


def bfloat16(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Train, but not attack, under autocast; see `Recipe`."""
    return steps(model, Method(method.perturb, _in_bfloat16(method.loss)), batches)


def all_in_bfloat16(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Train and attack under autocast; see `Recipe`."""
    return steps(model, Method(_in_bfloat16(method.perturb), _in_bfloat16(method.loss)), batches)


def _in_bfloat16(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def cast(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return run(*arguments)

    return cast


def scaled_loss(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Scale the loss with a GradScaler; see `Recipe`."""
    scaler = torch.amp.GradScaler("cpu")

    def update(loss: Tensor, optimizer: Any) -> None:
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return steps(model, method, batches, update=update)


def compiled(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Train what `torch.compile` made, with the backend that needs no compiler; see `Recipe`."""
    return steps(torch.compile(model, backend="eager"), method, batches)


def channels_last(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Keep weights and images channels-last; see `Recipe`."""
    model.to(memory_format=torch.channels_last)
    return steps(model, method, [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches])


def distributed(model: nn.Module, method: Method, batches: Batches) -> list[Tensor]:
    """Train behind DistributedDataParallel, a group of one; see `Recipe`."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        return steps(nn.parallel.DistributedDataParallel(model), method, batches)
    finally:
        torch.distributed.destroy_process_group()
