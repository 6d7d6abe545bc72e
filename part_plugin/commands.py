"""The commands of `part-plugin`: train, evaluate, explain, compare, presets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
import typer.core

from .checks import check_count, check_seed
from .cli_arguments import check_not_given, images_for, networks_and_pictures, overrides, runs, subset, trained_size
from .radius import parse_radius
from .recipes.augmentation import augmentation
from .recipes.common import usable_device
from .recipes.datasets import DATASETS, load_dataset
from .recipes.presets import PRESETS, preset
from .stopping import exiting_when_stopped

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation import Evaluation


class _Commands(typer.core.TyperGroup):
    """Commands that are stopped in one sentence, before typer makes something else of it."""

    def invoke(self, ctx: Any) -> Any:
        with exiting_when_stopped():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Pixel-reweighted adversarial training (PART, ICML 2024): train, evaluate, explain, compare.",
)

Root = Annotated[Path, typer.Option(help="Directory of the dataset.")]
Device = Annotated[str, typer.Option(help="Where to compute, e.g. cpu or cuda.")]
Download = Annotated[bool, typer.Option(help="Download the dataset if it is missing (cifar10, svhn).")]


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(PRESETS)}.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE to change.")] = None,
) -> None:
    """Print the paper's settings.

    Example: part-plugin presets svhn --set eps=6/255
    """
    if name is None:
        typer.echo("\n".join(PRESETS))
    else:
        typer.echo(preset(name, **overrides(settings)))


@app.command()
def train(
    out: Annotated[Path, typer.Argument(help="Checkpoint to write.")],
    name: Annotated[str, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}.")] = "cifar10",
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE to change.")] = None,
    root: Root = Path("data"),
    device: Device = "cpu",
    download: Download = False,
    augment: Annotated[
        bool | None,
        typer.Option(help="Random crops and flips. [default: yes, but for digits]"),
    ] = None,
    n: Annotated[int | None, typer.Option(help="Train on so many random samples only.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 0,
) -> None:
    """Train a network as in the paper; the same command again goes on with a run that was stopped.

    Plain adversarial training is eps_low=8/255, where PART has 7/255.

    Example: part-plugin train part.pt --preset cifar10 --root data --device cuda

    Example: part-plugin train small.pt --preset digits --set epochs=10 --set burn_in=3
    """
    from .recipes.destination import Destination
    from .recipes.training import train

    chosen, usable = preset(name, **overrides(settings)), usable_device("--device", device)
    check_count("--workers", workers, 0)
    augment = chosen.dataset != "digits" if augment is None else augment
    with Destination(out).reserved():
        dataset = load_dataset(chosen.dataset, root, "train", download)
        transform = augmentation(chosen.dataset, dataset[0][0].shape[1:]) if augment else None
        if n is not None:
            dataset = subset(dataset, n, chosen.seed)
        train(chosen, dataset, out, usable, workers, transform=transform)
    typer.echo(f"wrote {out}")


@app.command()
def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints to evaluate.")],
    dataset: Annotated[
        str | None,
        typer.Option(help=f"One of {', '.join(DATASETS)}. [default: what the first was trained on]"),
    ] = None,
    root: Root = Path("data"),
    out: Annotated[Path, typer.Option(help="Directory for results.")] = Path("results"),
    suite: Annotated[str, typer.Option(help="quick, standard or paper.")] = "standard",
    attacks: Annotated[
        str | None,
        typer.Option(help="Attacks instead of a suite, e.g. natural,pgd20,mma,autoattack."),
    ] = None,
    eps: Annotated[str, typer.Option(help="Radius of the l_inf threat model.")] = "8/255",
    n: Annotated[
        int | None,
        typer.Option(help="Evaluate so many samples, the first (of an imagefolder random ones). [default: all]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random starts.")] = 0,
    seeds: Annotated[int, typer.Option(help="Repeat with so many seeds, and print mean and spread.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Samples per forward pass.")] = 128,
    device: Device = "cpu",
    download: Download = False,
    corruptions_dir: Annotated[
        Path | None,
        typer.Option(help="Directory of CIFAR-10-C. [default: corruptions are generated]"),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there already.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes that share the work on the CPU.")] = 1,
    devices: Annotated[int, typer.Option(help="Cards that share the work, with --device cuda.")] = 1,
) -> None:
    """Measure accuracies; writes NAME.json, .md and .csv for each checkpoint, and a comparison of several.

    A run that was interrupted goes on where it was when the same command is given again, also with other --jobs. The
    processes of torchrun share it, too: torchrun --nproc-per-node 4 --no-python -- part-plugin evaluate ...

    Example: part-plugin evaluate at.pt part.pt --root data --n 1000 --suite paper --device cuda --devices 2

    Example: part-plugin evaluate part.pt --attacks natural,pgd20,mma --eps 8/255
    """
    from .evaluation import compare as compare_results
    from .evaluation import evaluate
    from .evaluation.examine import versions
    from .evaluation.ranks import joined, own_device, rank_of_torchrun
    from .evaluation.suites import row_names
    from .recipes.checkpoints import load_checkpoint
    from .recipes.reports import reserved_results, write_comparison

    chosen = None if attacks is None else [attack.strip() for attack in attacks.split(",")]
    check_count("--seeds", seeds)
    check_seed("--seed", seed + seeds - 1 if seed >= 0 else seed)
    for option, count in (("--batch-size", batch_size), ("--jobs", jobs), ("--devices", devices)):
        check_count(option, count)
    radius = parse_radius("eps", eps)
    names = row_names(chosen or (), None if chosen else suite, radius, seed)
    card = {"eps": radius, "batch_size": batch_size, "attacks": names, "versions": versions()}
    plan = runs(checkpoints, range(seed, seed + seeds))
    usable, writes = usable_device("--device", own_device(device)), rank_of_torchrun() in (None, 0)
    with joined() as ranks, reserved_results(plan if writes else [], out, card, overwrite):
        loaded = {path.stem: load_checkpoint(path, usable) for path in checkpoints}
        x, y = images_for({name: about for name, (_, about) in loaded.items()}, dataset, root, download, n)
        options: dict[str, Any] = {"batch_size": batch_size, "corruptions_dir": corruptions_dir}
        options |= {"jobs": jobs, "devices": devices, "ranks": ranks}
        options |= {"suite": suite} if chosen is None else {"attacks": chosen}
        evaluations: dict[str, list[Evaluation]] = {name: [] for name in loaded}
        for run, name, run_seed in plan:
            state = out / f"{run}.state.json"
            evaluation = evaluate(loaded[name][0], x, y, eps, seed=run_seed, name=run, state=state, **options)
            if not writes:
                continue
            evaluation.save(out / run, overwrite)
            typer.echo(f"{evaluation}\n")
            evaluations[name].append(evaluation)
        for name in loaded if seeds > 1 and writes else ():
            table = 100 * compare_results(evaluations[name])
            typer.echo(f"{name}, mean and standard deviation over {seeds} seeds, in %")
            typer.echo(f"{table.agg(['mean', 'std']).T.round(2).to_string()}\n")
        if len(plan) > 1 and writes:
            everything = [evaluation for group in evaluations.values() for evaluation in group]
            _echo_comparison(write_comparison(everything, out / "comparison"), out / "comparison")


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(help="JSON files that `evaluate` wrote.")],
    out: Annotated[Path, typer.Option(help="Write OUT.md, OUT.csv and the figure OUT.png.")] = Path("comparison"),
    attack: Annotated[str, typer.Option(help="Robust accuracy to show in the figure.")] = "worst case",
) -> None:
    """Put results side by side: a table, and a figure of natural against robust accuracy.

    Example: part-plugin compare results/at.json results/part.json --attack autoattack
    """
    from .evaluation import Evaluation
    from .recipes.reports import check_comparison, write_comparison

    check_not_given(out, Path(f"{out}.json"), results)
    check_comparison(out)
    _echo_comparison(write_comparison([Evaluation.load(path) for path in results], out, attack), out)


@app.command()
def explain(
    checkpoints_and_images: Annotated[
        list[Path],
        typer.Argument(metavar="CHECKPOINT... IMAGE...", help="Checkpoints (.pt, .safetensors), then pictures."),
    ],
    out: Annotated[Path, typer.Option(help="Figure to write.")] = Path("explain.png"),
    eps: Annotated[str, typer.Option(help="Radius of important pixels.")] = "8/255",
    eps_low: Annotated[str | None, typer.Option(help="Radius of other pixels. [default: 7/8 of eps]")] = None,
    cam: Annotated[str, typer.Option(help="gradcam, xgradcam, layercam or a class of pytorch-grad-cam.")] = "gradcam",
    size: Annotated[
        int | None,
        typer.Option(help="Resize pictures to SIZE x SIZE. [default: as the first checkpoint was trained]"),
    ] = None,
) -> None:
    """Draw image, map, budget and perturbation side by side.

    Example: part-plugin explain at.pt part.pt cat.png dog.png --out explain.png
    """
    from .pixel_budget import PixelBudget
    from .plots import plot_budgets
    from .recipes.checkpoints import load_checkpoint
    from .recipes.pictures import load_pictures
    from .recipes.reports import check_figure, write_figure

    networks, pictures = networks_and_pictures(checkpoints_and_images)
    low = None if eps_low is None else parse_radius("eps_low", eps_low)
    check_not_given(out, out, pictures)
    check_figure(out)
    budget = PixelBudget(parse_radius("eps", eps), low, cam=cam)
    loaded = {path.stem: load_checkpoint(path) for path in networks}
    given = None if size is None else [check_count("--size", size)] * 2
    images = load_pictures(pictures, given or trained_size({name: one for name, (_, one) in loaded.items()}))
    models = {name: model for name, (model, _) in loaded.items()}
    with torch.no_grad():
        labels = next(iter(models.values()))(images).argmax(1)
    write_figure(out, plot_budgets(models, images, labels, budget))
    for path, label in zip(pictures, labels.tolist(), strict=True):
        typer.echo(f"{path}: class {label}")
    typer.echo(f"wrote {out}")


def _echo_comparison(table: pd.DataFrame, path: Path) -> None:
    typer.echo(table.T.to_string())
    typer.echo(f"wrote {path}.md, .csv and .png")
