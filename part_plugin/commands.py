"""The commands of `part-plugin`: train, evaluate, explain, compare, presets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import typer.core

from . import cli_options as option
from .checks import check_count, check_seed
from .cli_arguments import check_not_given, images_for, networks_and_pictures, overrides, runs, trained_size
from .cli_networks import Others, class_text, load_networks, radius_for, say, told
from .cli_options import EXIT_CODES, OTHERS
from .cli_train import train
from .network.view import logits_of
from .radius import parse_radius
from .recipes.common import usable_device
from .recipes.presets import PRESETS, preset
from .stopping import exiting_when_stopped


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
    epilog=EXIT_CODES,
)


@app.callback()
def every_command(version: option.Version = False) -> None:
    """Pixel-reweighted adversarial training (PART, ICML 2024): train, evaluate, explain, compare.

    Example: part-plugin evaluate part.pt --attacks natural,pgd20
    """


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help=f"One of {', '.join(PRESETS)}.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE to change.")] = None,
) -> None:
    """Print the paper's settings, as YAML, for `train --config`.

    Example: part-plugin presets svhn --set eps=6/255
    """
    if name is None:
        typer.echo("\n".join(PRESETS))
    else:
        typer.echo(preset(name, **overrides(settings)))


app.command()(train)


@app.command(epilog=OTHERS)
def evaluate(
    checkpoints: option.Networks,
    dataset: option.Dataset = None,
    root: option.Root = Path("data"),
    out: Annotated[Path, typer.Option(help="Directory for results.")] = Path("results"),
    suite: Annotated[str, typer.Option(help="quick, standard or paper.")] = "standard",
    attacks: option.Attacks = None,
    eps: option.Eps = None,
    n: option.First = None,
    seed: Annotated[int, typer.Option(help="Seed of the random starts.")] = 0,
    seeds: Annotated[int, typer.Option(help="Repeat with so many seeds, and print mean and spread.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Samples per forward pass.")] = 128,
    device: option.Device = "cpu",
    download: option.Download = False,
    corruptions_dir: option.Corruptions = None,
    overwrite: Annotated[bool, typer.Option(help="Replace results that are there already.")] = False,
    architecture: option.Architecture = None,
    arguments: option.Arguments = None,
    num_classes: option.NumClasses = None,
    mean: option.Mean = None,
    std: option.Std = None,
    key: option.Key = None,
    model_dir: option.ModelDir = Path("models"),
    quiet: option.Quiet = False,
    jobs: Annotated[int, typer.Option(help="Processes that share the work on the CPU.")] = 1,
    devices: Annotated[int, typer.Option(help="Cards that share the work, with --device cuda.")] = 1,
) -> None:
    """Measure accuracies; writes NAME.json, .md and .csv for each checkpoint, and a comparison of several.

    A run that was interrupted goes on where it was when the same command is given again, also with other --jobs. The
    processes of torchrun share it, too: torchrun --nproc-per-node 4 --no-python -- part-plugin evaluate ...

    Example: part-plugin evaluate at.pt part.pt --root data --n 1000 --suite paper --device cuda --devices 2

    Example: part-plugin evaluate part.pt --attacks natural,pgd20,mma --eps 8/255

    Example: part-plugin evaluate resnet18.pt --architecture timm:resnet18 --dataset cifar10
    --mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616

    Example: part-plugin evaluate robustbench:Wong2020Fast --model-dir models
    """
    from .cli_evaluate import evaluate_all
    from .evaluation.examine import versions
    from .evaluation.ranks import joined, own_device, rank_of_torchrun
    from .evaluation.suites import row_names
    from .recipes.reports import check_results, reserved_results

    chosen = None if attacks is None else [attack.strip() for attack in attacks.split(",")]
    check_count("--seeds", seeds)
    check_seed("--seed", seed + seeds - 1 if seed >= 0 else seed)
    for name, count in (("--batch-size", batch_size), ("--jobs", jobs), ("--devices", devices)):
        check_count(name, count)
    asked = None if eps is None else parse_radius("eps", eps)
    names = row_names(chosen or (), None if chosen else suite, 8 / 255 if asked is None else asked, seed)
    card = {"batch_size": batch_size, "attacks": names, "versions": versions()}
    plan = runs(checkpoints, range(seed, seed + seeds))
    usable, writes = usable_device("--device", own_device(device)), rank_of_torchrun() in (None, 0)
    others = Others(architecture, arguments, num_classes, mean, std, key, model_dir)
    written, quiet = plan if writes else [], quiet or not writes
    with joined() as ranks, reserved_results(written, out, ({} if asked is None else {"eps": asked}) | card, overwrite):
        loaded = load_networks(checkpoints, others, usable)
        radius = radius_for(loaded, eps)
        check_results(written, out, {"eps": radius}, overwrite)
        say("\n".join(told(loaded)), quiet)
        x, y = images_for({name: about for name, (_, about) in loaded.items()}, dataset, root, download, n)
        options: dict[str, Any] = {"batch_size": batch_size, "corruptions_dir": corruptions_dir, "verbose": not quiet}
        options |= {"jobs": jobs, "devices": devices, "ranks": ranks}
        options |= {"suite": suite} if chosen is None else {"attacks": chosen}
        evaluate_all(plan, loaded, x, y, radius, out, options, overwrite, quiet, writes)


@app.command()
def compare(
    results: Annotated[list[Path], typer.Argument(help="JSON files that `evaluate` wrote.")],
    out: Annotated[Path, typer.Option(help="Write OUT.md, OUT.csv and the figure OUT.png.")] = Path("comparison"),
    attack: Annotated[str, typer.Option(help="Robust accuracy to show in the figure.")] = "worst case",
    quiet: option.Quiet = False,
) -> None:
    """Put results side by side: a table, and a figure of natural against robust accuracy.

    Example: part-plugin compare results/at.json results/part.json --attack autoattack
    """
    from .cli_evaluate import say_comparison
    from .evaluation import Evaluation
    from .recipes.reports import check_comparison

    check_not_given(out, Path(f"{out}.json"), results)
    check_comparison(out)
    say_comparison([Evaluation.load(path) for path in results], out, quiet, attack)


@app.command(epilog=OTHERS)
def explain(
    checkpoints_and_images: Annotated[
        list[Path],
        typer.Argument(metavar="NETWORK... IMAGE...", help="Checkpoints (.pt, .ckpt, .safetensors), then pictures."),
    ],
    out: Annotated[Path, typer.Option(help="Figure to write.")] = Path("explain.png"),
    eps: option.Eps = None,
    eps_low: Annotated[str | None, typer.Option(help="Radius of other pixels. [default: 7/8 of eps]")] = None,
    cam: Annotated[str, typer.Option(help="gradcam, xgradcam, layercam or a class of pytorch-grad-cam.")] = "gradcam",
    size: option.Size = None,
    architecture: option.Architecture = None,
    arguments: option.Arguments = None,
    num_classes: option.NumClasses = None,
    mean: option.Mean = None,
    std: option.Std = None,
    key: option.Key = None,
    model_dir: option.ModelDir = Path("models"),
    quiet: option.Quiet = False,
) -> None:
    """Draw image, map, budget and perturbation side by side.

    Example: part-plugin explain at.pt part.pt cat.png dog.png --out explain.png
    """
    from .pixel_budget import PixelBudget
    from .plots import plot_budgets
    from .recipes.pictures import load_pictures
    from .recipes.reports import check_figure, write_figure

    networks, pictures = networks_and_pictures(checkpoints_and_images)
    low = None if eps_low is None else parse_radius("eps_low", eps_low)
    check_not_given(out, out, pictures)
    check_figure(out)
    PixelBudget(1.0 if eps is None else parse_radius("eps", eps), low, cam=cam)  # tried before the work
    loaded = load_networks(networks, Others(architecture, arguments, num_classes, mean, std, key, model_dir))
    about = {name: description for name, (_, description) in loaded.items()}
    budget = PixelBudget(radius_for(loaded, eps), low, cam=cam)
    say("\n".join(told(loaded)), quiet)
    given = None if size is None else [check_count("--size", size)] * 2
    images = load_pictures(pictures, given or trained_size(about))
    models = {name: model for name, (model, _) in loaded.items()}
    with torch.no_grad():
        labels = logits_of(next(iter(models.values())), images).argmax(1)
    write_figure(out, plot_budgets(models, images, labels, budget))
    for path, label in zip(pictures, labels.tolist(), strict=True):
        say(f"{path}: class {class_text(next(iter(about.values())), label)}", quiet)
    say(f"wrote {out}", quiet)
