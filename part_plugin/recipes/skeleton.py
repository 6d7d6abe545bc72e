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

from ..short import short
from .architectures import build_network, check_architecture, has_own_head, published_names


class Spec(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {short(self.shape)}"


class Skeleton(NamedTuple):
    """What a network needs, by the names of its state dict."""

    weights: dict[str, Spec]
    published: dict[str, str]
    """How files call weights that have another name there, see `published_names`."""
    classes: int
    """First dimension of its last parameter."""


def skeleton_of(
    architecture: str, arguments: Mapping[str, Any], num_classes: int, most: Mapping[str, Spec] | None = None
) -> Skeleton:
    """Return what a network needs; nothing of its size is allocated.

    Args:
        architecture: see `build_network`.
        arguments: likewise.
        num_classes: likewise.
        most: the network may not be larger than these weights. (Default: any size)

    Raises:
        ValueError: the architecture does not take these arguments, or is larger.
        ImportError: its library is not installed.
    """
    check_architecture(architecture, arguments)  # imports its library before anything is made without memory
    with ExitStack() as stack:
        if most is not None:
            tensors, values = len(most), sum(math.prod(spec.shape) for spec in most.values())
            too_large = (
                f"the weights do not fit architecture {architecture!r}: with arguments={short(arguments)} it is larger "
                f"than {tensors} tensors with {values} values"
            )
            stack.enter_context(_bounded(tensors, values, too_large))
        stack.enter_context(_WithoutMemory())
        network = build_network(architecture, arguments, num_classes)
    weights = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in network.state_dict().items()}
    *_, last = network.parameters()
    return Skeleton(weights, published_names(network), last.shape[0])


def check_fits(architecture: str, arguments: Mapping[str, Any], num_classes: int, weights: Mapping[str, Spec]) -> None:
    """Raise unless an architecture with these arguments has exactly these weights; nothing of their size is allocated.

    Args:
        architecture: see `build_network`.
        arguments: of the architecture.
        num_classes: number of logits.
        weights: what there is, by its names in the state dict.

    Raises:
        ValueError: the architecture does not take these arguments, or it has other weights or another number of logits.
        ImportError: the library of the architecture is not installed.
    """
    needed = skeleton_of(architecture, arguments, num_classes, weights)
    compare_weights(architecture, num_classes, needed, weights, has_own_head(architecture))


def compare_weights(
    architecture: str, num_classes: int, needed: Skeleton, weights: Mapping[str, Spec], head: bool
) -> None:
    """Raise unless `weights` are the `needed` ones.

    Args:
        architecture: for the sentence.
        num_classes: number of logits.
        needed: what the network needs.
        weights: what there is.
        head: whether the network was made for this number of logits; else it is compared with its last weights.

    Raises:
        ValueError: they are not.
    """
    unfit = f"the weights do not fit architecture {architecture!r}: "
    for name, spec in needed.weights.items():
        if name not in weights:
            raise ValueError(f"{unfit}{name!r} is missing")
        there = weights[name]
        if there != spec and head and there.shape and spec.shape[:1] == (num_classes,) != there.shape[:1]:
            raise ValueError(f"num_classes={num_classes} does not fit the weights, whose {name!r} has {there.shape[0]}")
        if there != spec:
            raise ValueError(f"{unfit}{name!r} is {there}; {spec} is needed")
    for name in weights:
        if name not in needed.weights:
            raise ValueError(f"{unfit}it has no {short(name)}")
    if not head and needed.classes != num_classes:
        raise ValueError(f"num_classes={short(num_classes)} does not fit the weights, which have {needed.classes}")


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
        elif _size(func, args) > _LARGEST:
            raise ValueError(f"it computes tables of more than {_LARGEST} numbers")
        return func(*args, **options)


_LARGEST = 1 << 26  # of a table that is computed while a network is built, such as the relative positions of windows
_PRODUCTS = {torch.meshgrid, torch.cartesian_prod, torch.outer, torch.einsum, torch.kron, torch.matmul}


def _size(func: Callable[..., Any], args: Sequence[Any]) -> int:
    """Return how many values `func` may give for `args`, of which those on the meta device take no memory."""
    if func in (torch.arange, torch.linspace):
        return max((abs(int(one)) for one in args if isinstance(one, (int, float))), default=0)
    flat = [one for arg in args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]
    shapes = [one.shape for one in flat if isinstance(one, Tensor) and not one.is_meta]
    if func not in _PRODUCTS:
        try:
            return math.prod(torch.broadcast_shapes(*shapes))
        except RuntimeError:  # such as those of cat
            return sum(math.prod(shape) for shape in shapes)
    return math.prod(math.prod(shape) for shape in shapes)


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
