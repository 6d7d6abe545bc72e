"""The caller's network while it is attacked: a replica of it, or itself in eval mode and afterwards as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .checkpointing import not_reentrant
from .memory import original_of
from .replica import is_separable, laid_out, replicate
from .sharding import resharded
from .uncompiled import uncompiled
from .view import ModelView, is_compiled, network_of, without_replicas

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making_locks = threading.Lock()


@contextmanager
def isolated(
    model: nn.Module, images: Tensor, channels_last: bool = False, compiled: bool = True
) -> Iterator[nn.Module]:
    """Yield what to attack in place of `model`, with gradients on, also inside `no_grad` and `inference_mode`.

    That is a replica, so that the caller's network is never touched, not even while other threads use it. A network
    that has none, and one that went through `torch.compile`, whose replica would be slow, is attacked itself, in eval
    mode, by one thread at a time, and is afterwards as it was.

    Args:
        model: a network, or a view of one.
        images: (N, C, H, W), one of which is sent through the network to see whether it has a replica.
        channels_last: see `replicate`.
        compiled: whether what went through `torch.compile` runs so; hooks on its layers want it to run as it was.

    Raises:
        RuntimeError: weights that were created under `inference_mode`.
    """
    model = without_replicas(model)
    network = network_of(model)
    _check_weights(network)
    with not_reentrant():
        if original_of(network) is not network:
            with torch.inference_mode(False), torch.enable_grad():
                yield model
            return
        with lock_of(network):  # nobody else changes it now, so what is found out and replicated is the caller's
            replica = None if compiled and is_compiled(model) else _replica(model, network, images, channels_last)
            if replica is None:
                scripted = isinstance(model, torch.jit.ScriptModule)  # takes no hooks, so what is around it does
                plain = nullcontext() if compiled else uncompiled()
                with resharded(model), eval_mode(model), frozen(model) if channels_last else nullcontext(), plain:
                    yield ModelView(model) if scripted else model
                return
        with torch.inference_mode(False), torch.enable_grad():
            yield replica


def _replica(model: nn.Module, network: nn.Module, images: Tensor, channels_last: bool) -> nn.Module | None:
    """Return a view like `model` of a replica of its network; None if that has none."""
    with torch.inference_mode(False):
        first = images[:1].detach().clone()
        if not is_separable(network, lambda replica: _seen_like(model, replica)(first)):
            return None
        return _seen_like(model, replicate(network, channels_last))


@contextmanager
def callers_own(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the caller's own network that `model` is or stands for, for code that may hold it by itself.

    It is in eval mode, with gradients that are put back, and for one thread at a time.
    """
    network = original_of(network_of(model))
    with lock_of(network), eval_mode(network), gradients_kept(network):
        yield _seen_like(model, network)


def lock_of(network: nn.Module) -> threading.RLock:
    """Return the lock that those hold who change `network` for a while."""
    with _making_locks:
        return _locks.setdefault(network, threading.RLock())


def _seen_like(model: nn.Module, network: nn.Module) -> nn.Module:
    """Return a view of `network` like that which `model` is of its own."""
    return ModelView(_seen_like(model.module, network), model.preprocess) if isinstance(model, ModelView) else network


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put `model` in eval mode with gradients on, also inside `no_grad` and `inference_mode`.

    On the way out, with or without an exception, every submodule is in the mode it was in.
    Nothing else needs restoring, because the package only ever takes gradients with
    `torch.autograd.grad`, which fills no `.grad`, and eval mode updates no buffer.

    Raises:
        RuntimeError: weights that were created under `inference_mode`.
    """
    _check_weights(model)
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        model.eval()
        with torch.inference_mode(False), torch.enable_grad():
            yield model
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take from every pass through `model` what nobody reads or needs, exactly, and put it back on the way out.

    Parameters ask for no gradient, as the attack wants that of the image alone. On a CPU the weights
    of convolutions lie channels-last meanwhile, for which its kernels are faster: the same
    arithmetic, summed in another order.
    """
    saved = [(parameter, parameter.requires_grad, parameter.data) for parameter in model.parameters()]
    relaid = [(parameter, data, new) for parameter, _, data in saved if (new := laid_out(data)) is not data]
    try:
        for parameter, _, _ in saved:
            parameter.requires_grad_(False)
        for parameter, _, new in relaid:
            parameter.data = new
        yield
    finally:
        for parameter, data, _ in relaid:
            parameter.data = data
        for parameter, requires_grad, _ in saved:
            parameter.requires_grad_(requires_grad)


@contextmanager
def gradients_kept(model: nn.Module) -> Iterator[None]:
    """Put `.grad` of every parameter of `model` back on the way out, for toolkits that call `backward`."""
    saved = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in saved:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in saved:
            parameter.grad = gradient


@contextmanager
def structure_kept(model: nn.Module) -> Iterator[None]:
    """Put submodules and hooks of `model` back on the way out, for toolkits that replace and hook layers."""
    kinds = ("_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    saved = [(kept := getattr(module, kind), kept.copy()) for module in model.modules() for kind in kinds]
    try:
        yield
    finally:
        for kept, before in saved:
            if kept != before:
                kept.clear()
                kept.update(before)


def _check_weights(model: nn.Module) -> None:
    """Raise if nothing can be differentiated.

    Raises:
        RuntimeError: weights that were created under `inference_mode`.
    """
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise RuntimeError(
            "the model's weights were created under inference_mode, so nothing can be differentiated: "
            "create or load the model outside it (Lightning: Trainer(inference_mode=False))"
        )
