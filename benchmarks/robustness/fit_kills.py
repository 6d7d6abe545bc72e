"""Kill `PARTTrainer.fit(checkpoint=...)` at random moments, again and again, and compare the weights bit for bit.

    python benchmarks/robustness/fit_kills.py --kills 10

A run on digits is started, killed (SIGKILL) after a random time and started again, until it is through; then its
weights, optimizer, history and log are compared with those of a run that nobody killed. Every start seeds its random
numbers differently, so that what is equal came from the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from art.attacks.evasion import MomentumIterativeMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from torch import nn

from part_plugin import PARTTrainer

EPOCHS = 20


def train(folder: Path, seed: int) -> None:
    """Train a small network on digits, with dropout, a scheduler, masks that are remembered and two attacks."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    classifier = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )
    pgd = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.025, max_iter=5, num_random_init=1, verbose=False)
    other = MomentumIterativeMethod(classifier, eps=0.1, eps_step=0.05, max_iter=2, batch_size=128, verbose=False)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [EPOCHS // 2], 0.1)
    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    if not (folder / "fit.pt").exists():
        seed = 0  # as the run that nobody kills
    torch.manual_seed(seed)
    np.random.seed(seed)
    trainer = PARTTrainer(classifier, [pgd, other], 0.5, burn_in=2, mask_every=3, log_path=folder / "log.jsonl")
    trainer.fit(
        images, y, batch_size=128, nb_epochs=EPOCHS, scheduler=scheduler, checkpoint=folder / "fit.pt", verbose=False
    )
    result = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "history": trainer.history}
    torch.save(result, folder / "result.pt")


def run(folder: Path, seed: int, seconds: float | None) -> bool:
    """Run `train` in a process of its own and return whether it came through.

    It is killed some seconds after it wrote its first checkpoint or read that of the run before it.
    """
    command = [sys.executable, __file__, "--folder", str(folder), "--seed", str(seed)]
    before = written(folder)
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while seconds is not None and written(folder) == before and process.poll() is None:
        time.sleep(0.01)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    if code != 0:
        raise SystemExit(f"a run ended with exit code {code}")
    return True


def written(folder: Path) -> int:
    """Return when the checkpoint was written, 0 if there is none."""
    path = folder / "fit.pt"
    return path.stat().st_mtime_ns if path.exists() else 0


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the records without the time that they took."""
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        train(arguments.folder, arguments.seed)
        return
    with tempfile.TemporaryDirectory() as parent:
        whole, killed = Path(parent, "whole"), Path(parent, "killed")
        whole.mkdir()
        killed.mkdir()
        run(whole, 0, None)
        duration = sum(record["seconds"] for record in torch.load(whole / "result.pt")["history"])
        chance, kills = random.Random(0), 0
        while kills < arguments.kills:
            if run(killed, kills, chance.uniform(0, 2 * duration / EPOCHS)):
                (killed / "fit.pt").unlink()  # through before all the kills: once more from the start
                (killed / "log.jsonl").unlink()
                continue
            kills += 1
        while not run(killed, 1000 + kills, None):
            pass
        left = sorted(path.name for path in killed.iterdir())
        results = [torch.load(folder / "result.pt") for folder in (whole, killed)]
        logs = [
            [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (whole, killed)
        ]
        same = {
            "weights": all(map(torch.equal, results[0]["model"].values(), results[1]["model"].values())),
            "optimizer": repr(results[0]["optimizer"]) == repr(results[1]["optimizer"]),
            "history": timeless(results[0]["history"]) == timeless(results[1]["history"]),
            "log": timeless(logs[0]) == timeless(logs[1]) == timeless(results[0]["history"]),
            "files": left == ["fit.pt", "log.jsonl", "result.pt"],
        }
        print(f"{kills} kills, {EPOCHS} epochs, {duration:.1f} s of training without a kill: the same {same}")
        if not all(same.values()):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
