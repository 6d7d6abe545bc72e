"""Networks whose weights are sharded over ranks (FSDP2), of which every forward pass is one of all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


def is_sharded(network: nn.Module) -> bool:
    """Return whether `fully_shard` was applied to a `network` or a part of it."""
    return any(hasattr(module, "unshard") for module in network.modules())


@contextmanager
def resharded(network: nn.Module) -> Iterator[None]:
    """Let a `network` that is sharded forget, on the way out, the whole weights that it was last run with.

    After a forward pass that no backward pass follows it keeps them for the next, which then trains what they were
    told meanwhile: weights that ask for no gradient.
    """
    try:
        yield
    finally:
        for module in network.modules():
            reshard: Callable[[], None] | None = getattr(module, "reshard", None)
            if reshard is not None:
                reshard()


def on_any_rank(network: nn.Module, found: bool, images: Tensor) -> bool:
    """Return whether something was `found` on any rank, of a `network` that is sharded; else whether it was here.

    Args:
        network: the network.
        found: here.
        images: (N, C, H, W), on the device that the ranks talk through.
    """
    if not is_sharded(network) or not distributed.is_initialized():
        return found
    flag = torch.tensor(int(found), device=images.device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)
