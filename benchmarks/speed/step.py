"""Time and memory of a training step here and in the peers, side by side in one run.

    python benchmarks/step.py --width 16 --batch-size 128 --repeats 7 --json step.json

Every variant has a process of its own, as its users have: what another one leaves behind in memory makes a step slower
or faster. Only the two of a pair (AT and PART, TRADES and PART-T, MART and PART-M) share one, since processes differ by
more than they do. All take turns, of a second or of one step where that takes longer; a repetition is one turn of each.
Maps are timed as in training: before each comes a training pass, which is not timed. Ratios are those of one
repetition; medians and extremes are quoted. Memory is the peak of a fresh process, for maps that of the training pass
as well. The network is RobustBench's ResNet-18, of any width, on random 32x32 images: what is timed depends neither on
weights nor on labels. `--reference` takes a checkout of the code that was published with the paper
(github.com/tmlr-group/PART, which needs torchcam); on a CPU its calls of `.cuda()` do nothing.
"""

import argparse
import importlib
import json
import multiprocessing
import pathlib
import sys
import time
import types
from contextlib import contextmanager
from functools import cached_property
from multiprocessing.connection import Connection
from statistics import mean, median

import torch
import torch.nn.functional as F
from tqdm import tqdm

EPS, EPS_LOW, ALPHA, STEPS = 8 / 255, 7 / 255, 2 / 255, 10
WARM_UP = 2
SETTINGS = ("width", "batch_size", "device", "threads", "repeats", "fast")
PAIRS = {"PART": "AT", "PART-T": "TRADES", "PART-M": "MART"}  # which share a process
RATIOS = {  # name: (numerator, denominator, floor by counting operations)
    "PART/AT": ("PART", "AT", 24 / 23),
    "PART-T/TRADES": ("PART-T", "TRADES", 1.0),
    "PART-M/MART": ("PART-M", "MART", 27 / 26),
    "PART/ART-AT": ("PART in ART", "ART AdversarialTrainer", None),
    "PART-T/ART-TRADES": ("PART-T in ART", "ART TRADES trainer", None),
    "PART/torchattacks-AT": ("PART", "torchattacks loop", 24 / 23),
    "fast PART/torchattacks-AT": ("fast PART", "torchattacks loop", None),
    "compiled PART/torchattacks-AT": ("compiled PART", "torchattacks loop", None),
    "bfloat16 PART/torchattacks-AT": ("bfloat16 PART", "torchattacks loop", None),
    "maps/pytorch-grad-cam": ("maps", "maps, pytorch-grad-cam", None),
    "maps/reference": ("maps", "maps, reference", None),
    "PART/reference": ("PART", "PART, reference", None),
}
VARIANTS = {
    "AT": lambda bench: bench.step("at", eps_low=EPS),
    "PART": lambda bench: bench.step("at"),
    "fast PART": lambda bench: bench.step("at", fast=bench.fast),
    "compiled PART": lambda bench: bench.step("at", fast=[*bench.fast, "compile"]),
    "bfloat16 PART": lambda bench: bench.step("at", fast=["bfloat16"]),
    "TRADES": lambda bench: bench.step("trades", eps_low=EPS),
    "PART-T": lambda bench: bench.step("trades"),
    "MART": lambda bench: bench.step("mart", eps_low=EPS),
    "PART-M": lambda bench: bench.step("mart"),
    "training pass": lambda bench: bench.training_pass(),
    "torchattacks loop": lambda bench: bench.torchattacks_loop(),
    "PART in ART": lambda bench: bench.art_epoch("PARTTrainer"),
    "ART AdversarialTrainer": lambda bench: bench.art_epoch("AdversarialTrainer"),
    "PART-T in ART": lambda bench: bench.art_epoch("PARTTrainerTRADES"),
    "ART TRADES trainer": lambda bench: bench.art_epoch("AdversarialTrainerTRADESPyTorch"),
    "maps": lambda bench: bench.maps(),
    "maps, pytorch-grad-cam": lambda bench: bench.library_maps(),
    "maps, reference": lambda bench: bench.reference_maps(),
    "PART, reference": lambda bench: bench.reference_step(),
}


class Bench:
    """A network, an optimizer, a batch, and ways to train on it."""

    def __init__(self, options: argparse.Namespace):
        from part_plugin.adapters.robustbench import ResNet18

        self.device, self.fast, self.path = torch.device(options.device), options.fast, options.reference
        self.model = ResNet18(options.width).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9, weight_decay=2e-4)
        self.x = torch.rand(options.batch_size, 3, 32, 32, device=self.device)
        self.y = torch.randint(10, (options.batch_size,), device=self.device)
        self.trainers = {}

    def update(self, loss: torch.Tensor) -> None:
        """Take an optimizer's step."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def step(self, objective: str, eps_low: float = EPS_LOW, **settings) -> None:
        """Train on the batch with PART; equal radii are the plain objective."""
        from part_plugin import PART

        settings |= {"eps": EPS, "eps_low": eps_low, "alpha": ALPHA, "steps": STEPS, "burn_in": 0, "seed": 0}
        self.update(PART(objective, **settings).loss(self.model.train(), self.x, self.y))

    def training_pass(self) -> None:
        """Train on the batch as it is: what a step is besides attack and map."""
        self.update(F.cross_entropy(self.model.train()(self.x), self.y))

    def torchattacks_loop(self) -> None:
        """Train on the batch with torchattacks' PGD."""
        import torchattacks

        adv = torchattacks.PGD(self.model.train(), EPS, ALPHA, STEPS)(self.x, self.y)
        self.update(F.cross_entropy(self.model(adv), self.y))

    def art_epoch(self, name: str) -> None:
        """Train for one epoch of one batch with one of ART's trainers, or of ours for ART."""
        x, y = self.x.cpu().numpy(), F.one_hot(self.y.cpu(), 10).numpy()
        quiet = {"verbose": False} if name.startswith("PART") else {}
        if name not in self.trainers:
            self.trainers[name] = self.make_trainer(name)
        self.trainers[name].fit(x, y, batch_size=len(x), nb_epochs=1, **quiet)

    def make_trainer(self, name: str):
        """Return the trainer of that name."""
        import art.defences.trainer
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        import part_plugin

        classifier = PyTorchClassifier(
            self.model, torch.nn.CrossEntropyLoss(), (3, 32, 32), 10, optimizer=self.optimizer, clip_values=(0, 1)
        )
        settings = {"eps": EPS, "eps_step": ALPHA, "max_iter": STEPS, "num_random_init": 1}
        attack = ProjectedGradientDescent(classifier, **settings, batch_size=len(self.x), verbose=False)
        own = {"beta": 6.0} if "TRADES" in name else {}
        if name.startswith("PART"):
            return getattr(part_plugin, name)(classifier, attack, burn_in=0, eps_low=EPS_LOW, **own)
        return getattr(art.defences.trainer, name)(classifier, attack, **(own or {"ratio": 1.0}))

    def maps(self) -> None:
        """Compute the batch's maps as a training step does."""
        from part_plugin import class_activation_map
        from part_plugin.surrogate import in_parts, lean

        with lean(self.model):
            in_parts(
                lambda rows: class_activation_map(self.model, self.x[rows], target_layers=self.model.layer4),
                self.model,
                self.x,
            )

    def library_maps(self) -> None:
        """Compute the batch's maps in pytorch-grad-cam."""
        from pytorch_grad_cam import GradCAM

        self.model.eval()
        with GradCAM(self.model, [self.model.layer4]) as cam:
            cam(self.x, None)

    def reference_maps(self) -> torch.Tensor:
        """Return the weights that the published code makes of its maps."""
        self.model.eval()
        published, settings = self.published
        return published.craft_weight_matrix(self.model, self.x, self.device, settings, parallel=False)

    def reference_step(self) -> None:
        """Train on the batch with the published code."""
        published, settings = self.published
        radii = published.generate_weighted_eps(self.reference_maps(), settings)
        with cuda_does_nothing(self.device):
            adv = published.part_pgd(self.model, self.x, self.y, radii, EPS, STEPS, ALPHA)
        self.update(F.cross_entropy(self.model.train()(adv.detach()), self.y))

    @cached_property
    def published(self) -> tuple[types.ModuleType, types.SimpleNamespace]:
        """The published code and its settings."""
        settings = types.SimpleNamespace(model="resnet", cam="gradcam", epsilon=EPS, low_epsilon=EPS_LOW)
        return published_code(self.path), settings


def published_code(path: str) -> types.ModuleType:
    """Return the published `utils`, which asks for a function that Matplotlib 3.9 took away."""
    import matplotlib
    from matplotlib import cm

    if not hasattr(cm, "get_cmap"):
        cm.get_cmap = matplotlib.colormaps.__getitem__
    sys.path.insert(0, path)
    try:
        return importlib.import_module("utils")
    finally:
        sys.path.remove(path)


@contextmanager
def cuda_does_nothing(device: torch.device):
    """Let code that calls `.cuda()` run on a CPU."""
    kept = torch.Tensor.cuda
    if device.type == "cpu":
        torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = kept


def seconds(run, device: torch.device) -> float:
    """Return how long one call takes."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000


def serve(options: argparse.Namespace, parent: Connection) -> None:
    """Answer the name of a variant with the mean seconds of its steps in one turn, and "memory" with the peak in MB."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    bench, device = Bench(options), torch.device(options.device)
    while (name := parent.recv()) != "memory":
        began, taken = time.perf_counter(), []
        while not taken or time.perf_counter() - began < 1:
            if name.startswith("maps"):
                bench.training_pass()
            taken.append(seconds(lambda: VARIANTS[name](bench), device))
        parent.send(mean(taken))
    parent.send(torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_resident())


class Process:
    """A process that runs variants when it is asked to."""

    def __init__(self, options: argparse.Namespace):
        spawn = multiprocessing.get_context("spawn")
        self.connection, theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(options, theirs), daemon=True).start()
        theirs.close()  # so that a process that dies is noticed

    def ask(self, what: str) -> float:
        """Return the mean seconds of a step of the variant `what`, or the peak "memory" in MB, which ends it."""
        self.connection.send(what)
        return self.connection.recv()


def peak_memory(name: str, options: argparse.Namespace) -> float:
    """Return the peak memory of a variant in MB: allocated on the card, or resident in a process of its own."""
    process = Process(options)
    for _ in range(WARM_UP):
        process.ask(name)
    return process.ask("memory")


def peak_resident() -> float:
    """Return the largest resident size of this process in MB (Linux; getrusage counts the parent's as well)."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="channels of the first block; ResNet-18 has 64")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fast", nargs="*", default=["fold"], help="options of the opt-in fast attack")
    parser.add_argument("--reference", metavar="PATH", help="checkout of the published code")
    parser.add_argument("--json", metavar="PATH", help="write the numbers there")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="variants (default: all)")
    return parser.parse_args()


def ratios(table: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return median, smallest and largest ratio over the repetitions."""
    found = {}
    for name, (ours, theirs, floor) in RATIOS.items():
        if ours in table and theirs in table:
            each = [a / b for a, b in zip(table[ours], table[theirs], strict=True)]
            found[name] = {"median": median(each), "smallest": min(each), "largest": max(each), "floor": floor}
    return found


def main() -> None:
    """Time all variants, print the tables, write the JSON."""
    options = parse()
    names = [name for name in options.only or VARIANTS if options.reference or not name.endswith("reference")]
    processes: dict[str, Process] = {}
    for name in names:
        processes[name] = processes.get(PAIRS.get(name, "")) or Process(options)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repetition in tqdm(range(-WARM_UP, options.repeats), unit="repetition"):
        for name, process in processes.items():
            taken = process.ask(name)
            if repetition >= 0:
                times[name].append(taken)
    for process in {*processes.values()}:
        process.ask("memory")
    memory = {name: [peak_memory(name, options)] for name in names}
    result = {
        "settings": {name: getattr(options, name) for name in SETTINGS} | {"torch": torch.__version__},
        "seconds": times,
        "ratios": ratios(times),
        "memory_mb": {name: values[0] for name, values in memory.items()},
        "memory": {name: values["median"] for name, values in ratios(memory).items()},
    }
    print(markdown(result))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


def markdown(result: dict) -> str:
    """Return the tables."""
    o = result["settings"]
    lines = [
        f"ResNet-18 of width {o['width']}, batch {o['batch_size']}, {o['device']}, {o['threads']} threads, torch "
        f"{o['torch']}, PGD-{STEPS}, {o['repeats']} repetitions; fast = {', '.join(o['fast'])}",
        "",
        "| variant | median s | smallest | largest | peak MB |",
        "|---|---|---|---|---|",
    ]
    for name, each in result["seconds"].items():
        mb = result["memory_mb"].get(name)
        shown = "" if mb is None else f"{mb:.0f}"
        lines.append(f"| {name} | {median(each):.4f} | {min(each):.4f} | {max(each):.4f} | {shown} |")
    lines += ["", "| ratio | median | smallest | largest | floor | memory |", "|---|---|---|---|---|---|"]
    for name, r in result["ratios"].items():
        floor = "" if r["floor"] is None else f"{r['floor']:.3f}"
        memory = result["memory"].get(name)
        shown = "" if memory is None else f"{memory:.3f}"
        lines.append(f"| {name} | {r['median']:.3f} | {r['smallest']:.3f} | {r['largest']:.3f} | {floor} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
