"""Batch norm folded into the convolution before it: which pairs can be, and the fold itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .memory import Memory, Stand
from .view import logits_of, network_of

logger = logging.getLogger(__name__)

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
_pairs: Memory[list[tuple[str, str]]] = Memory()


def foldable_pairs(model: nn.Module, images: Tensor) -> list[Pair]:
    """Return the (convolution, batch norm) pairs of `model` that can be folded without changing the logits.

    Found by watching one forward pass of one of the `images`: what leaves the convolution enters the batch norm and
    takes part in nothing else, and both are called once. The answer is remembered; it holds whatever the weights are.
    """
    network = network_of(model)

    def find() -> list[tuple[str, str]]:
        names = {module: name for name, module in network.named_modules()}
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            found = _adjacent(model, network, images[:1].detach())
        if not found:
            logger.warning("fast='fold' finds nothing to fold in %s; it runs without", type(network).__name__)
        return [(names[convolution], names[norm]) for convolution, norm in found]

    modules: dict[str, Any] = dict(network.named_modules())
    found = _pairs.recall(network, None, find)
    return [(modules[convolution], modules[norm]) for convolution, norm in found]


class _Uses(TorchDispatchMode):
    """Counts the operations that each tensor takes part in, by its id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
        return func(*args, **(kwargs or {}))


def _adjacent(model: nn.Module, network: nn.Module, images: Tensor) -> list[Pair]:
    calls: Counter[nn.Module] = Counter()
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is held, so that its id stays its own
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, int]] = []

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made_by[id(output)] = (module, output)
            del uses.count[id(output)]  # the uses of a tensor that is gone and had the same id
        elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], module, id(inputs[0])))

    plain = [module for module in network.modules() if _is_plain(module)]
    with ExitStack() as hooks, _Uses() as uses:
        for module in plain:
            hooks.callback(module.register_forward_hook(record).remove)
        logits_of(model, images)
    return [
        (convolution, norm)
        for convolution, norm, between in pairs
        if calls[convolution] == calls[norm] == uses.count[between] == 1
    ]


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is a convolution or a batch norm with running statistics and nothing else besides."""
    own = module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module)
    if own or type(module) not in (nn.Conv2d, nn.BatchNorm2d):
        return False
    return not isinstance(module, nn.BatchNorm2d) or module.running_mean is not None


@contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """While this is active, the batch norms of `pairs` do nothing and the convolutions before them do their work."""
    try:
        for convolution, norm in pairs:
            vars(convolution)["forward"] = _Folded(convolution, *folded_weights(convolution, norm))
            vars(norm)["forward"] = _Nothing()
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


class _Folded(Stand):
    """A convolution that does the work of its batch norm as well."""

    def __init__(self, convolution: nn.Conv2d, weight: Tensor, bias: Tensor):
        self.convolution, self.weight, self.bias = convolution, weight, bias

    def __call__(self, images: Tensor) -> Tensor:
        output: Tensor = self.convolution._conv_forward(images, self.weight, self.bias)
        return output


class _Nothing(Stand):
    """A batch norm whose work is done."""

    def __call__(self, images: Tensor) -> Tensor:
        return images
