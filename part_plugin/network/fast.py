"""Options that make the attack on a frozen network cheaper and its gradients approximate."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from .batching import rows_at_once
from .fold import Pair, foldable_pairs, folded, folded_weights
from .memory import Memory
from .sharding import is_sharded
from .view import ModelView, logits_of, network_of

logger = logging.getLogger(__name__)

FAST = ("fold", "compile", "bfloat16", "float16")
"""What `fast` may ask for; each makes the attack's gradients approximate.

fold: batch norm is folded into the convolution before it, in place and anew for every batch;
compile: a copy of the network goes through `torch.compile` and gets the weights anew for every batch. The first batch
    takes a minute longer; shorter batches are filled up instead of compiled for;
bfloat16, float16: the attack's forward passes run under autocast.
"""


def check_fast(fast: str | Sequence[str]) -> tuple[str, ...]:
    """Return `fast` as a tuple of options.

    Raises:
        TypeError: neither a name nor several.
        ValueError: an option that is not one of `FAST`, or two precisions at once.
    """
    if not isinstance(fast, (str, list, tuple, set, frozenset)):
        names = ", ".join(map(repr, FAST))
        raise TypeError(f"fast={fast!r} is a {type(fast).__name__}; some of {names} in a tuple are needed, or ()")
    options = (fast,) if isinstance(fast, str) else tuple(fast)
    for option in options:
        if option not in FAST:
            raise ValueError(f"fast holds {option!r}; choose from {', '.join(map(repr, FAST))}")
    if {"bfloat16", "float16"} <= set(options):
        raise ValueError("fast holds 'bfloat16' and 'float16'; choose one")
    return options


@contextmanager
def accelerated(model: nn.Module, images: Tensor, fast: Sequence[str]) -> Iterator[nn.Module]:
    """Yield what to attack in place of a frozen `model` in eval mode.

    Args:
        model: the network.
        images: those that are to be attacked, (N, C, H, W).
        fast: options of `FAST`.

    Raises:
        ValueError: "fold" for weights that are sharded.
    """
    if "fold" in fast and is_sharded(model):
        raise ValueError("fast='fold' does not go with weights that fully_shard has spread over ranks; leave it out")
    with ExitStack() as stack:
        pairs = foldable_pairs(model, images) if "fold" in fast else []
        compiled = _compiled_copy(model, images, pairs) if "compile" in fast else None
        if compiled is not None:
            model = ModelView(compiled, model.preprocess) if isinstance(model, ModelView) else compiled
        elif pairs:
            stack.enter_context(folded(pairs))
        precision = next((getattr(torch, name) for name in ("bfloat16", "float16") if name in fast), None)
        yield model if precision is None else _Autocast(model, precision)


class _Autocast(ModelView):
    def __init__(self, module: nn.Module, dtype: torch.dtype):
        super().__init__(module)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self.dtype):
            logits = logits_of(self.module, images)
        return logits.float()


class _CompiledCopy(nn.Module):
    """A copy of a network for `torch.compile`: nothing of the caller's is touched, and no hook stands in the way."""

    def __init__(self, network: nn.Module, pairs: Sequence[Pair]):
        super().__init__()
        names = {module: name for name, module in network.named_modules()}
        self.copy = copy.deepcopy(network)
        self.convolutions = [names[convolution] for convolution, _ in pairs]
        for convolution, norm in pairs:
            bias = nn.Parameter(convolution.weight.new_empty(convolution.out_channels), requires_grad=False)
            self.copy.get_submodule(names[convolution]).register_parameter("bias", bias)
            parent, _, name = names[norm].rpartition(".")
            setattr(self.copy.get_submodule(parent), name, nn.Identity())
        self.run = torch.compile(self.copy, dynamic=False)
        self.rows = 0

    @torch.no_grad()
    def refresh(self, network: nn.Module, pairs: Sequence[Pair]) -> None:
        """Take over the weights, which have changed since the last batch."""
        source: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        for name, pair in zip(self.convolutions, pairs, strict=True):
            source[f"{name}.weight"], source[f"{name}.bias"] = folded_weights(*pair)
        for name, tensor in (*self.copy.named_parameters(), *self.copy.named_buffers()):
            tensor.copy_(source[name])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; those without a gradient to follow, of which there are few, are not compiled for."""
        if not images.requires_grad:
            return logits_of(self.copy, images)
        rows = len(images)
        self.rows = max(self.rows, rows)
        if rows < self.rows:  # a network in eval mode does not care what else is in the batch
            images = torch.cat([images, images[-1:].detach().expand(self.rows - rows, *images.shape[1:])])
        return logits_of(self.run, images)[:rows]


_compiled: Memory[_CompiledCopy | None] = Memory()


def _compiled_copy(model: nn.Module, images: Tensor, pairs: Sequence[Pair]) -> _CompiledCopy | None:
    """Return the copy of the network that is compiled for such images, with today's weights; None if it cannot be."""
    network = network_of(model)

    def compiled() -> _CompiledCopy | None:
        try:
            made = _CompiledCopy(network, pairs)
            made.refresh(network, pairs)
            view = ModelView(made, model.preprocess) if isinstance(model, ModelView) else made
            sample = images[: rows_at_once(model, images)].detach().clone().requires_grad_()
            torch.autograd.grad(view(sample).sum(), sample)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("fast='compile' fails for %s (%s); it runs without", type(network).__name__, reason)
            return None
        return made

    copied = _compiled.recall(network, (images.shape[1:], images.dtype, images.device, len(pairs)), compiled)
    if copied is not None:
        copied.refresh(network, pairs)
    return copied
