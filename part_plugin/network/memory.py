"""What was found out about a network: remembered until the network changes, without keeping it alive."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

Finding = TypeVar("Finding")
_ORIGINAL = "_part_plugin_original"
_FORM = "_part_plugin_form"


class Stand:
    """What hangs on a module as its `forward` for a while and is no change of the network: it computes the same."""


class Memory(Generic[Finding]):
    """Findings about networks, by a key of the finder's; those about a replica are those about its original."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, tuple[Any, dict[Hashable, Finding]]] = WeakKeyDictionary()

    def recall(self, network: nn.Module, key: Hashable, find: Callable[[], Finding]) -> Finding:
        """Return what is remembered of `network` under `key`; what `find` returns, if nothing is or it has changed.

        To find out may take a forward pass, so the global random state is put back after it.
        """
        form = form_of(network)
        known = self._known.get(original_of(network))
        if known is None or known[0] != form:
            known = self._known[original_of(network)] = (form, {})
        findings = known[1]
        if key not in findings:
            with torch.random.fork_rng({p.device for p in network.parameters() if p.is_cuda}):
                findings[key] = find()
        return findings[key]


def form_of(network: nn.Module) -> tuple[Any, ...]:
    """Return what tells a network from itself after a change of its modules, their forward passes, hooks or flags.

    Weights, which change at every step, don't count, nor does the training mode. A replica has the form that its
    original had when it was made.
    """
    form: tuple[Any, ...] | None = vars(network).get(_FORM)
    return tuple(map(_form, network.modules())) if form is None else form


def _form(module: nn.Module) -> tuple[Any, ...]:
    own = vars(module)
    forward = own.get("forward")
    flags = [(name, value) for name, value in own.items() if type(value) in (bool, str) and name != "training"]
    return (
        ref(module),
        id(type(module)),  # its class may be a closure over the network, which nothing here may keep alive
        id(getattr(type(module), "forward", None)),
        None if forward is None or isinstance(forward, Stand) else id(forward),
        tuple(module._forward_pre_hooks),
        tuple(module._forward_hooks),
        tuple(flags),
    )


def mark_replica(replica: nn.Module, original: nn.Module, form: tuple[Any, ...] | None = None) -> None:
    """Note whose replica a module is, and, of a whole network, the original's form."""
    vars(replica)[_ORIGINAL] = ref(original)
    if form is not None:
        vars(replica)[_FORM] = form


def original_of(module: nn.Module) -> nn.Module:
    """Return the caller's module that the replica `module` stands for; any other is its own original."""
    found: ref[nn.Module] | None = vars(module).get(_ORIGINAL)
    return module if found is None else found() or module
