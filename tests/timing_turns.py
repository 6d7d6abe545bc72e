"""What test_timing.py has processes of their own do; a module of its own, because they have to import it."""

import os

import timing
import torch

CPU = torch.device("cpu")


def turns(megabytes):
    """What a process of its own is asked for: its number, memory that it keeps, and trouble."""
    kept = []
    return {
        "pid": lambda: float(os.getpid()),
        "grow": lambda: kept.append(torch.ones(megabytes, 2**18)) or float(len(kept)),
        "peak": lambda: timing.peak_memory(CPU),
        "fail": lambda: 1 / 0,
    }
