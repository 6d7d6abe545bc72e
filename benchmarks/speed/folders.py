"""Large folders of pictures: how fast they are loaded, and what memory it takes, over several epochs.

    python benchmarks/speed/folders.py --images 100000 --size 64 --epochs 2

Random JPEGs in 100 class folders are made first, in a temporary folder. They are then loaded as `train` loads what does
not fit into memory (one by one, with no workers and with two, each picture read anew in every epoch), and as it keeps
what does. Memory is that of this process and its workers together, shared pages counted once (PSS), after each epoch.
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from part_plugin.recipes.common import class_folders
from part_plugin.recipes.loader import ResumableBatches, ResumableLoader
from part_plugin.recipes.samples import Numbered, collated, in_memory, whole

CLASSES = 100


def write(folder: Path, numbers: range, size: int) -> None:
    """Write the pictures of these numbers, smooth ones, as photographs are."""
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number % CLASSES:03d}" / f"{number}.jpg", quality=85)


def memory() -> float:
    """Return the MiB of this process and its workers."""
    here = psutil.Process()
    processes = [here, *here.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in processes if one.is_running()) / 2**20


def main() -> None:
    """Make pictures, load them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for number in range(CLASSES):
            (Path(name) / f"{number:03d}").mkdir()
        with ProcessPoolExecutor() as pool:
            for first in range(0, options.images, 5000):
                numbers = range(first, min(first + 5000, options.images))
                pool.submit(write, Path(name), numbers, options.size)
        dataset = class_folders("imagefolder", Path(name), Path(name))
        print(f"{len(dataset)} pictures, {memory():.0f} MiB before")
        print("| kept | workers | epoch | images a second | MiB |\n|---|---|---|---|---|")
        for workers in (0, 2):
            again = {"num_workers": workers, "persistent_workers": workers > 0}
            batches = ResumableBatches(len(dataset), 128, 0)
            loader = ResumableLoader(Numbered(dataset), batches, collate_fn=collated, **again)
            table(loader, "in files", workers, options)
            del loader
        began = time.perf_counter()
        stored = in_memory(dataset, CLASSES, 2)
        seconds = time.perf_counter() - began
        print(f"| in memory | 2 | read once | {len(dataset) / seconds:.0f} | {memory():.0f} |")
        batches = ResumableBatches(len(dataset), 128, 0)
        table(ResumableLoader(stored, batches, collate_fn=whole), "in memory", 0, options)


def table(loader: ResumableLoader, kept: str, workers: int, options: argparse.Namespace) -> None:
    """Load epochs, and print a row for each."""
    for epoch in range(options.epochs):
        loader.batches.set_epoch(epoch)
        began, used = time.perf_counter(), 0.0
        for number, _ in enumerate(loader):
            if number % 100 == 0:
                used = max(used, memory())
        seconds = time.perf_counter() - began
        print(f"| {kept} | {workers} | {epoch + 1} | {options.images / seconds:.0f} | {used:.0f} |", flush=True)


if __name__ == "__main__":
    main()
