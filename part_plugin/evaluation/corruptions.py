"""Accuracy under the 19 common corruptions of Hendrycks & Dietterich 2019, as in PART's Appendix H.2."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checks import check_class_range, check_count, check_number, check_seed, class_indices
from ..files import StrPath
from ..mismatch import check_model
from ..network.view import logits_of
from . import cifar10c
from .common import device_of, evaluated, progress
from .corrupted_images import CORRUPTIONS, GENERATOR, SEVERITIES, check_pictures, corrupted, generator, severities_of
from .corruption_result import CorruptionResult

Reference = CorruptionResult | pd.DataFrame | dict[str, float]
Batches = Callable[[str, int], Iterable[Tensor]]
"""Corruption and severity -> images, batch by batch."""


def corruption_accuracy(
    model: nn.Module,
    x: Tensor | NDArray[Any] | None = None,
    y: Tensor | NDArray[Any] | None = None,
    *,
    data_dir: StrPath | None = None,
    n_examples: int | None = None,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int = 128,
    seed: int = 0,
    reference: Reference | None = None,
    verbose: bool = True,
) -> CorruptionResult:
    """Return a model's accuracy under common corruptions (Appendix H.2), on your images or on CIFAR-10-C's files.

    The paper's numbers are those on CIFAR-10-C's files; see `corrupted` for how generated images differ.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; evaluated on its own device
            in eval mode, and left as it was.
        x: clean images (N, 3, H, W) in [0, 1] to corrupt, H and W at least 32.
        y: their class indices (N,) or (N, 1), or one-hot (N, K).
        data_dir: folder that holds CIFAR-10-C/*.npy, instead of x and y; nothing is downloaded.
        n_examples: images per corruption and severity, the first ones; default: all.
        corruptions: some of `CORRUPTIONS`.
        severities: some of 1 to 5.
        batch_size: images per forward pass.
        seed: seed of the generated corruptions; the global random state is left alone.
        reference: what `CorruptionResult.mce` compares with: another result, its `table` of accuracies,
            or {corruption: error in (0, 1]}.
        verbose: show a progress bar.

    Raises:
        TypeError: arguments of a wrong kind.
        ValueError: wrong arguments, or a file that is not CIFAR-10-C's.
        FileNotFoundError: `data_dir` lacks a file of CIFAR-10-C.
        ImportError: imagecorruptions-imaug (for x) or RobustBench (for data_dir) is not installed.
    """
    check_model("model", model)
    corruptions = _chosen("corruptions", corruptions, CORRUPTIONS)
    severities = _chosen("severities", severities, SEVERITIES)
    check_count("batch_size", batch_size)
    check_seed("seed", seed)
    errors = _reference_errors(reference, corruptions, severities)
    if x is not None and y is not None and data_dir is None:
        batches, labels, source = _generated(x, y, n_examples, batch_size, seed)
    elif x is None and y is None and data_dir is not None:
        batches, labels, source = _from_files(data_dir, corruptions, n_examples, batch_size)
    else:
        given = [name for name, value in (("x", x), ("y", y), ("data_dir", data_dir)) if value is not None]
        raise ValueError(f"either x and y or data_dir is needed; given is {' and '.join(given) or 'none of them'}")
    total = len(corruptions) * len(severities) * len(labels)
    first = next(iter(batches(corruptions[0], severities[0]))) if x is None else torch.as_tensor(x)
    with evaluated(model, first) as model, torch.no_grad(), progress(verbose, total, "img", "corruptions") as bar:
        accuracies = [
            [_accuracy(model, batches(name, severity), labels, bar) for severity in severities] for name in corruptions
        ]
    index, columns = pd.Index(corruptions, name="corruption"), pd.Index(severities, name="severity")
    return CorruptionResult(pd.DataFrame(accuracies, index, columns), source, len(labels), errors)


def _accuracy(model: nn.Module, batches: Iterable[Tensor], y: Tensor, bar: tqdm[Any]) -> float:
    """Return the share of images, given in batches, that the model assigns to their class."""
    device, done, right = device_of(model), 0, 0
    for images in batches:
        logits = logits_of(model, images.to(device))
        check_class_range(y, logits.shape[1])
        right += int((logits.argmax(1).cpu() == y[done : done + len(images)]).sum())
        done += len(images)
        bar.update(len(images))
    return right / len(y)


def _generated(
    x: Tensor | NDArray[Any], y: Tensor | NDArray[Any], n_examples: int | None, batch_size: int, seed: int
) -> tuple[Batches, Tensor, str]:
    """Return corrupted batches of clean images, labels (N,) and a description."""
    images = torch.as_tensor(x)
    check_pictures(images)
    labels = class_indices(y, len(images)).cpu()
    n = _how_many(n_examples, len(images))
    severities, (_, version) = severities_of(images), generator()

    def batches(corruption: str, severity: int) -> Iterator[Tensor]:
        return (corrupted(batch, corruption, severity, seed) for batch in images[:n].split(batch_size))

    return batches, labels[:n], f"generated with the severities of {severities}, {GENERATOR} {version}"


def _from_files(
    data_dir: StrPath, corruptions: Sequence[str], n_examples: int | None, batch_size: int
) -> tuple[Batches, Tensor, str]:
    """Return batches of CIFAR-10-C, labels (N,) and a description."""
    n = _how_many(n_examples, cifar10c.PER_SEVERITY)
    labels, load = cifar10c.load_labels(data_dir), cifar10c.loader(data_dir, corruptions)

    def batches(corruption: str, severity: int) -> Iterator[Tensor]:
        return iter(load(corruption, severity, n).split(batch_size))

    return batches, labels[:n], f"{cifar10c.NAME} files"


def _how_many(n_examples: int | None, available: int) -> int:
    """Return how many images to take.

    Raises:
        ValueError: more than there are.
    """
    if n_examples is None:
        return available
    if check_count("n_examples", n_examples) > available:
        raise ValueError(f"n_examples={n_examples} is not allowed; there are {available} images")
    return n_examples


def _chosen(name: str, values: Sequence[Any], choices: Sequence[Any]) -> list[Any]:
    """Return values without repetition, each one of `choices`.

    Raises:
        TypeError: no list.
        ValueError: an empty list, or one that holds something else.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}={values!r} is a {type(values).__name__}; a list is needed")
    values = list(values)
    allowed = f"choose from {', '.join(map(repr, choices))}"
    if not values:
        raise ValueError(f"{name} is empty; {allowed}")
    for value in values:
        if value not in choices:
            raise ValueError(f"{name} holds {value!r}; {allowed}")
    return [choices[choices.index(value)] for value in dict.fromkeys(values)]


def _reference_errors(
    reference: Reference | None, corruptions: list[str], severities: list[int]
) -> dict[str, float] | None:
    """Return the reference's error per corruption, averaged over severities.

    Raises:
        TypeError: a reference of another kind.
        ValueError: it lacks a corruption or severity, or an error is not in (0, 1].
    """
    if reference is None:
        return None
    table = reference.table if isinstance(reference, CorruptionResult) else reference
    if isinstance(table, pd.DataFrame):
        missing = [severity for severity in severities if severity not in table.columns]
        if missing:
            raise ValueError(f"reference has no severity {missing[0]}; it needs every severity that is evaluated")
        table = {str(name): error for name, error in (1 - table[severities].mean(axis=1)).items()}
    if not isinstance(table, dict):
        raise TypeError(f"reference is a {type(reference).__name__}; a result, its table or a dictionary is needed")
    errors = {}
    for name in corruptions:
        if name not in table:
            raise ValueError(f"reference has no {name!r}; it needs every corruption that is evaluated")
        errors[name] = check_number(f"reference[{name!r}]", table[name], above=True)
        if errors[name] > 1:
            raise ValueError(f"reference[{name!r}]={errors[name]:g} is not allowed; an error rate is at most 1")
    return errors
