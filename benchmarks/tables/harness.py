"""Running a grid: cells at a time, resumable, a line of JSON for each that is finished.

OUT holds results.jsonl, and for each cell its checkpoint and evaluation.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
from budgets import make_budget
from cells import Cell, merged
from tqdm import tqdm

from part_plugin import evaluate
from part_plugin.evaluation import Evaluation
from part_plugin.recipes.augmentation import augmentation
from part_plugin.recipes.checkpoints import load_checkpoint
from part_plugin.recipes.datasets import as_tensors, load_dataset
from part_plugin.recipes.training import train


def read(out: Path) -> dict[str, dict]:
    """Return the newest line of every finished cell, by the cell's id."""
    path = out / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {record["id"]: record for record in map(json.loads, lines)}


def missing(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """Return the cells whose line is not there, or lacks an attack."""
    records = read(out)
    return [one for one in cells if not set(one.attacks) <= set(records.get(one.id, {}).get("accuracy", ()))]


def run(one: Cell, options: argparse.Namespace) -> dict:
    """Train and test one cell, or what is left of it; append its line to OUT/results.jsonl."""
    torch.set_num_threads(options.threads)
    began = time.perf_counter()
    out, device = Path(options.out), torch.device(options.device)
    checkpoint = out / "cells" / f"{one.id}.pt"
    x, y = tensors(one, options, "test")
    if not checkpoint.exists():
        some = slice(None, None, max(1, len(x) // one.scale.validation))  # image folders are sorted by class
        _train(one, options, checkpoint, x[some], y[some])
    model, _ = load_checkpoint(checkpoint, device)
    state, eps = checkpoint.with_suffix(".state.json"), one.scale.eps
    found = evaluate(model, x, y, eps, one.attacks, name=one.method, state=state, verbose=options.verbose)
    checkpoint.with_suffix(".json").unlink(missing_ok=True)  # of an earlier run with fewer attacks
    found.save(checkpoint.with_suffix(""))
    epochs = pd.read_csv(f"{checkpoint}.run/log.csv").to_dict("records")
    record = {
        "id": one.id,
        "method": one.method,
        "budget": one.budget,
        "settings": dataclasses.asdict(one.settings),
        "source": source(one, options),
        "samples": one.scale.samples,
        "test": len(y),
        "eps": eps,
        "accuracy": _accuracy(found),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
        "seconds": time.perf_counter() - began,
        "epochs": epochs,
        **provenance(options),
    }
    with open(out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")  # one write: processes that share the file do not mix their lines
    return record


def _train(one: Cell, options: argparse.Namespace, checkpoint: Path, x: torch.Tensor, y: torch.Tensor) -> None:
    """Train, and follow the accuracy on the validation images x with their classes y."""
    images, labels = tensors(one, options, "train")
    name, size = one.settings.dataset, images.shape[2:]
    train(
        one.settings,
        list(zip(images, labels.tolist(), strict=True)),
        checkpoint,
        options.device,
        options.workers,
        options.verbose,
        transform=None if name == "digits" else augmentation(name, size),
        budget=make_budget(one.budget, one.settings, size),
        validate=lambda model: _accuracy(evaluate(model, x, y, one.scale.eps, ("natural", "pgd10"), verbose=False)),
    )


def _accuracy(found: Evaluation) -> dict[str, float]:
    return {result.name: result.accuracy for result in found.results}


def source(one: Cell, options: argparse.Namespace) -> str:
    """Return the name under which `load_dataset` finds the cell's images."""
    name = one.settings.dataset
    return "imagefolder" if name == options.imagefolder else name


def tensors(one: Cell, options: argparse.Namespace, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and classes that a cell is trained on, or tested on."""
    n = one.scale.samples if split == "train" else one.scale.test
    return _tensors(source(one, options), options.root, split, n)


@lru_cache(maxsize=4)
def _tensors(name: str, root: str, split: str, n: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    return as_tensors(load_dataset(name, root, split), n, None if n is None else 0)


def provenance(options: argparse.Namespace) -> dict:
    """Return what a number depends on besides its settings."""
    cuda = options.device.startswith("cuda")
    return {
        "commit": options.commit,
        "hardware": torch.cuda.get_device_name(options.device) if cuda else f"{platform.machine()} CPU",
        "threads": options.threads,
        "torch": torch.__version__,
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def commit() -> str:
    """Return the commit of this code, as it is when a run begins."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every grid has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", default="data", help="directory of the datasets")
    made.add_argument("--imagefolder", metavar="NAME", help="read dataset NAME from class folders under ROOT")
    made.add_argument("--out", default="reproduction", help="directory for results")
    made.add_argument("--device", default="cpu")
    made.add_argument("--jobs", type=int, default=1, help="cells to run at a time, each on its share of the cores")
    made.add_argument("--shard", default="0/1", metavar="I/N", help="run every N-th cell only, from the I-th")
    made.add_argument("--workers", type=int, default=0, help="processes that load images")
    made.add_argument("--list", action="store_true", help="print the cells and what is left of them, and stop")
    made.add_argument("--verbose", action="store_true", help="progress bars for every training and attack")
    return made


def run_grid(cells: Sequence[Cell], options: argparse.Namespace) -> None:
    """Run what is missing of the cells, `options.jobs` at a time."""
    index, count = map(int, options.shard.split("/"))
    out = Path(options.out)
    cells = merged(cells)
    left = missing(cells, out)[index::count]
    print(f"{len(cells)} cells, {len(left)} left to run here", flush=True)
    if options.list:
        for one in left:
            print(one.id, one.method, one.budget, one.settings.dataset, f"seed {one.settings.seed}", *one.attacks)
        return
    (out / "cells").mkdir(parents=True, exist_ok=True)
    options.commit = commit()
    options.threads = max(1, (os.cpu_count() or 1) // options.jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn) as pool, tqdm(total=len(left), unit="cell") as bar:
        for finished in as_completed([pool.submit(run, one, options) for one in left]):
            record = finished.result()
            shown = ", ".join(f"{name} {100 * value:.2f}" for name, value in record["accuracy"].items())
            seed = record["settings"]["seed"]
            bar.write(f"{record['method']} ({record['budget']}), seed {seed}: {shown}; {record['seconds']:.0f} s")
            bar.update()
