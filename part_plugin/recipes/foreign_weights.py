"""Weights in files of other programs: found in the file, and brought to the names that a network has for them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ..files import StrPath, opened
from ..short import short
from .skeleton import Skeleton, Spec, compare_weights

_WRAPPERS = re.compile(r"^module\.|(?<![^.])(_orig_mod|_fsdp_wrapped_module)\.")
_COUNT = "num_batches_tracked"
_COUNTED = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
_NORMALISATION = {"mean": ("mean", "mu"), "std": ("std", "sigma")}
_SCALAR = np.float64(0).__reduce__()[0]
_PLAIN: Sequence[Any] = (
    argparse.Namespace,  # the command line of a training, as timm keeps it
    *(np.dtype, *{type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?")}),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # an accuracy, say
)


class Found(NamedTuple):
    """Weights by the names of a network, and what was done to get there."""

    weights: dict[str, Tensor]
    mean: list[float] | None
    std: list[float] | None
    notes: list[str]


def read_weights(path: StrPath, key: str | None = None) -> tuple[dict[str, Tensor], list[str], str | None]:
    """Return the weights that a file holds, what there is to say about it, and a key that is left to be looked for.

    Args:
        path: file of safetensors or torch.save; of the latter nothing but plain data is read (weights_only=True).
        key: under which the weights lie, if there are several; or a prefix of their names.

    Raises:
        FileNotFoundError: no such file.
        OSError: no regular file, or it cannot be read.
        ValueError: no weights are found, or several.
    """
    name = f"checkpoint {os.fspath(path)!r}"
    with opened("checkpoint", path) as file:
        content = _content(name, file)
    if not isinstance(content, Mapping):
        raise ValueError(f"{name} holds a {type(content).__name__}; a state_dict is needed, or a dict with one")
    if {"format", "architecture", "state_dict"} <= set(content):
        raise ValueError(f"{name} is one of part_plugin's, which says what it holds; architecture does not go with it")
    if _are_weights(content):
        return dict(content), [], key
    kinds = {one: value for one, value in content.items() if isinstance(value, Mapping) and _are_weights(value)}
    if key in kinds:
        return dict(kinds[key]), [f"weights of {key!r}"], None
    if not kinds:
        keys = ", ".join(map(short, list(content)[:8]))
        raise ValueError(f"{name} holds no state_dict; it has {keys}{' ...' if len(content) > 8 else ''}")
    if len(kinds) > 1:
        wanted = "" if key is None else f", and no {key!r}"
        names = " and ".join(map(short, kinds))
        raise ValueError(f"{name} holds weights under {names}{wanted}; key must name the ones that are meant")
    [(found, weights)] = kinds.items()
    return dict(weights), [f"weights of {found!r}"], key


def _content(name: str, file: BinaryIO) -> Any:
    """Return what a file holds.

    Raises:
        ValueError: it is damaged, or holds more than plain data.
    """
    start = file.read(9)
    file.seek(0)
    try:
        if start[8:] == b"{":
            return safetensors.torch.load(file.read())
        newer = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")  # 2.6, which lets more be named
        with torch.serialization.safe_globals(list(_PLAIN)) if newer else nullcontext():
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both have many for what is damaged
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f" (it names {named[1].rstrip('.,')})" if named else ""
        raise ValueError(
            f"{name} is damaged or holds more than plain data and tensors{reason}; of a network "
            "torch.save(network.state_dict(), path) writes them"
        ) from error


def _are_weights(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(type(one) is str and isinstance(value, Tensor) for one, value in content.items())


def aligned(
    architecture: str,
    num_classes: int,
    needed: Skeleton,
    weights: Mapping[str, Tensor],
    key: str | None = None,
    head: bool = True,
) -> Found:
    """Return weights under the names of a network.

    What `DataParallel`, `torch.compile` and FSDP put before or into names is taken off, and one prefix that they have
    in common, such as that of a LightningModule. A layer that normalises images becomes `mean` and `std`.

    Args:
        architecture: for the sentences.
        num_classes: number of logits.
        needed: what the network needs.
        weights: of a file.
        key: prefix of the names, if several fit.
        head: see `compare_weights`.

    Raises:
        ValueError: something is missing, is too much, or has another shape.
    """
    bare = {_bare(name, needed): name for name in weights}
    notes = []
    if len(bare) < len(weights):
        raise ValueError("weights are there twice, with and without what DataParallel or torch.compile add to names")
    for word in ("module.", "_orig_mod.", "_fsdp_wrapped_module."):
        if any(word in old and word not in new for new, old in bare.items()):
            notes.append(f"{word!r} taken off the names")
    given = {name: weights[old] for name, old in bare.items()}
    prefix, names = _place(architecture, needed, given, key)
    if prefix:
        notes.append(f"{prefix!r} taken off the names")
    found = {own: given[prefix + name] for name, own in names.items() if prefix + name in given}
    left = [name for name in given if name not in {prefix + name for name in names} and name not in _COUNTED]
    normalisation = {} if key is not None else _normalisation(left, given)
    left = [name for name in left if name not in {name for name, _ in normalisation.values()}]
    if key is not None:
        notes += [f"{len(left)} weights left out that are not under {prefix!r}"] if left else []
    elif left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        under = f"; key={prefix.rstrip('.')!r} takes only what is under it" if prefix else ""
        raise ValueError(
            f"the weights do not fit architecture {architecture!r}: it has no {short(left[0])}{more}{under}"
        )
    for own, spec in needed.weights.items():
        if own not in found and own.endswith(_COUNT):  # which old files lack, and only training asks for
            found[own] = torch.zeros(spec.shape, dtype=spec.dtype)
    notes += _cast(needed, found)
    specs = {name: Spec(tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()}
    compare_weights(architecture, num_classes, needed, specs, head)
    mean, std = (normalisation[one][1] if one in normalisation else None for one in ("mean", "std"))
    if mean is not None:
        notes.append(f"normalisation of the file: mean {_numbers(mean)}, std {_numbers(std or [])}")
    return Found(found, mean, std, notes)


def _bare(name: str, needed: Skeleton) -> str:
    return name if name in needed.weights else _WRAPPERS.sub("", _WRAPPERS.sub("", name))


def _place(
    architecture: str, needed: Skeleton, given: Mapping[str, Tensor], key: str | None
) -> tuple[str, dict[str, str]]:
    """Return the prefix under which the weights lie, and {name there: own name}.

    Raises:
        ValueError: there is none, or there are several.
    """
    unfit = f"the weights do not fit architecture {architecture!r}: "
    own = {name: name for name in needed.weights}
    best: tuple[int, str, dict[str, str]] = (0, "", own)
    fitting: dict[str, dict[str, str]] = {}
    for names in [own, needed.published] if needed.published else [own]:
        wanted = [name for name in names if not name.endswith(_COUNT)]
        for prefix in dict.fromkeys(_prefixes(wanted, given)):
            count = sum(prefix + name in given for name in wanted)
            if count == len(wanted) and prefix not in fitting:
                fitting[prefix] = names
            best = max(best, (count, prefix, names), key=lambda one: one[0])
    if key is not None:
        fitting = {prefix: names for prefix, names in fitting.items() if prefix.rstrip(".") == key}
        if not fitting:
            raise ValueError(f"{unfit}under key={key!r} there is no such network")
    if len(fitting) > 1:
        keys = " and ".join(repr(prefix.rstrip(".")) for prefix in fitting)
        raise ValueError(f"the weights hold several networks, under {keys}; key must name the one that is meant")
    if fitting:
        [(prefix, names)] = fitting.items()
        return prefix, names
    _, prefix, names = best
    missing = [name for name in names if prefix + name not in given and not name.endswith(_COUNT)]
    there = [name for name in given if name not in {prefix + name for name in names}]
    more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
    instead = f"; there are {short(there[0])} and {len(there) - 1} others instead" if there else ""
    raise ValueError(f"{unfit}{missing[0]!r}{more} missing{instead}")


def _prefixes(wanted: Sequence[str], given: Mapping[str, Tensor]) -> list[str]:
    """Return what may stand before the names, the empty one first, judged by the first and the last of them."""
    found = [""]
    for name in (wanted[0], wanted[-1]):
        found += [one[: -len(name)] for one in given if one.endswith("." + name)]
    return found


def _normalisation(left: Sequence[str], given: Mapping[str, Tensor]) -> dict[str, tuple[str, list[float]]]:
    """Return {"mean": (its name, numbers), "std": ...} if there is one of each among what is `left`, else nothing."""
    found: dict[str, tuple[str, list[float]]] = {}
    for what, words in _NORMALISATION.items():
        names = [name for name in left if name.rpartition(".")[2] in words and given[name].numel() == 3]
        if len(names) == 1:
            found[what] = (names[0], given[names[0]].double().flatten().tolist())
    return found if len(found) == 2 else {}


def _cast(needed: Skeleton, found: dict[str, Tensor]) -> list[str]:
    """Bring floating-point weights to the network's precision; return the note about it, if there was another."""
    others = set()
    for name, tensor in found.items():
        dtype = needed.weights[name].dtype
        if tensor.dtype != dtype and tensor.is_floating_point() and dtype.is_floating_point:
            others.add(str(tensor.dtype).removeprefix("torch."))
            found[name] = tensor.to(dtype)
    return [f"weights of {' and '.join(sorted(others))}, computed with in float32"] if others else []


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
