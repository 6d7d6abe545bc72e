"""Every speed-up of the attack alone: what it was predicted to give, what it gives, how far its gradient is off.

    python benchmarks/speed/speedups.py --width 16 --batch-size 128 --repeats 7

Timed are STEPS gradients of the cross-entropy for the images, as in one attack, including what is done once for it, all
in one process (`timing.py` says how); ratios are to "plain": eval mode, gradient to the images, as torchattacks takes
it. Distances are those of the gradients of single images, |g - g'| / |g'|, and the share of signs that differ, from
plain float32.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timing import ratios, spread, take_turns, turn
from workload import add_size, network_and_batch, parser, write

from part_plugin import class_activation_map
from part_plugin.network.batching import in_parts
from part_plugin.network.fast import accelerated
from part_plugin.network.isolation import eval_mode, frozen
from part_plugin.network.view import logits_of

STEPS = 5
Run = Callable[[], torch.Tensor]
VARIANTS = {  # name: (options of `fast`, or None where the variant is not ours; predicted; why)
    "weight gradients too": (None, 1.5, "3 units of work where 2 are needed; ART's attacks do so"),
    "plain": (None, 1.0, "the measure"),
    "frozen": (None, 1.0, "autograd computes no weight gradient that nobody asks for"),
    "lean": ((), 0.95, "and channels-last weights: the CPU's kernels want them"),
    "lean, in parts": ((), 0.95, "as PART does it, and so all that follow; nothing was predicted, it was found"),
    "fold": (("fold",), 0.75, "a third of a narrow ResNet's passes is batch norm; less of a wide one's"),
    "compile": (("compile",), 0.66, "element-wise work is fused"),
    "fold, compile": (("fold", "compile"), 0.6, "both"),
    "bfloat16": (("bfloat16",), 1.0, "0.5 where the hardware multiplies it, more than 1 where not"),
}
MAPS = {
    "maps, whole graph": (None, 1.0, "the measure"),
    "maps": (None, 0.9, "the same unit of work, without keeping what a backward pass would need"),
}


def gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, weights: bool = False) -> torch.Tensor:
    """Return the gradient of the loss for the images, and let those for the weights be computed if asked to."""
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(logits_of(model, x), y, reduction="sum")
    wanted = [x, *(parameter for parameter in model.parameters() if weights)]
    return torch.autograd.grad(loss, wanted)[0]


def variants(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Run]:
    """Return functions that take STEPS gradients and return the last."""

    def several(attacked: torch.nn.Module, weights: bool = False, rows: slice = slice(None)) -> torch.Tensor:
        return [gradient(attacked, x[rows], y[rows], weights) for _ in range(STEPS)][-1]

    def ours(fast: tuple[str, ...], whole: bool = False) -> torch.Tensor:
        with eval_mode(model), frozen(model), accelerated(model, x, fast) as attacked:
            if whole:
                return several(attacked)
            return torch.cat(in_parts(lambda rows: several(attacked, rows=rows), attacked, x))

    def without_weight_gradients() -> torch.Tensor:
        model.requires_grad_(False)
        try:
            return several(model)
        finally:
            model.requires_grad_(True)

    theirs = {
        "weight gradients too": lambda: several(model, weights=True),
        "plain": lambda: several(model),
        "frozen": without_weight_gradients,
        "lean": lambda: ours((), whole=True),
    }
    return {
        name: theirs[name] if name in theirs else lambda fast=fast: ours(fast) for name, (fast, *_) in VARIANTS.items()
    }


def maps(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Run]:
    """Return functions that make the maps of a batch: ours, and with an autograd graph through the whole network."""

    def whole_graph() -> torch.Tensor:
        kept = []
        hook = model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
        logits = model(x)
        hook.remove()
        return torch.autograd.grad(logits.amax(1).sum(), kept[0])[0]

    def ours() -> torch.Tensor:
        with frozen(model):
            return class_activation_map(model, x, target_layers=model.layer4)

    return {"maps, whole graph": whole_graph, "maps": ours}


def main() -> None:
    """Time everything, print the table, write the JSON."""
    made = parser(__doc__, repeats=7)
    add_size(made)
    made.add_argument("--only", nargs="*", choices=list(VARIANTS), help='variants beside "plain" (default: all)')
    options = made.parse_args()
    model, x, y = network_and_batch(options)
    for _ in range(10):
        model(x)  # so that batch norm has something to fold
    model.eval()
    wanted = {"plain", *(VARIANTS if options.only is None else options.only)}
    attack = {name: run for name, run in variants(model, x, y).items() if name in wanted}
    exact = attack["plain"]()
    off = {name: distance(run(), exact) for name, run in attack.items()}
    runs = attack | maps(model, x)
    times = take_turns({name: partial(turn, run, x.device) for name, run in runs.items()}, options.repeats)
    found = {}
    for name, each in times.items():
        relative = ratios(each, times["maps, whole graph" if name in MAPS else "plain"])
        found[name] = {"seconds": each, "ratios": relative, "distance": off.get(name)}
    print(
        f"ResNet-18 of width {options.width}, batch {options.batch_size}, {options.device}, {options.threads} threads"
    )
    print(markdown(found))
    write({"settings": vars(options), "variants": found}, options.json)


def markdown(found: dict[str, dict]) -> str:
    """Return the table."""
    lines = [
        "",
        "| variant | s | ratio | smallest | largest | predicted | gradient off by | signs | why |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of in found.items():
        _, predicted, why = (VARIANTS | MAPS)[name]
        apart, signs = (f"{of['distance'][0]:.0e}", f"{of['distance'][1]:.2%}") if of["distance"] else ("", "")
        shown = [f"{value:.2f}" for value in (*spread(of["ratios"]).values(), predicted)]
        cells = [name, f"{spread(of['seconds'])['median']:.3f}", *shown, apart, signs, why]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def distance(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Return the median relative distance over images, and the share of signs that differ."""
    apart = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(apart.median()), float((found.sign() != exact.sign()).float().mean())


if __name__ == "__main__":
    main()
