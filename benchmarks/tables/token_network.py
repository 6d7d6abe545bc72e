"""AT and PART on a transformer of tokens: timm's vit_tiny on 32x32 images, patches of 4x4.

A natural training of a few epochs comes first and is shared; then each method goes on from it (PART with the paper's
share of burn-in, a quarter). OUT holds a file of weights per method, after each epoch, and results.jsonl. A run that
was stopped goes on after its last epoch.

    python benchmarks/tables/token_network.py natural --root data --out OUT
    python benchmarks/tables/token_network.py AT --root data --out OUT
    python benchmarks/tables/token_network.py PART --root data --out OUT
    python benchmarks/tables/token_network.py figure --root data --out OUT
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from harness import commit, provenance
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

from part_plugin import PART, class_activation_map, evaluate
from part_plugin.recipes.augmentation import MovedMasks, augmentation
from part_plugin.recipes.datasets import as_tensors, load_dataset

sys.path.append(str(Path(__file__).parents[2] / "examples"))

EPS = 8 / 255
METHODS = ("natural", "AT", "PART")
SETTINGS = ("images", "epochs", "steps", "batch_size", "lr", "precision", "seed")


def network() -> nn.Module:
    """Return timm's vit_tiny for 32x32 images."""
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=12, num_heads=3, num_classes=10)


def run(options: argparse.Namespace) -> dict:
    """Train one method, or what is left of it, and test it."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    model = network().to(options.device)
    if options.method != "natural":
        model.load_state_dict(torch.load(out / "natural.pt", weights_only=True)["model"])
    history = train(model, options, out / f"{options.method}.pt")
    x, y = images(options, "test", options.test)
    attacks = ("natural",) if options.method == "natural" else options.attacks
    state = out / f"{options.method}-{options.test}.state.json"
    found = evaluate(model, x, y, EPS, attacks, name=options.method, state=state)
    record = {
        "method": options.method,
        **{name: getattr(options, name) for name in SETTINGS},
        "test": len(y),
        "accuracy": {result.name: [result.accuracy, *result.interval] for result in found.results},
        "epochs_done": history,
        **provenance(options),
    }
    with open(out / "results.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return record


def train(model: nn.Module, options: argparse.Namespace, path: Path) -> list[dict]:
    """Train `model` and return what each epoch gave; weights and optimiser are kept in `path`."""
    x, y = images(options, "train", options.images)
    low = EPS if options.method == "AT" else None
    part = PART("at", eps=EPS, eps_low=low, alpha=EPS / 2, steps=options.steps, burn_in=options.epochs // 4, seed=0)
    loader = torch.utils.data.DataLoader(
        MovedMasks(list(zip(x, y.tolist(), strict=True)), part, augmentation("cifar10", x.shape[2:])),
        options.batch_size,
        shuffle=True,
        drop_last=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.05)
    total = options.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total, pct_start=0.1)
    history: list[dict] = []
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        part.load_state_dict(state["part"])
        history = state["history"]
    for epoch in range(len(history), options.epochs):
        torch.manual_seed(1000 * options.seed + epoch)
        part.set_epoch(epoch)
        history.append(one_epoch(model, part, loader, optimizer, schedule, options))
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save({**state, "part": part.state_dict(), "history": history}, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)
        print(options.method, history[-1], flush=True)
    return history


def one_epoch(model, part, loader, optimizer, schedule, options) -> dict:
    """Train one epoch and return its mean loss, its steps that were not finite, and its seconds."""
    began, losses, bad = time.perf_counter(), 0.0, 0
    for x, y, *_ in tqdm(loader, disable=None):
        x, y = x.to(options.device), y.to(options.device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=options.precision == "bfloat16"):
            model.train()
            loss = F.cross_entropy(model(x), y) if options.method == "natural" else part.loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        bad += not bool(torch.isfinite(loss) and torch.isfinite(norm))
        optimizer.step()
        schedule.step()
        losses += loss.item() / len(loader)
    return {"loss": losses, "not_finite": bad, "seconds": time.perf_counter() - began}


def images(options: argparse.Namespace, split: str, n: int) -> tuple[Tensor, Tensor]:
    """Return n random images of a split and their classes."""
    return as_tensors(load_dataset("imagefolder", options.root, split), n, 0)


def figure(options: argparse.Namespace) -> None:
    """Draw test images, and on them the maps of both methods by GradCAM and by attention, in OUT/token-maps.png."""
    from map_sources import attention_rollout

    x, _ = images(options, "test", options.test)
    x, rows = x[:: len(x) // 8][:8], [("image", None)]
    for method in ("AT", "PART"):
        model = network().eval()
        model.load_state_dict(torch.load(Path(options.out) / f"{method}.pt", weights_only=True)["model"])
        for name, cam in (("GradCAM", "gradcam"), ("attention", attention_rollout)):
            rows.append((f"{name}, {method}", class_activation_map(model, x, cam=cam)))
    drawn, axes = plt.subplots(len(rows), len(x), figsize=(len(x), len(rows)), layout="constrained")
    for row, (name, maps) in zip(axes, rows, strict=True):
        for ax, image, number in zip(row, x, range(len(x)), strict=True):
            ax.imshow(image.permute(1, 2, 0))
            if maps is not None:
                ax.imshow(maps[number, 0], cmap="magma", alpha=0.7, vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    drawn.savefig(Path(options.out) / "token-maps.png", dpi=100)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=(*METHODS, "figure"))
    parser.add_argument("--root", default="data", help="directory with class folders in train and test")
    parser.add_argument("--out", default="token-network")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--test", type=int, default=1000, help="number of test images")
    parser.add_argument(
        "--attacks", nargs="+", default=["natural", "pgd20", "mma"], help="what to test with, see evaluate"
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.commit = commit()
    if options.method == "figure":
        figure(options)
    else:
        print(json.dumps(run(options)["accuracy"]))


if __name__ == "__main__":
    main()
