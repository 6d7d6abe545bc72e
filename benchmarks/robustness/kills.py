"""Commands that are killed at random moments and given again, until they are done: is everything as without the kills?

    python benchmarks/robustness/kills.py --count 30

For each of `train` and `evaluate`, the real command runs on scikit-learn's digits in a process of its own, first left
alone, then `--count` times killed at a random moment and given again. All files must then be those of the run that was
left alone, bit for bit but for the seconds that are noted in them, and there must be no other. With `--signal TERM` or
`INT` the commands must also have said in one sentence where they stopped. Exit code 1 if anything is not as it should.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from part_plugin.evaluation import Evaluation

TRAIN = ["train", "a.pt", "--preset", "digits", "--n", "600", "--keep-every", "3"]
for setting in ("epochs=8", "burn_in=2", "steps=3", "milestones=[5]", "mask_every=2"):
    TRAIN += ["--set", setting]
EVALUATE = ["evaluate", "a.pt", "b.pt", "--attacks", "natural,pgd10,mma5", "--n", "300", "--batch-size", "20"]
EVALUATE += ["--eps", "0.1", "--seeds", "2"]
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start the command in a folder."""
    command = [str(Path(sys.executable).with_name("part-plugin")), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def whole(arguments: list[str], folder: Path) -> float:
    """Run the command to its end, and return the seconds that it took."""
    began = time.monotonic()
    process = start(arguments, folder)
    _, errors = process.communicate()
    done = arguments[0] == "train" and "exists already" in errors  # it was killed after it had written everything
    if (process.returncode or errors) and not done:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {errors}")
    return time.monotonic() - began


def stopped(arguments: list[str], folder: Path, after: float, number: signal.Signals) -> tuple[bool, str]:
    """Run the command and send it a signal; return whether it met it, and what the command did wrong, if anything."""
    process = start(arguments, folder)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, errors = process.communicate()
    code = process.returncode
    if "exists already" in errors:  # it was done before, and killed too late
        return False, ""
    if code in (0, -number):  # it is done, or had not begun
        return code != 0, errors
    right = code == CODES.get(number) and re.fullmatch(r"part-plugin: stopped[^\n]*\n", errors)
    return True, "" if right else f"exit code {code}: {errors}"


def content(folder: Path) -> dict[str, Any]:
    """Return what is in all files of a folder, without seconds; tables are those of their result, or told."""
    files: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".json":
            files[name] = without_seconds(json.loads(path.read_text()), path.name.endswith(".state.json"))
        elif path.name == "log.csv":
            files[name] = [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        elif path.name == "resume.ckpt":
            files[name] = without_seconds(plain(torch.load(path, weights_only=True)), False)
        elif (result := path.with_suffix(".json")).exists():
            one = Evaluation.load(result)
            text = one.markdown() if path.suffix == ".md" else one.frame().to_csv(index=False)
            files[name] = path.read_text() == text or "not that of its result"
        else:
            files[name] = path.read_bytes()
    return files


def plain(values: Any) -> Any:
    """Return plain data and tensors as plain data."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain(value) for value in values]
    return values.tolist() if isinstance(values, torch.Tensor) else values


def without_seconds(values: Any, state: bool) -> Any:
    """Return plain data without the seconds; in a state they stand behind the flags, and in its checksum."""
    if isinstance(values, dict):
        return {name: without_seconds(one, state) for name, one in values.items() if name not in ("seconds", "sha256")}
    if isinstance(values, list):
        return [without_seconds(one, state) for one in values if not (state and isinstance(one, float))]
    return values


def main() -> int:
    """Kill, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=30, help="kills of each command")
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--devices", type=int, default=1, help="processes of a training")
    options = parser.parse_args()
    TRAIN.extend(["--devices", str(options.devices)])
    number, draw, wrong = signal.Signals[f"SIG{options.signal}"], random.Random(options.seed), 0
    print("| command | seconds | kills | that met it at work | runs | equal | files left behind |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for arguments in (TRAIN, EVALUATE):
            given, alone = base / f"{arguments[0]}-given", base / f"{arguments[0]}-alone"
            given.mkdir()
            if arguments is EVALUATE:
                shutil.copy(base / "train-alone" / "a.pt", given / "a.pt")
                shutil.copy(base / "train-alone" / "a.pt", given / "b.pt")
            shutil.copytree(given, alone)
            seconds = whole(arguments, alone)
            expected, met, equal, left = content(alone), 0, 0, 0
            kills = runs = 0
            while kills < options.count:
                folder = base / f"{arguments[0]}-killed"
                shutil.copytree(given, folder)
                killed = True
                while killed and kills < options.count:  # now and then several in one run
                    killed, said = stopped(arguments, folder, draw.uniform(0, seconds), number)
                    kills, met = kills + 1, met + killed
                    if said:
                        wrong += 1
                        print(f"after {options.signal}: {said}", file=sys.stderr)
                    if draw.random() < 0.7:
                        break
                whole(arguments, folder)
                runs += 1
                found = content(folder)
                same = all(found.get(file) == one for file, one in expected.items())
                more = found.keys() - expected.keys()
                if not same or more:
                    wrong += 1
                    print(f"not equal, or left: {sorted(more)}", file=sys.stderr)
                equal, left = equal + same, left + len(more)
                shutil.rmtree(folder)
            print(f"| {arguments[0]} | {seconds:.0f} | {kills} | {met} | {runs} | {equal} | {left} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
