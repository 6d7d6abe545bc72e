"""The command `part-plugin train`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from .checks import check_count
from .cli_arguments import configured, overrides, subset
from .recipes.augmentation import augmentation
from .recipes.common import class_names, usable_device
from .recipes.datasets import load_dataset
from .recipes.engine import LOGGERS, PRECISIONS, STRATEGIES, Engine, is_first
from .recipes.presets import PRESETS, Preset, preset


def train(
    out: Annotated[Path, typer.Argument(help="Checkpoint to write.")],
    name: Annotated[
        str | None, typer.Option("--preset", help=f"Settings to start from: {', '.join(PRESETS)}. [default: cifar10]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, as `presets` prints them.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE to change.")] = None,
    root: Annotated[Path, typer.Option(help="Directory of the dataset.")] = Path("data"),
    size: Annotated[
        int | None, typer.Option(help="Cut and resize the images of an imagefolder to so many pixels a side.")
    ] = None,
    download: Annotated[bool, typer.Option(help="Download the dataset if it is missing (cifar10, svhn).")] = False,
    augment: Annotated[
        bool | None,
        typer.Option(help="Random crops and flips. [default: yes, but for digits]"),
    ] = None,
    n: Annotated[int | None, typer.Option(help="Train on so many random samples only.")] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of the training samples for validation; the test set is never looked at.")
    ] = 0.02,
    patience: Annotated[
        int | None, typer.Option(help="End after so many epochs without a better one. [default: never]")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", "--accelerator", help="Where to compute, e.g. cpu or cuda.")
    ] = "cpu",
    devices: Annotated[int, typer.Option(help="Number of devices (of processes on a CPU) of each machine.")] = 1,
    nodes: Annotated[int, typer.Option(help="Number of machines; give the command on each.")] = 1,
    strategy: Annotated[str, typer.Option(help=f"Lightning's: {', '.join(STRATEGIES)}.")] = "auto",
    precision: Annotated[str, typer.Option(help=f"Lightning's: {', '.join(PRECISIONS)}.")] = "32-true",
    accumulate: Annotated[int, typer.Option(help="Compute each batch in so many parts.")] = 1,
    logger: Annotated[str, typer.Option(help=f"{', '.join(LOGGERS)}; the log in csv is always written.")] = "csv",
    keep_every: Annotated[int, typer.Option(help="Batches after which a run can go on within an epoch.")] = 200,
    workers: Annotated[int, typer.Option(help="Processes that load images.")] = 0,
) -> None:
    """Train a network as in the paper; the same command again goes on with a run that was stopped.

    Writes OUT, of the last epoch, OUT with .best before its ending, of the epoch that did best in the validation, and
    in the folder OUT.run settings, log, curves and what is needed to go on, also with more epochs. Plain adversarial
    training is eps_low=8/255, where PART has 7/255.

    Example: part-plugin train part.pt --preset cifar10 --root data --device cuda --devices 2 --precision bf16-mixed

    Example: part-plugin train small.pt --preset digits --set epochs=10 --set burn_in=3
    """
    from .recipes.destination import Destination
    from .recipes.training import reserved, train

    given = configured(config) | overrides(settings)
    start = given["dataset"] if given.get("dataset") in list(PRESETS) else "cifar10"
    chosen, usable = preset(start if name is None else name, **given), usable_device("--device", device)
    for option, count in (("--workers", workers), ("--keep-every", keep_every - 1)):
        check_count(option, count, 0)
    engine = Engine(devices, nodes, strategy, precision, accumulate, logger)
    engine.check(chosen.batch_size)
    with reserved(Destination(out)):
        dataset = load_dataset(chosen.dataset, root, "train", download, size=size)
        chosen = _of_classes(chosen, dataset, given)
        wanted = chosen.dataset != "digits" if augment is None else augment
        transform = augmentation(chosen.dataset, dataset[0][0].shape[1:]) if wanted else None
        if n is not None:
            dataset = subset(dataset, n, chosen.seed)
        options: dict[str, Any] = {"held_out": held_out, "patience": patience, "keep_every": keep_every}
        train(chosen, dataset, out, usable, workers, transform=transform, engine=engine, **options)
    if is_first():
        typer.echo(f"wrote {out}")


def _of_classes(chosen: Preset, dataset: Any, given: dict[str, Any]) -> Preset:
    """Return the settings with as many classes as a folder of one's own has, unless a number was given."""
    names = class_names(dataset)
    if chosen.dataset != "imagefolder" or names is None or "num_classes" in given:
        return chosen
    arguments = chosen.arguments | ({"num_classes": len(names)} if "num_classes" in chosen.arguments else {})
    return dataclasses.replace(chosen, num_classes=len(names), arguments=arguments)
