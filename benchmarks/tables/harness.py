"""Cells of a grid: one training and its evaluation each, resumable, a line of JSON when it is finished.

A cell is known by its settings, so that scripts which share OUT share their cells: what `reproduce.py` has trained,
`ablation.py` does not train again. OUT holds results.jsonl, and for each cell its checkpoint and evaluation.
"""

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from budgets import make_budget
from tqdm import tqdm

from part_plugin import evaluate
from part_plugin.adapters.robustbench import load_checkpoint
from part_plugin.data import Preset, as_tensors, augmentation, load_dataset
from part_plugin.training import train

METHODS = ("AT", "PART", "TRADES", "PART-T", "MART", "PART-M")


@dataclass(frozen=True)
class Scale:
    """How large a grid is trained and tested, apart from what its cells compare.

    Attributes:
        settings: by dataset.
        samples: random training images; None: all.
        test: test images for the attacks; None: all.
        watched: test images on which natural and PGD-10 accuracy are followed over epochs.
        eps: l_inf radius of the test.
        widest: largest radius to train with, where radii vary, in eighths of `eps`.
        attacks: what every cell is tested with; see `evaluate`.
        thorough: what the cells of the main table are tested with.
        seeds: seeds of every cell.
    """

    settings: dict[str, Preset]
    samples: int | None = None
    test: int | None = None
    watched: int = 1000
    eps: float = 8 / 255
    widest: float = 12
    attacks: tuple[str, ...] = ("natural", "pgd20", "mma", "autoattack")
    thorough: tuple[str, ...] = ("natural", "pgd20", "mma", "autoattack")
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    """One training, and what its network is tested with.

    Attributes:
        settings: of the training.
        budget: name in `budgets.BUDGETS`; "aligned" is PART's own.
        samples, test, watched, eps: see `Scale`.
        attacks: see `evaluate`.
    """

    settings: Preset
    budget: str
    samples: int | None
    test: int | None
    watched: int
    eps: float
    attacks: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name that tells this training from every other."""
        content = [dataclasses.asdict(self.settings), self.budget, self.samples, self.test, self.watched, self.eps]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def method(self) -> str:
        """Name of the method; equal radii are the plain objective."""
        plain = self.budget == "aligned" and self.settings.eps_low == self.settings.eps
        return METHODS[2 * ("at", "trades", "mart").index(self.settings.objective) + (not plain)]


def cell(scale: Scale, dataset: str, method: str, budget: str = "aligned", thorough: bool = False, **changes) -> Cell:
    """Return one cell of a scale; `changes` are settings that differ from the scale's."""
    number = METHODS.index(method)
    settings = dataclasses.replace(scale.settings[dataset], objective=("at", "trades", "mart")[number // 2], **changes)
    if number % 2 == 0:
        settings = dataclasses.replace(settings, eps_low=settings.eps)
    attacks = scale.thorough if thorough else scale.attacks
    return Cell(settings, budget, scale.samples, scale.test, scale.watched, scale.eps, attacks)


def over_seeds(scale: Scale, cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells with every seed of the scale, seeds outermost: an unfinished grid holds whole comparisons."""
    cells = list(cells)
    return [
        dataclasses.replace(one, settings=dataclasses.replace(one.settings, seed=seed))
        for seed in scale.seeds
        for one in cells
    ]


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """Return each training once, with all attacks that any of its mentions asks for, in `thorough`'s order."""
    known: dict[str, Cell] = {}
    for one in cells:
        attacks = dict.fromkeys([*(known[one.id].attacks if one.id in known else ()), *one.attacks])
        known[one.id] = dataclasses.replace(one, attacks=tuple(attacks))
    return list(known.values())


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
        _train(one, options, checkpoint, x, y)
    model, _ = load_checkpoint(checkpoint, device)
    state = checkpoint.with_suffix(".state.json")
    found = evaluate(model, x, y, one.eps, one.attacks, name=one.method, state=state, verbose=options.verbose)
    checkpoint.with_suffix(".json").unlink(missing_ok=True)  # of an earlier run with fewer attacks
    found.save(checkpoint.with_suffix(""))
    epochs = [json.loads(line) for line in Path(f"{checkpoint}.jsonl").read_text().splitlines()]
    record = {
        "id": one.id,
        "method": one.method,
        "budget": one.budget,
        "settings": dataclasses.asdict(one.settings),
        "source": source(one, options),
        "samples": one.samples,
        "test": len(y),
        "eps": one.eps,
        "accuracy": {result.name: result.accuracy for result in found.results},
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
        "seconds": time.perf_counter() - began,
        "epochs": epochs,
        **provenance(options),
    }
    with open(out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")  # one write: processes that share the file do not mix their lines
    return record


def _train(one: Cell, options: argparse.Namespace, checkpoint: Path, x: torch.Tensor, y: torch.Tensor) -> None:
    images, labels = tensors(one, options, "train")
    samples = list(zip(images, labels.tolist(), strict=True))
    augmented = one.settings.dataset != "digits"

    def watch(model: torch.nn.Module) -> dict[str, float]:
        seen = slice(0, one.watched)
        found = evaluate(model, x[seen], y[seen], one.eps, ("natural", "pgd10"), verbose=False)
        return {result.name: result.accuracy for result in found.results}

    train(
        one.settings,
        samples,
        checkpoint,
        options.device,
        options.workers,
        options.verbose,
        augmentation(one.settings.dataset, images.shape[2:]) if augmented else None,
        make_budget(one.budget, one.settings, images.shape[2:]),
        watch,
    )


def source(one: Cell, options: argparse.Namespace) -> str:
    """Return the name under which `load_dataset` finds the cell's images."""
    name = one.settings.dataset
    return "imagefolder" if name == options.imagefolder else name


def tensors(one: Cell, options: argparse.Namespace, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and classes that a cell is trained on, or tested on."""
    return _tensors(source(one, options), options.root, split, one.samples if split == "train" else one.test)


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
