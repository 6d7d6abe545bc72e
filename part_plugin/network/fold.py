"""Batch norm folded into the convolution before it: which pairs can be, and the fold itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .replica import original_of
from .view import logits_of, network_of

logger = logging.getLogger(__name__)

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
_pairs: WeakKeyDictionary[nn.Module, list[tuple[str, str]]] = WeakKeyDictionary()


def foldable_pairs(model: nn.Module, images: Tensor) -> list[Pair]:
    """Return the (convolution, batch norm) pairs of `model` that can be folded without changing the logits.

    Found by watching one forward pass of two of the `images`: what leaves a convolution enters a batch norm, and both
    are called once. That says nothing of other uses of the convolution's output, so each pair is folded
    on trial and dropped if the logits move by more than rounding. The answer is remembered.
    """
    network = network_of(model)
    original = original_of(network)
    if original not in _pairs:
        names = {module: name for name, module in network.named_modules()}
        sample = images[:2].detach()
        with torch.no_grad():
            candidates = _adjacent(model, network, sample)
            exact = logits_of(model, sample)
            found = [pair for pair in candidates if _harmless(model, sample, exact, pair)]
        if not found:
            logger.warning("fast='fold' finds nothing to fold in %s; it runs without", type(network).__name__)
        _pairs[original] = [(names[convolution], names[norm]) for convolution, norm in found]
    modules: dict[str, Any] = dict(network.named_modules())
    return [(modules[convolution], modules[norm]) for convolution, norm in _pairs[original]]


def _adjacent(model: nn.Module, network: nn.Module, images: Tensor) -> list[Pair]:
    calls: list[nn.Module] = []
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is held, so that its id stays its own
    pairs: list[Pair] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls.append(module)
        if isinstance(module, nn.Conv2d):
            made_by[id(output)] = (module, output)
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], module))

    with ExitStack() as hooks:
        for module in network.modules():
            if type(module) in (nn.Conv2d, nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(record).remove)
        logits_of(model, images)
    return [pair for pair in pairs if all(calls.count(module) == 1 for module in pair) and pair[1].track_running_stats]


def _harmless(model: nn.Module, images: Tensor, exact: Tensor, pair: Pair) -> bool:
    with folded([pair]):
        moved = (logits_of(model, images) - exact).abs().max()
    return bool(moved <= 1e-4 * exact.abs().max())


@contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """While this is active, the batch norms of `pairs` do nothing and the convolutions before them do their work."""
    try:
        for convolution, norm in pairs:
            vars(convolution)["forward"] = _convolve(convolution, *folded_weights(convolution, norm))
            vars(norm)["forward"] = _identity
        yield
    finally:
        for module in (module for pair in pairs for module in pair):
            vars(module).pop("forward", None)


@torch.no_grad()
def folded_weights(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that does the work of `convolution` and `norm`.

    Raises:
        ValueError: a batch norm without running statistics, which depends on its batch.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
    bias = shift if convolution.bias is None else shift + convolution.bias * scale
    return convolution.weight * scale[:, None, None, None], bias


def _convolve(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: convolution._conv_forward(images, weight, bias)


def _identity(images: Tensor) -> Tensor:
    return images
