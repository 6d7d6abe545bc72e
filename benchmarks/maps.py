"""Time of a batch of maps here and in pytorch-grad-cam, and of a PART step against an AT step, side by side.

    python benchmarks/maps.py --batch-size 32 --repeats 7 --threads 2

Every repetition runs all variants one after the other; medians and ratios are printed as a Markdown table.
The network is RobustBench's ResNet-18 on random 32x32 images: what is timed does not depend on weights or labels.
"""

import argparse
from statistics import median

import torch
from pytorch_grad_cam import GradCAM
from torch.utils.benchmark import Timer

from part_plugin import PART, FixedBudget, class_activation_map
from part_plugin.adapters.robustbench import build_model


def variants(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict:
    """Return what is timed, by name."""

    def library():
        with GradCAM(model, [model.layer4]) as cam:
            return cam(x, None)

    def step(part):
        model.train()
        model.zero_grad()
        part.loss(model, x, y).backward()

    at, part = PART(budget=FixedBudget(8 / 255), burn_in=0), PART(burn_in=0)
    return {
        "maps, part_plugin": lambda: class_activation_map(model, x, target_layers=model.layer4),
        "maps, pytorch-grad-cam": library,
        "AT step": lambda: step(at),
        "PART step": lambda: step(part),
    }


def main():
    """Time all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build_model("resnet.ResNet18").to(options.device)
    x = torch.rand(options.batch_size, 3, 32, 32, device=options.device)
    y = torch.randint(10, (options.batch_size,), device=options.device)
    timers = {
        name: Timer("run()", globals={"run": run}, num_threads=options.threads)
        for name, run in variants(model, x, y).items()
    }
    times = {name: [] for name in timers}
    for timer in timers.values():
        timer.timeit(1)
    for _ in range(options.repeats):
        for name, timer in timers.items():
            times[name].append(timer.timeit(1).median)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} threads, batch {options.batch_size}\n")
    print("| | median s | smallest | largest |\n|---|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {median(seconds):.4f} | {min(seconds):.4f} | {max(seconds):.4f} |")
    for ours, theirs in (("maps, part_plugin", "maps, pytorch-grad-cam"), ("PART step", "AT step")):
        ratios = [a / b for a, b in zip(times[ours], times[theirs], strict=True)]
        print(f"\n{ours} / {theirs}: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
