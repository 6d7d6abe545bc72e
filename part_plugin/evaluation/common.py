"""What all evaluations share: flags, random starts, seeds, checksums."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..network.view import logits_of


def device_of(model: nn.Module) -> torch.device:
    """Return where the network's weights are; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether each image is classified correctly, bool (N,)."""
    with torch.no_grad():
        return logits_of(model, images).argmax(1) == labels


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators that toolkits draw from, and put them back as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        state = np.random.get_state()
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def random_start(images: Tensor, radii: Tensor, seed: int) -> Tensor:
    """Return a point drawn uniformly from the budget of each image, clipped to [0, 1]."""
    noise = torch.empty(images.shape, dtype=images.dtype)
    for one, image in zip(noise, images.cpu().numpy(), strict=True):
        key = zlib.crc32(np.ascontiguousarray(image).tobytes(), seed % 2**32)
        one.uniform_(-1, 1, generator=torch.Generator().manual_seed(key))
    return torch.clamp(images + noise.to(images.device) * radii, 0, 1)


def fingerprint(model: nn.Module) -> str:
    """Return a checksum of a network's layers and weights."""
    state = model.state_dict()
    return digest([f"{model!r} {list(state)}", *state.values()])


def digest(parts: Sequence[str | Tensor]) -> str:
    """Return a checksum of texts and tensors, 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(data if isinstance(data, bytes) else data.numpy().tobytes())
    return digest.hexdigest()[:16]
