"""What went through `torch.compile`, run as it was: hooks inside compiled code do not fire, or compile it anew."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_lock = threading.Lock()
_inside = 0  # how many threads are
_stance = ExitStack()


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let everything compiled run as it was meanwhile; it takes PyTorch 2.6."""
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def _enter(change: int) -> None:
    """Set torch's stance, of which there is one for all threads, with the first to enter, and back with the last."""
    global _inside
    with _lock:
        before, _inside = _inside, _inside + change
        if before == 0 and "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        elif _inside == 0:
            _stance.close()
