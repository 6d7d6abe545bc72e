"""A network for the attack: new module objects over the caller's own weights, so that the caller's are never touched.

As `torch.nn.DataParallel` makes its replicas: every module is a new object of the same class, its parameters are the
caller's own memory without a gradient, its buffers the caller's own. What it is told (eval mode, hooks, another memory
layout, a folded batch norm) the caller's network never hears of, so that nothing has to be put back, also when other
threads use the network meanwhile.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

T = TypeVar("T")
_originals: WeakKeyDictionary[nn.Module, ref[nn.Module]] = WeakKeyDictionary()


class CannotReplicate(Exception):
    """A network of which no replica can be made."""


def replicate(network: nn.Module) -> nn.Module:
    """Return a replica of a network, in eval mode, all of whose modules are new and whose tensors are the caller's own.

    It follows weights that are changed in place, as optimizers do; make it anew for every batch, it takes a millisecond.

    Args:
        network: the network.

    Raises:
        CannotReplicate: a scripted network, or one that has no `__dict__` to copy.
    """
    replicas: dict[int, nn.Module] = {}
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CannotReplicate(f"{type(module).__name__} is scripted")
        replicas[id(module)] = type(module).__new__(type(module))
    for module in network.modules():
        replica = replicas[id(module)]
        vars(replica).update({name: _repointed(value, replicas) for name, value in vars(module).items()})
        vars(replica)["_parameters"] = {name: _frozen(value) for name, value in module._parameters.items()}
        vars(replica)["_buffers"] = dict(module._buffers)
        vars(replica)["training"] = False
        _originals[replica] = ref(module)
    return replicas[id(network)]


def original_of(module: nn.Module) -> nn.Module:
    """Return the caller's module that a replica stands for; any other module is its own original."""
    found = _originals.get(module)
    return module if found is None else found() or module


def _frozen(parameter: nn.Parameter | None) -> nn.Parameter | None:
    return None if parameter is None else nn.Parameter(parameter.detach(), requires_grad=False)


def _repointed(value: T, replicas: dict[int, nn.Module]) -> T:
    """Return a value in which every reference to a module of the network is one to its replica."""
    if isinstance(value, nn.Module):
        return replicas.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in replicas:
        return MethodType(value.__func__, replicas[id(value.__self__)])
    if type(value) is functools.partial:
        arguments = [_repointed(argument, replicas) for argument in value.args]
        keywords = {name: _repointed(argument, replicas) for name, argument in value.keywords.items()}
        return functools.partial(_repointed(value.func, replicas), *arguments, **keywords)
    if type(value) in (list, tuple, set):
        return type(value)(_repointed(item, replicas) for item in value)
    if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
        copied = value.copy()
        copied.update({key: _repointed(item, replicas) for key, item in value.items()})
        return copied
    return value
