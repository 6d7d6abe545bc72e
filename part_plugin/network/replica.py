"""A network for the attack: new module objects over the caller's own weights, so that the caller's are never touched.

As `torch.nn.DataParallel` makes its replicas: every module is a new object of the same class, its parameters are the
caller's own memory without a gradient, and so are its buffers. What a replica is told (eval mode, hooks, a folded
batch norm, another memory layout) the caller's network never hears of, so that nothing has to be put back, also when
other threads use the network meanwhile. (`data` rather than `detach`, whose count of changes autograd compares: a
thread that trains the network would make backward passes of those that attack it fail.)
"""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from .memory import Memory, form_of, mark_replica
from .sharding import is_sharded
from .view import compiled_from

_OWN = frozenset(vars(nn.Module()))  # what every module has of its own: hooks, submodules, modes
_separable: Memory[bool] = Memory()


class _CalledInto(BaseException):
    """A replica called a module of the network itself."""


def replicate(network: nn.Module, channels_last: bool = False) -> nn.Module:
    """Return a replica of a network, in eval mode, all of whose modules are new and whose tensors are the caller's own.

    It follows weights that are changed in place, as optimizers do; make it anew for every batch, in a millisecond. Of
    what went through `torch.compile` it holds what that was made of.

    Args:
        network: the network, for which `is_separable`.
        channels_last: whether convolutions on a CPU get channels-last copies of their weights, which its kernels
            are faster for: the same arithmetic, summed in another order.
    """
    plain = [module for module in network.modules() if compiled_from(module) is None]
    replicas = {id(module): object.__new__(type(module)) for module in plain}
    for module in network.modules():
        replicas[id(module)] = replicas[id(_uncompiled(module))]
    for module in plain:
        own = {name: _repointed(value, replicas, name in _OWN) for name, value in vars(module).items()}
        own["_parameters"] = {name: _frozen(value, channels_last) for name, value in module._parameters.items()}
        own["_buffers"] = {name: buffer if buffer is None else buffer.data for name, buffer in module._buffers.items()}
        own["training"], own["_compiled_call_impl"] = False, None
        for name in ("train", "eval"):  # of exported networks they refuse; there is but one mode here
            own.pop(name, None)
        vars(replicas[id(module)]).update(own)
        mark_replica(replicas[id(module)], module)
    mark_replica(replicas[id(network)], network, form_of(network))
    return replicas[id(network)]


def is_separable(network: nn.Module, run: Callable[[nn.Module], Any]) -> bool:
    """Return whether a replica never calls a module of the network itself; remembered until the network changes.

    It does where the forward pass is a closure over the network. Scripted modules have no replicas, nor those whose
    weights are sharded, which their own hooks bring together.

    Args:
        network: the network, which nobody changes meanwhile.
        run: makes one forward pass through a replica.
    """
    if is_sharded(network) or any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        return False
    return _separable.recall(network, None, lambda: not _calls_into(network, run))


def _calls_into(network: nn.Module, run: Callable[[nn.Module], Any]) -> bool:
    here, theirs = threading.get_ident(), set(map(id, network.modules()))

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if threading.get_ident() == here and id(module) in theirs:
            raise _CalledInto  # before it runs: in training mode it would change its batch-norm statistics

    handle = register_module_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            run(replicate(network))
    except _CalledInto:
        return True
    finally:
        handle.remove()
    return False


def _uncompiled(module: nn.Module) -> nn.Module:
    raw = compiled_from(module)
    return module if raw is None else _uncompiled(raw)


def _frozen(parameter: nn.Parameter | None, channels_last: bool) -> nn.Parameter | None:
    if parameter is None:
        return None
    data = parameter.data
    return nn.Parameter(laid_out(data) if channels_last else data, requires_grad=False)


def laid_out(weight: Tensor) -> Tensor:
    """Return a weight of a convolution on a CPU channels-last, for which its kernels are faster, any other as it is."""
    if weight.dim() == 4 and weight.device.type == "cpu" and type(weight) is Tensor:
        return weight.contiguous(memory_format=torch.channels_last)
    return weight


def _repointed(value: Any, replicas: dict[int, nn.Module], copied: bool = False) -> Any:
    """Return a value in which every reference to a module of the network is one to its replica.

    A list or dictionary without any stays the caller's own, which a forward pass may write to, unless `copied`.
    """
    if isinstance(value, nn.Module):
        return replicas.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in replicas:
        return MethodType(value.__func__, replicas[id(value.__self__)])
    if type(value) is functools.partial:
        arguments = [_repointed(argument, replicas) for argument in value.args]
        keywords = {name: _repointed(argument, replicas) for name, argument in value.keywords.items()}
        return functools.partial(_repointed(value.func, replicas), *arguments, **keywords)
    if type(value) in (list, tuple, set):
        items = [_repointed(item, replicas) for item in value]
        return type(value)(items) if copied or any(map(operator.is_not, items, value)) else value
    if isinstance(value, dict):
        changed = {key: _repointed(item, replicas) for key, item in value.items()}
        if copied or any(changed[key] is not item for key, item in value.items()):
            value = value.copy()
            value.update(changed)
    return value
