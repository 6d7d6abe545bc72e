"""CIFAR-10-C's files, read by RobustBench and never downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import StrPath

NAME = "CIFAR-10-C"
PER_SEVERITY = 10_000


def load_labels(data_dir: StrPath) -> Tensor:
    """Return the class of every image of one corruption and severity, (10000,).

    Args:
        data_dir: folder that holds CIFAR-10-C.

    Raises:
        FileNotFoundError: it does not.
        ValueError: its file is damaged or another.
    """
    labels = _array(Path(data_dir), "labels", (5 * PER_SEVERITY,), np.integer)
    return torch.from_numpy(labels[:PER_SEVERITY].astype(np.int64))


def loader(data_dir: StrPath, corruptions: Sequence[str]) -> Callable[[str, int, int], Tensor]:
    """Return RobustBench's loader: corruption, severity, n -> the first n images, (n, 3, 32, 32) in [0, 1].

    Args:
        data_dir: folder that holds CIFAR-10-C.
        corruptions: those to come; their files are looked at now, as RobustBench would download what it does not find.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged or another.
        ImportError: RobustBench is not installed.
    """
    folder = Path(data_dir)
    for corruption in corruptions:
        _array(folder, corruption, (5 * PER_SEVERITY, 32, 32, 3), np.uint8)
    try:
        from ..adapters.robustbench import robustbench
    except ImportError as error:
        raise ImportError(f"data_dir is read by RobustBench ({error}): pip install part_plugin[robustbench]") from error

    def load(corruption: str, severity: int, n: int) -> Tensor:
        images: Tensor
        images, _ = robustbench.data.load_cifar10c(n, severity, folder, shuffle=False, corruptions=[corruption])
        return images

    return load


def _array(data_dir: Path, name: str, shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """Return an array of CIFAR-10-C, left on disk.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or another.
    """
    file = data_dir / NAME / f"{name}.npy"
    if not file.is_file():
        raise FileNotFoundError(
            f"data_dir={os.fspath(data_dir)!r} holds no {NAME}/{file.name}; "
            "unpack CIFAR-10-C.tar of https://zenodo.org/records/2535967 in it"
        )
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{os.fspath(file)!r} is damaged or no array; unpack {NAME}.tar again") from error
    if not isinstance(array, np.ndarray) or array.shape != shape or not np.issubdtype(array.dtype, kind):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{os.fspath(file)!r} holds {found}; {NAME} has {kind.__name__} {shape} there")
    return array
