"""How much of what a machine can multiply a step makes use of: operations counted, and the machine's own rate measured.

The rate is that of one large square product in the precision of the step, as the vendor's library makes it. Counted are
products and convolutions, forward and backward, a multiplication and an addition as two.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from timing import seconds
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

SIZES = {"cpu": 1024, "cuda": 8192}


def matrix_rate(device: torch.device, dtype: torch.dtype, at_least: float = 1.0) -> float:
    """Return the operations a second of square products on `device` in `dtype`, the best in `at_least` seconds."""
    size = SIZES.get(device.type, 4096)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    taken, began = [], time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - began < at_least:
        taken.append(seconds(lambda: left @ right, device))
    return 2 * size**3 / min(taken[1:])


class Operations(TorchDispatchMode):
    """Counts what products and convolutions take, by PyTorch's own formulas.

    Not its `FlopCounterMode`, whose hooks on modules refuse attacks that ask for the gradient of the images alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and count what it takes."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        self.count += 0 if formula is None else formula(*args, **(kwargs or {}), out_val=result)
        return result


def operations(run: Callable[[], Any]) -> int:
    """Return how many operations a call of `run` takes, the second time, when all that is remembered is known."""
    run()
    with Operations() as counted:
        run()
    return counted.count
