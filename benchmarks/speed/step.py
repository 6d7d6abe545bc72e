"""Time and memory of a training step here and in the peers, side by side in one run.

    python benchmarks/speed/step.py --width 16 --batch-size 128 --repeats 7 --json step.json

Every variant has a process of its own, as its users have: what another one leaves behind in memory makes a step slower
or faster. Only the two of a pair (AT and PART, TRADES and PART-T, MART and PART-M) share one, since processes differ by
more than they do. All take turns, of a second or of one step where that takes longer (`timing.py` says how).
Maps are timed as in training: before each comes a training pass, which is not timed. Memory is the peak of a fresh
process, for maps that of the training pass as well. `--reference` takes a checkout of the published code.

What a GPU wants, of loops (ART's trainers stay in float32), and how much of its matrix rate that reaches:

    python benchmarks/speed/step.py --device cuda --width 64 --precision bfloat16 --channels-last --rate --only AT PART
"""

import argparse
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from matrix import matrix_rate, operations
from published import Published
from timing import Process, Turn, ratios, spread, take_turns, turn
from workload import add_size, network_and_batch, parser, write

EPS, EPS_LOW, ALPHA, STEPS = 8 / 255, 7 / 255, 2 / 255, 10
WARM_UP, AT_LEAST = 2, 1.0  # turns, and seconds of a turn
SETTINGS = ("width", "batch_size", "device", "threads", "repeats", "fast", "precision", "channels_last")
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
    "maps, reference": lambda bench: bench.published.maps(bench.model, bench.x),
    "PART, reference": lambda bench: bench.train_on(bench.published.attack(bench.model, bench.x, bench.y)),
}


class Bench:
    """A network, an optimizer, a batch, and ways to train on it."""

    def __init__(self, options: argparse.Namespace):
        self.model, self.x, self.y = network_and_batch(options)
        if options.channels_last:
            self.model, self.x = (each.to(memory_format=torch.channels_last) for each in (self.model, self.x))
        low = options.precision == "bfloat16"
        self.autocast = partial(torch.autocast, self.x.device.type, torch.bfloat16, enabled=low)
        self.fast, self.path = options.fast, options.reference
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9, weight_decay=2e-4)
        self.trainers = {}

    def update(self, loss: torch.Tensor) -> None:
        """Take an optimizer's step."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def train_on(self, x: torch.Tensor) -> None:
        """Train on images as they are."""
        with self.autocast():
            loss = F.cross_entropy(self.model.train()(x), self.y)
        self.update(loss)

    def step(self, objective: str, eps_low: float = EPS_LOW, **settings) -> None:
        """Train on the batch with PART; equal radii are the plain objective."""
        from part_plugin import PART

        settings |= {"eps": EPS, "eps_low": eps_low, "alpha": ALPHA, "steps": STEPS, "burn_in": 0, "seed": 0}
        with self.autocast():
            loss = PART(objective, **settings).loss(self.model.train(), self.x, self.y)
        self.update(loss)

    def training_pass(self) -> None:
        """Train on the batch as it is: what a step is besides attack and map."""
        self.train_on(self.x)

    def torchattacks_loop(self) -> None:
        """Train on the batch with torchattacks' PGD."""
        import torchattacks

        with self.autocast():
            adv = torchattacks.PGD(self.model.train(), EPS, ALPHA, STEPS)(self.x, self.y)
        self.train_on(adv)

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
        own = {"beta": 6.0} if "TRADES" in name else {"ratio": 1.0}
        if name.startswith("PART"):
            return getattr(part_plugin, name)(classifier, attack, burn_in=0, eps_low=EPS_LOW, **own)
        return getattr(art.defences.trainer, name)(classifier, attack, **own)

    def maps(self) -> None:
        """Compute the batch's maps as a training step does."""
        from part_plugin import class_activation_map
        from part_plugin.network.batching import in_parts
        from part_plugin.network.isolation import frozen

        with frozen(self.model), self.autocast():
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

    @cached_property
    def published(self) -> Published:
        """The published code."""
        return Published(self.path, EPS, EPS_LOW, ALPHA, STEPS)


def turns(options: argparse.Namespace) -> dict[str, Turn]:
    """Return the turns of all variants, which share one network."""
    bench = Bench(options)
    before = {name: bench.training_pass for name in VARIANTS if name.startswith("maps")}
    return {
        name: partial(turn, partial(run, bench), bench.x.device, before.get(name), AT_LEAST)
        for name, run in VARIANTS.items()
    }


def process(options: argparse.Namespace) -> Process:
    """Return a process where any variant can run."""
    return Process(turns, [options], torch.device(options.device))


def times(names: list[str], options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of a step in every repetition; each variant has a process, or shares that of its pair."""
    processes: dict[str, Process] = {}
    for name in names:
        processes[name] = processes.get(PAIRS.get(name, "")) or process(options)
    found = take_turns({name: partial(one.turn, name) for name, one in processes.items()}, options.repeats, WARM_UP)
    for one in {*processes.values()}:
        one.close()
    return found


def peak(name: str, options: argparse.Namespace) -> float:
    """Return the peak memory of a variant in MB, in a fresh process."""
    fresh = process(options)
    for _ in range(WARM_UP):
        fresh.turn(name)
    return fresh.close()


def rates(seconds: dict[str, list[float]], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return how many operations each variant takes and makes a second, and those of the machine's matrix product."""
    bench = Bench(options)
    found = {"matrix product": {"rate": matrix_rate(bench.x.device, getattr(torch, options.precision))}}
    for name, each in seconds.items():
        count = operations(partial(VARIANTS[name], bench))
        found[name] = {"operations": count, "rate": count / spread(each)["median"]}
    return found


def compared(seconds: dict[str, list[float]]) -> dict[str, dict[str, float | None]]:
    """Return median, smallest and largest of the ratios between variants that have run, and their floors."""
    return {
        name: spread(ratios(seconds[ours], seconds[theirs])) | {"floor": floor}
        for name, (ours, theirs, floor) in RATIOS.items()
        if ours in seconds and theirs in seconds
    }


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options, those of the command line unless `words` are given."""
    made = parser(__doc__, repeats=5)
    add_size(made)
    made.add_argument("--fast", nargs="*", default=["fold"], help="options of the opt-in fast attack")
    made.add_argument("--reference", metavar="PATH", help="checkout of the published code")
    made.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of loops (default: float32)"
    )
    made.add_argument("--channels-last", action="store_true", help="network and images lie channels-last")
    made.add_argument("--rate", action="store_true", help="also the share of the machine's matrix rate")
    made.add_argument("--only", nargs="*", choices=list(VARIANTS), help="variants (default: all)")
    return made.parse_args(words)


def main() -> None:
    """Time all variants, print the tables, write the JSON."""
    options = options_of()
    names = [name for name in VARIANTS if name in (options.only or VARIANTS)]
    names = [name for name in names if options.reference or not name.endswith("reference")]
    seconds = times(names, options)
    found = compared(seconds)
    memory = {name: peak(name, options) for name in names}
    result = {
        "settings": {name: getattr(options, name) for name in SETTINGS} | {"torch": torch.__version__},
        "seconds": seconds,
        "ratios": found,
        "memory_mb": memory,
        "memory": {name: memory[RATIOS[name][0]] / memory[RATIOS[name][1]] for name in found},
    }
    if options.rate:
        result["rates"] = rates(seconds, options)
    print(markdown(result))
    write(result, options.json)


def markdown(result: dict) -> str:
    """Return the tables."""
    o = result["settings"]
    lines = [
        f"ResNet-18 of width {o['width']}, batch {o['batch_size']}, {o['device']}, {o['threads']} threads, torch "
        f"{o['torch']}, PGD-{STEPS}, {o['repeats']} repetitions; fast = {', '.join(o['fast'])}; "
        f"{o.get('precision', 'float32')}{', channels-last' if o.get('channels_last') else ''}",
        "",
        "| variant | median s | smallest | largest | peak MB |",
        "|---|---|---|---|---|",
    ]
    for name, each in result["seconds"].items():
        lines.append(f"| {name} | {_shown(spread(each), 4)} | {result['memory_mb'][name]:.0f} |")
    lines += ["", "| ratio | median | smallest | largest | floor | memory |", "|---|---|---|---|---|---|"]
    for name, ratio in result["ratios"].items():
        floor = "" if ratio["floor"] is None else f"{ratio['floor']:.3f}"
        lines.append(f"| {name} | {_shown(ratio, 3)} | {floor} | {result['memory'][name]:.3f} |")
    if "rates" in result:
        lines += ["", "| variant | operations | a second | share of a matrix product's |", "|---|---|---|---|"]
    for name, each in result.get("rates", {}).items():
        share = each["rate"] / result["rates"]["matrix product"]["rate"]
        lines.append(f"| {name} | {each.get('operations', 0):.4g} | {each['rate']:.3g} | {share:.1%} |")
    return "\n".join(lines)


def _shown(values: dict[str, float], digits: int) -> str:
    return " | ".join(f"{values[name]:.{digits}f}" for name in ("median", "smallest", "largest"))


if __name__ == "__main__":
    main()
