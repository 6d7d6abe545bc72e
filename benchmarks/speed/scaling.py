"""How the cost of a PART step grows: with batch size, image side, width, classes and target layers.

    python benchmarks/speed/scaling.py --repeats 3 --json scaling.json --figure scaling.png

The paper argues that PART costs a constant factor more than AT (Appendix H.7). Here the cost of a PART step, of an AT
step and of the maps alone is measured over a range of each quantity, in turns (`timing.py` says how), and a power law
is fitted to the medians: seconds = a * quantity^exponent. The network is a ResNet-18 on random images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from timing import ratios, spread, take_turns, turn
from workload import parser, write

from part_plugin import PART, class_activation_map
from part_plugin.adapters.robustbench import ResNet18
from part_plugin.network.isolation import frozen

BASE = {"batch size": 16, "image side": 32, "width": 8, "classes": 10, "target layers": 1}
RANGES = {
    "batch size": (8, 16, 32, 64, 128),
    "image side": (16, 32, 64, 96),
    "width": (4, 8, 16, 32, 64),
    "classes": (2, 10, 100, 1000),
    "target layers": (1, 2, 3, 4),
}
LAYERS = ("layer4", "layer3", "layer2", "layer1")


class Pooled(ResNet18):
    """A ResNet-18 for images of any size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


def runs(settings: dict[str, int], device: torch.device) -> dict[str, Callable[[], None]]:
    """Return what is timed for one setting, by name."""
    torch.manual_seed(0)
    model = Pooled(settings["width"], settings["classes"]).to(device)
    side = settings["image side"]
    x = torch.rand(settings["batch size"], 3, side, side, device=device)
    y = torch.randint(settings["classes"], (len(x),), device=device)
    layers = list(LAYERS[: settings["target layers"]])
    at, part = (PART(eps_low=low, burn_in=0, seed=0, target_layers=layers) for low in (8 / 255, 7 / 255))

    def step(method: PART) -> None:
        method.loss(model.train(), x, y).backward()
        model.zero_grad()

    def maps() -> None:
        with frozen(model):
            class_activation_map(model, x, target_layers=layers)

    return {"AT step": lambda: step(at), "PART step": lambda: step(part), "maps": maps}


def measure(settings: dict[str, int], device: torch.device, repeats: int) -> tuple[dict[str, float], float]:
    """Return the median seconds of each variant, and the median ratio of a PART step to an AT step."""
    times = take_turns({name: partial(turn, run, device) for name, run in runs(settings, device).items()}, repeats)
    medians = {name: spread(each)["median"] for name, each in times.items()}
    return medians, spread(ratios(times["PART step"], times["AT step"]))["median"]


def exponent(quantities: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of log seconds over log quantity."""
    return float(np.polyfit(np.log(quantities), np.log(seconds), 1)[0])


def draw(table: dict, path: str) -> None:
    """Write the figure: a panel for each quantity, a line for each variant, exponents in the legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    axes[-1].set_axis_off()
    for ax, (quantity, found) in zip(axes, table.items(), strict=False):
        for name, seconds in found["seconds"].items():
            ax.loglog(found["values"], seconds, "o-", label=f"{name}, exponent {found['exponents'][name]:.2f}")
        ax.set_xticks(found["values"], found["values"])
        ax.minorticks_off()
        ax.set_xlabel(quantity)
        ax.set_ylabel("seconds")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print the table, write JSON and figure."""
    made = parser(__doc__, repeats=3)
    made.add_argument("--figure", metavar="PATH", help="draw it there")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    table = {}
    print("| quantity | values | PART/AT at each | exponent AT | exponent PART | exponent maps |")
    print("|---|---|---|---|---|---|")
    for quantity, values in RANGES.items():
        rows, shares = zip(
            *(measure(BASE | {quantity: value}, torch.device(options.device), options.repeats) for value in values),
            strict=True,
        )
        seconds = {name: [row[name] for row in rows] for name in rows[0]}
        exponents = {name: exponent(values, each) for name, each in seconds.items()}
        table[quantity] = {"values": values, "seconds": seconds, "exponents": exponents}
        shown = ", ".join(f"{share:.2f}" for share in shares)
        fitted = " | ".join(f"{exponents[name]:.2f}" for name in ("AT step", "PART step", "maps"))
        print(f"| {quantity} | {', '.join(map(str, values))} | {shown} | {fitted} |", flush=True)
    write({"base": BASE, "threads": options.threads, "device": options.device, "table": table}, options.json)
    if options.figure:
        draw(table, options.figure)


if __name__ == "__main__":
    main()
