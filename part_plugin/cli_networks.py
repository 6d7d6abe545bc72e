"""The networks of the command line: how they are loaded and told, and what they were trained with."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import typer
from torch import nn

from .cli_arguments import name_of, overrides
from .radius import parse_radius, radius_text
from .short import short

_USUAL, _UNTOLD = "8/255", "it is not known how it was trained"

Loaded = dict[str, tuple[nn.Module, dict[str, Any]]]
"""Network and description by name."""


class Others(NamedTuple):
    """What the command line says of weights that do not say it themselves."""

    architecture: str | None
    arguments: list[str] | None
    num_classes: int | None
    mean: str | None
    std: str | None
    key: str | None
    model_dir: Path


def load_networks(sources: Sequence[Path], others: Others, device: torch.device | str = "cpu") -> Loaded:
    """Return networks and their descriptions, by name.

    Args:
        sources: see `load_network`.
        others: what is said of those that do not describe themselves.
        device: where they are to be.

    Raises:
        ValueError: a network that is not as it is said to be, or `others` of which no network is.
    """
    from .recipes.networks import describes_itself, load_network

    given: dict[str, Any] = {
        "architecture": others.architecture,
        "num_classes": others.num_classes,
        "arguments": overrides(others.arguments, "--argument") if others.arguments else None,
        "mean": _numbers("--mean", others.mean),
        "std": _numbers("--std", others.std),
        "key": others.key,
    }
    alone = [describes_itself(source) for source in sources]
    if not all(alone) and others.architecture is None and any(value is not None for value in given.values()):
        raise ValueError("--architecture is missing; without it nothing is known of the weights of another program")
    loaded: Loaded = {}
    with _modules_beside():
        for source, itself in zip(sources, alone, strict=True):
            options = given if not itself or all(alone) else {}
            loaded[name_of(source)] = load_network(source, **options, model_dir=others.model_dir, device=device)
    return loaded


@contextmanager
def _modules_beside() -> Iterator[None]:
    """Let modules of the directory in which the command is given be imported, as `python -m` does."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _numbers(name: str, text: str | None) -> list[float] | None:
    """Return the numbers of "0.5,0.4,0.3".

    Raises:
        ValueError: something else.
    """
    if text is None:
        return None
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} {text!r} is not allowed; numbers with commas are needed, e.g. 0.5,0.5,0.5") from None


def say(text: str, quiet: bool) -> None:
    """Print `text`, unless the command is to be `quiet`."""
    if not quiet:
        typer.echo(text)


def radius_for(loaded: Loaded, eps: str | None) -> float:
    """Return the radius to work with; a network that was trained with another is warned of.

    Args:
        loaded: see `load_networks`.
        eps: what was asked for. (Default: what the first network that says it was trained with, or 8/255)

    Raises:
        ValueError: no radius.
    """
    trained = {name: one for name, (_, about) in loaded.items() if (one := _trained(name, about)) is not None}
    radius = parse_radius("eps", eps if eps is not None else next(iter(trained.values()), _USUAL))
    for name, one in trained.items():
        if not math.isclose(one, radius, rel_tol=1e-4):
            warn(f"eps = {radius_text(radius)} is not that with which {name!r} was trained, {radius_text(one)}")
    return radius


def warn(sentence: str) -> None:
    """Print a `sentence` where mistakes are printed, as a warning."""
    typer.echo(f"part-plugin: warning: {sentence}", err=True)


def _trained(name: str, description: Mapping[str, Any]) -> float | None:
    """Return the radius with which a network was trained, None if it does not say.

    Raises:
        ValueError: it says something else.
    """
    eps = description["training"].get("eps")
    if eps is None:
        return None
    try:
        return parse_radius("eps", eps)
    except (TypeError, ValueError):
        raise ValueError(
            f"checkpoint {name!r} was trained with eps={short(eps)}; a number from 0 to 1 is needed"
        ) from None


def told(loaded: Loaded) -> list[str]:
    """Return a line about each network: what it is, what was done to its weights, what it was trained with.

    Args:
        loaded: see `load_networks`.
    """
    lines = []
    for name, (_, about) in loaded.items():
        classes = about["num_classes"]
        facts = [about["architecture"], *([] if classes is None else [f"{classes} classes"]), *about["notes"]]
        dataset, eps = about["training"].get("dataset"), _trained(name, about)
        trained = [] if dataset is None else [f"on {dataset if str(dataset).isidentifier() else short(dataset)}"]
        trained += [] if eps is None else [f"with eps = {radius_text(eps)}"]
        lines.append(f"{name}: {', '.join(facts)}; {'trained ' + ' '.join(trained) if trained else _UNTOLD}")
    return lines


def class_text(description: Mapping[str, Any], number: int) -> str:
    """Return a class with its name, if the description of the network has names.

    Args:
        description: of the network.
        number: of the class.
    """
    names = description["training"].get("class_names")
    if not isinstance(names, list) or number >= len(names) or not str(names[number]).isprintable():
        return str(number)
    return f"{number} ({names[number]})"
