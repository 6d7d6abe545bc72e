"""The names, shapes and dtypes of a network's weights, found out without memory for them, against those of a file."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry
from torch.overrides import TorchFunctionMode

from ..adapters.robustbench import build_model
from ..short import short


class Spec(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {short(self.shape)}"


def check_fits(architecture: str, arguments: Mapping[str, Any], num_classes: int, weights: Mapping[str, Spec]) -> None:
    """Raise unless an architecture with these arguments has exactly these weights; nothing of their size is allocated.

    Args:
        architecture: see `build_model`.
        arguments: of the architecture.
        num_classes: number of logits.
        weights: what there is, by its names in the state dict.

    Raises:
        ValueError: the architecture does not take these arguments, or it has other weights or another number of logits.
    """
    unfit = f"the weights do not fit architecture {architecture!r}: "
    tensors, values = len(weights), sum(math.prod(spec.shape) for spec in weights.values())
    too_large = f"{unfit}with arguments={short(arguments)} it is larger than {tensors} tensors with {values} values"
    with _bounded(tensors, values, too_large), _WithoutMemory():
        network = build_model(architecture, arguments)
    needed = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    for name, spec in needed.items():
        if name not in weights:
            raise ValueError(f"{unfit}{name!r} is missing")
        if weights[name] != spec:
            raise ValueError(f"{unfit}{name!r} is {weights[name]}; {spec} is needed")
    for name in weights:
        if name not in needed:
            raise ValueError(f"{unfit}it has no {short(name)}")
    *_, last = network.parameters()
    if last.shape[0] != num_classes:
        raise ValueError(f"num_classes={short(num_classes)} does not fit the weights, which have {last.shape[0]}")


_FACTORIES = {
    torch.empty,
    torch.empty_permuted,
    torch.empty_strided,
    torch.eye,
    torch.full,
    torch.normal,
    torch.ones,
    torch.rand,
    torch.randint,
    torch.randn,
    torch.zeros,
}


class _WithoutMemory(TorchFunctionMode):
    """Puts new weights on the meta device, where they have a shape and no values.

    Not everything, as `with torch.device("meta")` does: some architectures compute with numbers that they take out of
    small tensors made by `linspace` or `arange`.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES:
            options["device"] = "meta"
        return func(*args, **options)


@contextmanager
def _bounded(tensors: int, values: int, too_large: str) -> Iterator[None]:
    """Stop a network of this thread that grows beyond what so many tensors with so many values in all can be.

    The factors leave room for what is no part of the state, replaced while the network is built, or without weights.

    Raises:
        ValueError: it does; `too_large` is the sentence.
    """
    left = {"tensors": 2 * tensors + 100, "values": 2 * values + 100_000, "modules": 20 * tensors + 1000}
    thread = threading.get_ident()

    def spend(kind: str, amount: int) -> None:
        left[kind] -= amount
        if left[kind] < 0:
            raise ValueError(too_large)

    def count_tensor(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if threading.get_ident() == thread and tensor is not None:
            spend("tensors", 1)
            spend("values", tensor.numel())

    def count_module(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        if threading.get_ident() == thread:
            spend("modules", 1)

    with ExitStack() as stack:
        for register, hook in (
            (registry.register_module_parameter_registration_hook, count_tensor),
            (registry.register_module_buffer_registration_hook, count_tensor),
            (registry.register_module_module_registration_hook, count_module),
        ):
            stack.callback(register(hook).remove)
        try:
            yield
        except ValueError:
            if min(left.values()) < 0:
                raise ValueError(too_large) from None
            raise
