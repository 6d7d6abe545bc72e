"""Networks and tasks as bytes for another process, which must be able to make them again."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import pickle
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

_NETWORK = "network"


class StaysHere(Exception):
    """Something cannot be sent to another process; the text says why."""


def packed(thing: Any, network: nn.Module | None = None) -> bytes:
    """Return anything as bytes that `unpacked` makes it of in another process.

    What a script or a notebook defines itself, lambdas and classes within functions travel where cloudpickle is
    installed; a scripted network travels as torch.jit.save writes it.

    Args:
        thing: what is to be sent.
        network: what the other process has already; it is only named.

    Raises:
        StaysHere: it cannot be sent.
    """
    try:
        data = _pickled(_Pickler, thing, network)
        reason = "it is defined in __main__" if b"__main__" in data else None
    except Exception as error:  # whatever its parts raise when they are pickled
        reason = _told(error)
    if reason is None:
        return data
    if importlib.util.find_spec("cloudpickle") is None:
        raise StaysHere(f"{reason}; pip install cloudpickle, or define it in a module of its own")
    try:
        return _pickled(_by_value(), thing, network)
    except Exception as error:
        raise StaysHere(_told(error)) from error


def packed_network(network: nn.Module) -> bytes:
    """Return a network as bytes; weights that torch's parametrizations compute travel as what they are in eval mode.

    Args:
        network: the caller's.

    Raises:
        StaysHere: it cannot be sent.
    """
    if not any(is_parametrized(module) for module in network.modules()):
        return packed(network)
    try:
        network = copy.deepcopy(network).eval()
        for module in network.modules():
            if is_parametrized(module):
                _fix_weights(module)
    except Exception as error:  # not every network can be copied
        raise StaysHere(_told(error)) from error
    return packed(network)


def unpacked(data: bytes, network: nn.Module | None = None) -> Any:
    """Return what `packed` was given.

    Args:
        data: what it returned, in this very program: it may hold code.
        network: what stands for the one that was only named.
    """
    if b"robustbench" in data:  # which cannot be imported by itself
        importlib.import_module("..adapters.robustbench", __package__)
    unpickler = _Unpickler(io.BytesIO(data))
    unpickler.network = network
    return unpickler.load()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _pickled(kind: Any, thing: Any, network: nn.Module | None) -> bytes:
    file = io.BytesIO()
    pickler = kind(file, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.network = network
    pickler.dump(thing)
    return file.getvalue()


def _fix_weights(module: nn.Module) -> None:
    """Give a copy of a parametrised module its weights as they are (`remove_parametrizations` changes the original)."""
    weights = {name: getattr(module, name).detach().clone() for name in vars(module)["_modules"]["parametrizations"]}
    plain = type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = plain
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight, requires_grad=False))


class _Named:
    """Of a pickler: names the network instead of writing it, and writes what is scripted."""

    network: nn.Module | None = None

    def persistent_id(self, thing: Any) -> str | None:
        return _NETWORK if thing is self.network and thing is not None else None

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, torch.jit.ScriptModule):
            file = io.BytesIO()
            torch.jit.save(thing, file)
            return _scripted, (file.getvalue(),)
        others = getattr(super(), "reducer_override", None)
        return NotImplemented if others is None else others(thing)


class _Pickler(_Named, pickle.Pickler):
    pass


def _by_value() -> Any:
    """Return the pickler of cloudpickle, which writes code that cannot be imported."""
    cloudpickle = importlib.import_module("cloudpickle")
    return type("_ByValue", (_Named, cloudpickle.Pickler), {})


class _Unpickler(pickle.Unpickler):
    network: nn.Module | None = None

    def persistent_load(self, name: str) -> Any:
        return self.network


def _scripted(data: bytes) -> Any:
    return torch.jit.load(io.BytesIO(data))
