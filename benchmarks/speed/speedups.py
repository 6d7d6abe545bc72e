"""Every speed-up of the attack alone: what it was predicted to give, what it gives, how far its gradient is off.

    python benchmarks/speedups.py --width 16 --batch-size 128 --repeats 7

Timed are STEPS gradients of the cross-entropy for the images, as in one attack, including what is done once for it; the
variants run one after the other in every repetition, and ratios to "plain" (eval mode, gradient to the images, as
torchattacks takes it) are those of one repetition. Distances are those of the gradients of single images, |g - g'| /
|g'|, and the share of signs that differ, from plain float32.
"""

import argparse
import json
from statistics import median

import torch
import torch.nn.functional as F
from step import seconds

from part_plugin import class_activation_map
from part_plugin.adapters.robustbench import ResNet18
from part_plugin.surrogate import in_parts, lean, logits_of, sped_up, undisturbed

STEPS = 5
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


def variants(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, names: list[str]) -> dict:
    """Return functions that take STEPS gradients and return the last."""

    def several(attacked: torch.nn.Module, weights: bool = False, rows: slice = slice(None)) -> torch.Tensor:
        return [gradient(attacked, x[rows], y[rows], weights) for _ in range(STEPS)][-1]

    def ours(fast: tuple[str, ...], whole: bool = False) -> torch.Tensor:
        with undisturbed(model), lean(model), sped_up(model, x, fast) as attacked:
            if whole:
                return several(attacked)
            return torch.cat(in_parts(lambda rows: several(attacked, rows=rows), attacked, x))

    def frozen() -> torch.Tensor:
        model.requires_grad_(False)
        try:
            return several(model)
        finally:
            model.requires_grad_(True)

    theirs = {
        "weight gradients too": lambda: several(model, weights=True),
        "plain": lambda: several(model),
        "frozen": frozen,
        "lean": lambda: ours((), whole=True),
    }
    return {
        name: theirs[name] if name in theirs else lambda fast=fast: ours(fast)
        for name, (fast, *_) in VARIANTS.items()
        if name in (*names, "plain")
    }


def maps(model: torch.nn.Module, x: torch.Tensor) -> dict:
    """Return functions that make the maps of a batch: ours, and with an autograd graph through the whole network."""

    def whole_graph() -> torch.Tensor:
        kept = []
        hook = model.layer4.register_forward_hook(lambda module, inputs, output: kept.append(output))
        logits = model(x)
        hook.remove()
        return torch.autograd.grad(logits.amax(1).sum(), kept[0])[0]

    def ours() -> torch.Tensor:
        with lean(model):
            return class_activation_map(model, x, target_layers=model.layer4)

    return {"maps, whole graph": whole_graph, "maps": ours}


def main() -> None:
    """Time everything, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="variants (default: all)")
    parser.add_argument("--json", metavar="PATH")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = ResNet18(options.width).to(options.device)
    x = torch.rand(options.batch_size, 3, 32, 32, device=options.device)
    y = torch.randint(10, (options.batch_size,), device=options.device)
    for _ in range(10):
        model(x)  # so that batch norm has something to fold
    model.eval()
    attack, both = variants(model, x, y, options.only), maps(model, x)
    runs = attack | both
    exact = attack["plain"]()
    off = {name: distance(run(), exact) for name, run in attack.items()}
    times = {name: [] for name in runs}
    for run in both.values():
        run()  # warm-up
    for _ in range(options.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, x.device))
    print(
        f"ResNet-18 of width {options.width}, batch {options.batch_size}, {options.device}, {options.threads} threads"
    )
    print("\n| variant | s | ratio | smallest | largest | predicted | gradient off by | signs | why |")
    print("|---|---|---|---|---|---|---|---|---|")
    found = {}
    for name, each in times.items():
        base = "maps, whole graph" if name in both else "plain"
        ratios = [a / b for a, b in zip(each, times[base], strict=True)]
        found[name] = {"seconds": each, "ratios": ratios, "distance": off.get(name)}
        _, predicted, why = (VARIANTS | MAPS)[name]
        apart, signs = (f"{off[name][0]:.0e}", f"{off[name][1]:.2%}") if name in off else ("", "")
        shown = f"{median(each):.3f} | {median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} | {predicted:.2f}"
        print(f"| {name} | {shown} | {apart} | {signs} | {why} |")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"settings": vars(options), "variants": found}, file, indent=1)


def distance(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    """Return the median relative distance over images, and the share of signs that differ."""
    apart = (found - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    return float(apart.median()), float((found.sign() != exact.sign()).float().mean())


if __name__ == "__main__":
    main()
