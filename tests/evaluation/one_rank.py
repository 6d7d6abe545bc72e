"""A rank that shares some evaluations with others, as torchrun starts it: `test_ranks.py` looks at what it writes."""

import os
import sys
from pathlib import Path

import torch
from evaluation.travellers import Refusing
from torch import distributed

from part_plugin import evaluate


def main(folder):
    """Evaluate what lies in a folder, and write there what came of it, a line for each evaluation."""
    rank = int(os.environ["RANK"])
    net, x, y, options = torch.load(folder / "given.pt", weights_only=False)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    calls = {
        "whole": lambda: evaluate(net, x, y, **options, state=folder / "state.json"),
        "an error of one": lambda: evaluate(Refusing(net, rank == 1), x, y, **options),
        "other images": lambda: evaluate(net, x.flip(0) if rank == 1 else x, y, **options),
        "a state that cannot be written": lambda: evaluate(net, x, y, **options, state=folder / "given.pt" / "state"),
        "again": lambda: evaluate(net, x, y, **options, state=folder / "state.json"),
    }
    for name, call in calls.items():
        try:
            found = {row.name: row.correct.tolist() for row in call().results}
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        with open(folder / f"rank{rank}.txt", "a") as file:
            file.write(f"{[name, found]}\n")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
