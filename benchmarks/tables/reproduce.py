"""The paper's tables, trained and tested at a scale of your choice.

    python benchmarks/tables/reproduce.py cpu --root data --jobs 2
    python benchmarks/tables/reproduce.py gpu --root data --device cuda --workers 8
    python benchmarks/tables/reproduce.py paper --root data --device cuda --workers 8 --shard 0/4

paper: Appendix G as it stands. tuned: all of CIFAR-10 with the settings usual since 2020, a network of width 16 and a
short schedule, under an hour a cell on one core. gpu: fewer epochs, meant for half an hour on one modern GPU. cpu: a
narrow network on a subset, under two hours on 2 cores. digits: scikit-learn's, without files. The same command again
goes on where it was stopped. OUT/results.jsonl gets a line for every finished cell; `report.py` makes tables and
figures of it.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from cells import METHODS, Cell, Scale, cell, over_seeds
from harness import parser, run_grid

from part_plugin.recipes.presets import PRESETS, preset

QUADRANTS = ("top-left", "top-right", "bottom-left", "bottom-right")

DATASETS = ("cifar10", "svhn", "tinyimagenet")
NARROW = {  # RobustBench's ResNet-18 does not take images of 64x64
    "cifar10": {"architecture": "resnet.ResNet18", "arguments": {"width": 8}},
    "svhn": {"architecture": "resnet.ResNet18", "arguments": {"width": 8}},
    "tinyimagenet": {"arguments": {"depth_configs": [1, 1, 1], "channel_configs": [16, 16, 32, 64]}},
}
FEWER = {"epochs": 12, "burn_in": 3, "milestones": [9], "lr": 0.05, "fast": ["bfloat16"]}
FEWEST = {
    "epochs": 7, "burn_in": 1, "milestones": [5], "lr": 0.05, "fast": ["fold"], "steps": 5, "alpha": "3/255"
}  # fmt: skip
# Rice et al. 2020 and Pang et al. 2021: lr 0.1 and weight decay 5e-4; Andriushchenko and Flammarion 2020: two steps of
# eps / 2 train as well as ten
TUNED = {
    **NARROW["cifar10"], "arguments": {"width": 16}, "lr": 0.1, "weight_decay": 5e-4, "epochs": 8, "burn_in": 2,
    "milestones": [5, 7], "steps": 2, "alpha": "4/255", "fast": ["fold", "bfloat16"],
}  # fmt: skip

SCALES = {
    "paper": Scale(PRESETS, seeds=(0, 1, 2)),
    "tuned": Scale(
        {"cifar10": preset("cifar10", **TUNED)},
        test=1000,
        validation=500,
        attacks=("natural", "pgd20", "mma"),
        thorough=("natural", "pgd20", "mma"),
    ),
    "gpu": Scale({name: preset(name, **FEWER) for name in DATASETS}, test=1000, validation=500, seeds=(0,)),
    "cpu": Scale(
        {name: preset(name, **NARROW[name], **FEWEST) for name in DATASETS},
        samples=8_000,
        test=1000,
        validation=250,
        attacks=("natural", "pgd20"),
        seeds=(0,),
    ),
    "digits": Scale(
        {"digits": preset("digits")},
        eps=0.2,
        widest=8,  # at 12 training collapses
        validation=400,
        attacks=("natural", "pgd20", "mma"),
        seeds=tuple(range(6)),
    ),
}


def methods(scale: Scale, dataset: str) -> list[Cell]:
    """Table 1 without its rows for s = 10."""
    return [cell(scale, dataset, method, thorough=True) for method in METHODS]


def refresh(scale: Scale, dataset: str) -> list[Cell]:
    """Table 1: masks renewed every 10 epochs."""
    return [cell(scale, dataset, method, mask_every=10) for method in ("PART", "PART-T", "PART-M")]


def cams(scale: Scale, dataset: str) -> list[Cell]:
    """Table 6: other class activation maps."""
    return [cell(scale, dataset, "PART", cam=cam) for cam in ("gradcam", "xgradcam", "layercam")]


def steps(scale: Scale, dataset: str) -> list[Cell]:
    """Table 8: more steps of the attack in training."""
    return [cell(scale, dataset, "PART", steps=steps) for steps in (10, 20, 40, 60)]


def few_steps(scale: Scale, dataset: str) -> list[Cell]:
    """Not in the paper: whether two steps of half the radius train as well as five of 3/255."""
    pairs = ((2, scale.eps / 2), (5, scale.eps * 3 / 8))
    return [cell(scale, dataset, "AT", steps=steps, alpha=alpha) for steps, alpha in pairs]


def frontier(scale: Scale, dataset: str) -> list[Cell]:
    """Not in the paper: AT at smaller radii, PART at a smaller eps_low, and PART's mean radius on all pixels."""
    at = [cell(scale, dataset, "AT", eps=scale.eps * radius / 8) for radius in (6, 7)]
    return [*at, _with_radii(scale, dataset, 8, 5), cell(scale, dataset, "PART", "mean")]


def mma(scale: Scale, dataset: str) -> list[Cell]:
    """Table 5: training on the minimum-margin attack."""
    return [cell(scale, dataset, method, attack=attack) for attack in ("pgd", "mma") for method in ("AT", "PART")]


def radii(scale: Scale, dataset: str) -> list[Cell]:
    """Figure 4: other radii. Which ones it has was published nowhere that we know of; these are a choice of ours."""
    pairs = [(8, low) for low in (8, 7, 4, 5, 6)] + [(12, low) for low in (8, 9, 10, 11, 12)]
    return [_with_radii(scale, dataset, *pair) for pair in pairs if pair[0] <= scale.widest]


def quadrants(scale: Scale, dataset: str) -> list[Cell]:
    """Figure 1: eps 12/255 but for one quarter of the image, which has 6/255; or what a scale can stand.

    Two of its networks were published, in the authors' README; report.py has their accuracies.
    """
    eps, eps_low = scale.widest, scale.widest / 2
    lowered = [_with_radii(scale, dataset, eps, eps_low, f"{place} lowered") for place in QUADRANTS]
    return [_with_radii(scale, dataset, eps, eps), *lowered]


def _with_radii(scale: Scale, dataset: str, eps: float, eps_low: float, budget: str = "aligned") -> Cell:
    """Return a cell with radii in eighths of the test's; the usual ones as they are, so that cells are shared."""
    usual = {8: scale.settings[dataset].eps, 7: scale.settings[dataset].eps_low}
    eps, eps_low = (usual.get(radius, scale.eps * radius / 8) for radius in (eps, eps_low))
    return cell(scale, dataset, "AT" if eps == eps_low else "PART", budget, eps=eps, eps_low=eps_low)


TABLES = {
    "methods": methods,
    "refresh": refresh,
    "cams": cams,
    "steps": steps,
    "few_steps": few_steps,
    "frontier": frontier,
    "mma": mma,
    "radii": radii,
    "quadrants": quadrants,
}
CHOSEN = {
    "paper": ("methods", "refresh", "cams", "steps", "mma", "radii", "quadrants"),
    "tuned": ("methods", "frontier"),
    "gpu": ("methods",),
    "cpu": ("methods", "refresh"),
    "digits": ("quadrants", "radii"),
}


def grid(scale: Scale, datasets: Sequence[str], tables: Sequence[str]) -> list[Cell]:
    """Return the cells of the tables for the datasets; all but Table 1 are of the first alone, as in the paper."""
    cells = []
    for table in tables:
        for dataset in datasets if table in ("methods", "refresh") else datasets[:1]:
            cells += TABLES[table](scale, dataset)
    return over_seeds(scale, cells)


def add_changes(made: argparse.ArgumentParser) -> None:
    """Add the options that change a scale."""
    made.add_argument("--seeds", nargs="+", type=int, help="default: those of the scale")
    made.add_argument("--samples", type=int, help="random training images (default: as the scale)")
    made.add_argument("--width", type=int, help="channels of the first block of a ResNet-18 (default: as the scale)")


def adapted(scale: Scale, options: argparse.Namespace) -> Scale:
    """Return the scale with the command line's changes."""
    settings = scale.settings
    if options.width:
        narrow = {"architecture": "resnet.ResNet18", "arguments": {"width": options.width}}
        settings = {name: dataclasses.replace(one, **narrow) for name, one in settings.items()}
    return dataclasses.replace(
        scale,
        settings=settings,
        samples=options.samples or scale.samples,
        seeds=tuple(options.seeds or scale.seeds),
    )


def main() -> None:
    """Run the grid."""
    made = parser(__doc__)
    made.add_argument("scale", choices=list(SCALES))
    made.add_argument("--tables", nargs="+", choices=list(TABLES), help="default: what fits the scale")
    made.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    made.add_argument("--datasets", nargs="+", choices=DATASETS, help="default: the first of the scale")
    add_changes(made)
    options = made.parse_args()
    scale = adapted(SCALES[options.scale], options)
    datasets = [name for name in options.datasets or () if name in scale.settings] or list(scale.settings)[:1]
    cells = grid(scale, datasets, options.tables or CHOSEN[options.scale])
    run_grid([one for one in cells if one.method in options.methods], options)


if __name__ == "__main__":
    main()
