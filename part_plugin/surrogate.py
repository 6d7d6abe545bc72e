"""The model as the attack sees it: in eval mode, with gradients, cheaper, and afterwards as it was before."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

FAST = ("fold", "compile", "bfloat16", "float16")
"""What `fast` may ask for; each makes the attack's gradients approximate.

fold: batch norm is folded into the convolution before it, in place and anew for every batch;
compile: a copy of the network goes through `torch.compile` and gets the weights anew for every batch. The first batch
    takes a minute longer; shorter batches are filled up instead of compiled for;
bfloat16, float16: the attack's forward passes run under autocast.
"""


class ModelView(nn.Module):
    """A network behind its input normalisation: `view(images)` is `module(preprocess(images))`.

    Lets a map and an attack work in the images' own units on a network that wants other ones.
    """

    def __init__(self, module: nn.Module, preprocess: Callable[[Tensor], Tensor] | None = None):
        super().__init__()
        self.module = module
        self.preprocess = preprocess

    def forward(self, images: Tensor) -> Any:
        """Return what the network makes of images (N, C, H, W)."""
        return self.module(images if self.preprocess is None else self.preprocess(images))


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits (N, K) of a model whose output is a tensor, a tuple or has a field `logits`."""
    output = model(images)
    if isinstance(output, dict) and "logits" in output:
        output = output["logits"]
    elif isinstance(getattr(output, "logits", None), Tensor):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(images):
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the model's output is {found}; logits of shape ({len(images)}, K) are needed")
    return output


def without_replicas(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel or DistributedDataParallel.

    An attack through the wrapper would broadcast buffers at every step.
    """
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return the network under replicas and `torch.compile`, on whose submodules hooks do fire."""
    if isinstance(model, ModelView):
        return ModelView(without_wrappers(model.module), model.preprocess)
    model = without_replicas(model)
    compiled_from = getattr(model, "_orig_mod", None)
    return model if compiled_from is None else without_wrappers(compiled_from)


def network_of(model: nn.Module) -> nn.Module:
    """Return the innermost network: the one in which target layers are named."""
    model = without_wrappers(model)
    return network_of(model.module) if isinstance(model, ModelView) else model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode with gradients on, also inside `no_grad` and `inference_mode`.

    On the way out, with or without an exception, every submodule is in the mode it was in.
    Nothing else needs restoring, because the package only ever takes gradients with
    `torch.autograd.grad`, which fills no `.grad`, and eval mode updates no buffer.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise RuntimeError(
            "the model's weights were created under inference_mode, so nothing can be differentiated: "
            "create or load the model outside it (Lightning: Trainer(inference_mode=False))"
        )
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Take from every pass what nobody reads or needs, exactly; everything is put back on the way out.

    Parameters ask for no gradient, as the attack wants that of the image alone. On a CPU the weights
    of convolutions lie channels-last meanwhile, for which its kernels are faster: the same
    arithmetic, summed in another order.
    """
    saved = [(parameter, parameter.data, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, data, _ in saved:
            parameter.requires_grad_(False)
            if data.dim() == 4 and data.device.type == "cpu":
                parameter.data = data.contiguous(memory_format=torch.channels_last)
        yield
    finally:
        for parameter, data, requires_grad in saved:
            parameter.data = data
            parameter.requires_grad_(requires_grad)


def check_fast(fast: str | Sequence[str]) -> tuple[str, ...]:
    """Return `fast` as a tuple of known options; ValueError for others, or for two precisions at once."""
    options = (fast,) if isinstance(fast, str) else tuple(fast)
    for option in options:
        if option not in FAST:
            raise ValueError(f"fast holds {option!r}; choose from {', '.join(map(repr, FAST))}")
    if {"bfloat16", "float16"} <= set(options):
        raise ValueError("fast holds 'bfloat16' and 'float16'; choose one")
    return options


@contextmanager
def sped_up(model: nn.Module, images: Tensor, fast: Sequence[str]) -> Iterator[nn.Module]:
    """Yield what to attack in place of a frozen `model` in eval mode, with the options of `FAST`."""
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


Pair = tuple[nn.Module, nn.Module]
_pairs: WeakKeyDictionary[nn.Module, list[Pair]] = WeakKeyDictionary()


def foldable_pairs(model: nn.Module, images: Tensor) -> list[Pair]:
    """Return the (convolution, batch norm) pairs that can be folded without changing the logits.

    Found by watching one forward pass: what leaves a convolution enters a batch norm, and both are
    called once. That says nothing of other uses of the convolution's output, so each pair is folded
    on trial and dropped if the logits move by more than rounding. The answer is remembered.
    """
    network = network_of(model)
    if network not in _pairs:
        sample = images[:2].detach()
        with torch.no_grad():
            candidates = _adjacent(model, network, sample)
            exact = logits_of(model, sample)
            _pairs[network] = [pair for pair in candidates if _harmless(model, sample, exact, pair)]
        if not _pairs[network]:
            logger.warning("fast='fold' finds nothing to fold in %s; it runs without", type(network).__name__)
    return _pairs[network]


def _adjacent(model: nn.Module, network: nn.Module, images: Tensor) -> list[Pair]:
    calls: list[nn.Module] = []
    made_by: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is held, so that its id stays its own
    pairs: list[Pair] = []

    def watch(module: nn.Module, inputs: tuple, output: Any) -> None:
        calls.append(module)
        if isinstance(module, nn.BatchNorm2d):
            if id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])][0], module))
        else:
            made_by[id(output)] = (module, output)

    with ExitStack() as hooks:
        for module in network.modules():
            if type(module) in (nn.Conv2d, nn.BatchNorm2d):
                hooks.callback(module.register_forward_hook(watch).remove)
        model(images)
    return [pair for pair in pairs if all(calls.count(module) == 1 for module in pair) and pair[1].track_running_stats]


def _harmless(model: nn.Module, images: Tensor, exact: Tensor, pair: Pair) -> bool:
    with folded([pair]):
        moved = (logits_of(model, images) - exact).abs().max()
    return bool(moved <= 1e-4 * exact.abs().max())


@contextmanager
def folded(pairs: Sequence[Pair]) -> Iterator[None]:
    """While this is active, the batch norms do nothing and the convolutions before them do their work."""
    try:
        for convolution, norm in pairs:
            convolution.forward = _convolve(convolution, *_folded_weights(convolution, norm))
            norm.forward = _identity
        yield
    finally:
        for module in (module for pair in pairs for module in pair):
            vars(module).pop("forward", None)


@torch.no_grad()
def _folded_weights(convolution: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that does the work of both."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale if norm.bias is None else norm.bias - norm.running_mean * scale
    bias = shift if convolution.bias is None else shift + convolution.bias * scale
    return convolution.weight * scale[:, None, None, None], bias


def _convolve(convolution: nn.Module, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: convolution._conv_forward(images, weight, bias)


def _identity(images: Tensor) -> Tensor:
    return images


class _CompiledCopy(nn.Module):
    """A copy of a network for `torch.compile`: nothing of the caller's is touched, and no hook stands in the way."""

    def __init__(self, network: nn.Module, pairs: Sequence[Pair]):
        super().__init__()
        names = {module: name for name, module in network.named_modules()}
        self.pairs = [(names[convolution], names[norm]) for convolution, norm in pairs]
        self.copy = copy.deepcopy(network)
        for convolution, norm in self.pairs:
            folded = self.copy.get_submodule(convolution)
            folded.bias = nn.Parameter(folded.weight.new_empty(folded.out_channels), requires_grad=False)
            parent, _, name = norm.rpartition(".")
            setattr(self.copy.get_submodule(parent), name, nn.Identity())
        self.run = torch.compile(self.copy, dynamic=False)
        self.rows = 0

    @torch.no_grad()
    def refresh(self, network: nn.Module) -> None:
        """Take over the weights, which have changed since the last batch."""
        source = dict(network.named_parameters()) | dict(network.named_buffers())
        folded = {}
        for convolution, norm in self.pairs:
            weight, bias = _folded_weights(network.get_submodule(convolution), network.get_submodule(norm))
            folded |= {f"{convolution}.weight": weight, f"{convolution}.bias": bias}
        for name, tensor in (*self.copy.named_parameters(), *self.copy.named_buffers()):
            tensor.copy_(folded[name] if name in folded else source[name])

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; those without a gradient to follow, of which there are few, are not compiled for."""
        if not images.requires_grad:
            return logits_of(self.copy, images)
        rows = len(images)
        self.rows = max(self.rows, rows)
        if rows < self.rows:  # a network in eval mode does not care what else is in the batch
            images = torch.cat([images, images[-1:].detach().expand(self.rows - rows, *images.shape[1:])])
        return logits_of(self.run, images)[:rows]


_compiled: WeakKeyDictionary[nn.Module, dict[tuple, _CompiledCopy | None]] = WeakKeyDictionary()


def _compiled_copy(model: nn.Module, images: Tensor, pairs: Sequence[Pair]) -> _CompiledCopy | None:
    """Return the copy of the network that is compiled for such images, with today's weights; None if it cannot be."""
    network = network_of(model)
    copies = _compiled.setdefault(network, {})
    key = (images.shape[1:], images.dtype, images.device, len(pairs))
    if key not in copies:
        copies[key] = None
        try:
            made = _CompiledCopy(network, pairs)
            made.refresh(network)
            view = ModelView(made, model.preprocess) if isinstance(model, ModelView) else made
            sample = images[: rows_at_once(model, images)].detach().clone().requires_grad_()
            torch.autograd.grad(view(sample).sum(), sample)
            copies[key] = made
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            logger.warning("fast='compile' fails for %s (%s); it runs without", type(network).__name__, reason)
    elif copies[key] is not None:
        copies[key].refresh(network)
    return copies[key]


VALUES_AT_ONCE = 2**20


def rows_at_once(model: nn.Module, images: Tensor) -> int:
    """Return how many rows of a batch to attack at a time: all of them, but on a CPU what its memory is fast for.

    The activations of a large batch are more than the C library keeps for reuse: every step asks the system for fresh
    pages, at a third of its time and more (benchmarks/speedups.py). So the largest activation of a part has no more
    than `VALUES_AT_ONCE` values: 64 images of 32x32 in a ResNet-18 of width 16, 16 at width 64.
    """
    if images.device.type != "cpu":
        return len(images)
    return max(1, VALUES_AT_ONCE // _largest_activation(model, images))


_largest: WeakKeyDictionary[nn.Module, dict[torch.Size, int]] = WeakKeyDictionary()


def _largest_activation(model: nn.Module, images: Tensor) -> int:
    """Return how many values one image has at most, as it is or after any module; remembered."""
    network, size = network_of(model), images.shape[1:]
    by_size = _largest.setdefault(network, {})
    if size not in by_size:
        values = [size.numel()]

        def watch(module: nn.Module, inputs: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                values.append(output.numel())

        with ExitStack() as hooks, undisturbed(model), torch.no_grad():
            for module in network.modules():
                if not isinstance(module, torch.jit.ScriptModule):  # those take no hooks
                    hooks.callback(module.register_forward_hook(watch).remove)
            without_wrappers(model)(images[:1].detach().clone())
        by_size[size] = max(values)
    return by_size[size]


def in_parts(run: Callable[[slice], Any], model: nn.Module, images: Tensor) -> list:
    """Call `run` on the rows of `images`, so many at once, and return its results; rows must not depend on others."""
    return within_memory(run, len(images), rows_at_once(model, images))


def within_memory(run: Callable[[slice], Any], rows: int, size: int | None = None) -> list:
    """Call `run` on rows 0 to `rows`, `size` at a time, or in ever smaller parts while memory runs out."""
    results, first, size = [], 0, min(size or rows, rows)
    while first < rows:
        try:
            results.append(run(slice(first, min(first + size, rows))))
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not _out_of_memory(error):
                raise
            size = (size + 1) // 2
        else:
            first += size
    return results


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return "can't allocate memory" in str(error)  # what torch says on a CPU


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Put `.grad` of every parameter back on the way out, for toolkits that call `backward`."""
    saved = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in saved:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in saved:
            parameter.grad = gradient
