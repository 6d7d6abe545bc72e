"""What all evaluations share: flags, random starts, seeds, checksums, progress."""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..network.isolation import isolated
from ..network.view import logits_of


def check_name(name: str) -> str:
    """Return a result's `name` if it is a line of text, as it goes into tables.

    Raises:
        TypeError: it is no text.
        ValueError: it has several lines, or what cannot be printed.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} is a {type(name).__name__}; a str is needed")
    if not name.isprintable():
        raise ValueError(f"name={name!r} is not allowed; a line of text is needed")
    return name


def device_of(model: nn.Module) -> torch.device:
    """Return where the weights of `model` are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def evaluated(model: nn.Module, images: Tensor) -> Iterator[nn.Module]:
    """Yield what to evaluate in place of `model`, in eval mode, so that the caller's is never touched; see `isolated`.

    Args:
        model: the caller's network; one in `DataParallel` is spread over the same devices.
        images: (N, C, H, W), of which it is sent one.
    """
    with isolated(model, images[:1].to(device_of(model))) as inner:
        if isinstance(model, nn.DataParallel) and model.device_ids:  # there are none on a CPU
            inner = nn.DataParallel(inner, model.device_ids)
        yield inner


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether `model` assigns each of `images` to its class of `labels`, bool (N,)."""
    with torch.no_grad():
        return logits_of(model, images).argmax(1) == labels


_generators = threading.RLock()  # taken last of all locks, so that no two threads wait for each other


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that toolkits draw from with `seed`, also on `device`, and put them back after it.

    One thread at a time, as there is one of each.
    """
    with _generators, torch.random.fork_rng([device] if device.type == "cuda" else []):
        state = np.random.get_state()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def random_start(images: Tensor, radii: Tensor, seed: int) -> Tensor:
    """Return a point drawn uniformly from the budget of each image, clipped to [0, 1].

    Args:
        images: (N, C, H, W) in [0, 1].
        radii: broadcasts to them.
        seed: together with an image's content it decides what is drawn for that image, whatever the batch.
    """
    noise = torch.empty(images.shape, dtype=images.dtype)
    for one, image in zip(noise, images.cpu(), strict=True):
        key = zlib.crc32(_bytes(image), seed % 2**32)
        one.uniform_(-1, 1, generator=torch.Generator().manual_seed(key))
    return torch.clamp(images + noise.to(images.device) * radii, 0, 1)


def fingerprint(model: nn.Module) -> str:
    """Return a checksum of the layers and weights of `model`."""
    state = model.state_dict()
    return digest([f"{model!r} {list(state)}", *state.values()])


def digest(parts: Sequence[str | Tensor]) -> str:
    """Return a checksum of `parts`, texts and tensors: 16 hexadecimal digits."""
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part.encode() if isinstance(part, str) else _bytes(part))
    return checksum.hexdigest()[:16]


def progress(verbose: bool, total: int, unit: str, description: str | None = None) -> tqdm[Any]:
    """Return a bar of `total` times `unit` after a `description`: in a terminal, not in a log, if `verbose`."""
    return tqdm(total=total, unit=unit, desc=description, leave=False, disable=None if verbose else True)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
