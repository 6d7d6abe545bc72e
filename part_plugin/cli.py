"""The command `part-plugin`: train, evaluate, explain, compare, presets."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.data import Dataset, Subset

from .data import DATASETS, PRESETS, as_tensors, augmentation, load_dataset, preset
from .files import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .evaluation import Evaluation

app = typer.Typer(
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
        typer.echo(preset(name, **_overrides(settings)))


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
    from .training import train

    chosen = preset(name, **_overrides(settings))
    augment = chosen.dataset != "digits" if augment is None else augment
    dataset = load_dataset(chosen.dataset, root, "train", download)
    transform = augmentation(chosen.dataset, dataset[0][0].shape[1:]) if augment else None
    if n is not None:
        dataset = _subset(dataset, n, chosen.seed)
    train(chosen, dataset, out, _device(device), workers, transform=transform)
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
) -> None:
    """Measure accuracies; writes NAME.json, .md and .csv for each checkpoint, and a comparison of several.

    A run that was interrupted goes on where it was when the same command is given again.

    Example: part-plugin evaluate at.pt part.pt --root data --n 1000 --suite paper --device cuda

    Example: part-plugin evaluate part.pt --attacks natural,pgd20,mma --eps 8/255
    """
    from .adapters.robustbench import load_checkpoint
    from .checks import check_count
    from .evaluation import compare as compare_results
    from .evaluation import evaluate

    check_count("--seeds", seeds)
    names = [path.stem for path in checkpoints]
    runs = [(f"{name}-seed{s}" if seeds > 1 else name, s) for name in names for s in range(seed, seed + seeds)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two checkpoints are called {name!r}; their results would have the same name")
    for name, _ in runs:
        if (out / f"{name}.json").exists() and not overwrite:
            raise FileExistsError(
                f"result file {str(out / name) + '.json'!r} exists; pass --overwrite or another --out"
            )
    loaded = [load_checkpoint(path, _device(device)) for path in checkpoints]
    dataset = dataset or loaded[0][1]["training"].get("dataset")
    if dataset is None:
        raise ValueError(f"--dataset is missing, and {checkpoints[0]} does not say; choose from {', '.join(DATASETS)}")
    in_class_order = dataset == "imagefolder"  # whose first images are all of one class
    x, y = as_tensors(load_dataset(dataset, root, "test", download), n, 0 if in_class_order else None)
    for name, (_, description) in zip(names, loaded, strict=True):
        if int(y.max()) >= description["num_classes"]:
            raise ValueError(
                f"{dataset} has class {int(y.max())}, and checkpoint {name!r} has {description['num_classes']} classes"
            )
    chosen = {"suite": suite} if attacks is None else {"attacks": [a.strip() for a in attacks.split(",")]}
    chosen |= {"batch_size": batch_size, "corruptions_dir": corruptions_dir}
    evaluations = []
    for number, (name, run_seed) in enumerate(runs):
        if overwrite:
            (out / f"{name}.json").unlink(missing_ok=True)
        model, _ = loaded[number // seeds]
        evaluation = evaluate(model, x, y, eps, seed=run_seed, name=name, state=out / f"{name}.state.json", **chosen)
        evaluation.save(out / name)
        typer.echo(f"{evaluation}\n")
        evaluations.append(evaluation)
    for first in range(0, len(runs), seeds) if seeds > 1 else ():
        table = 100 * compare_results(evaluations[first : first + seeds])
        typer.echo(f"{names[first // seeds]}, mean and standard deviation over {seeds} seeds, in %")
        typer.echo(f"{table.agg(['mean', 'std']).T.round(2).to_string()}\n")
    if len(evaluations) > 1:
        _write_comparison(evaluations, out / "comparison", "worst case")


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

    _write_comparison([Evaluation.load(path) for path in results], out, attack)


@app.command()
def explain(
    checkpoints_and_images: Annotated[
        list[Path], typer.Argument(metavar="CHECKPOINT... IMAGE...", help="Checkpoints (.pt), then picture files.")
    ],
    out: Annotated[Path, typer.Option(help="Figure to write.")] = Path("explain.png"),
    eps: Annotated[str, typer.Option(help="Radius of important pixels.")] = "8/255",
    eps_low: Annotated[str, typer.Option(help="Radius of other pixels.")] = "7/255",
    cam: Annotated[str, typer.Option(help="gradcam, xgradcam, layercam or a class of pytorch-grad-cam.")] = "gradcam",
    size: Annotated[
        int | None,
        typer.Option(help="Resize pictures to SIZE x SIZE. [default: as the first checkpoint was trained]"),
    ] = None,
) -> None:
    """Draw image, map, budget and perturbation side by side.

    Example: part-plugin explain at.pt part.pt cat.png dog.png --out explain.png
    """
    from .adapters.robustbench import load_checkpoint
    from .budget import PixelBudget
    from .checks import parse_radius
    from .plots import plot_budgets

    checkpoints = [path for path in checkpoints_and_images if path.suffix in (".pt", ".pth")]
    pictures = [path for path in checkpoints_and_images if path not in checkpoints]
    if not checkpoints or not pictures:
        raise ValueError("at least one checkpoint (.pt) and one picture are needed")
    budget = PixelBudget(parse_radius("eps", eps), parse_radius("eps_low", eps_low), cam)
    loaded = {path.stem: load_checkpoint(path) for path in checkpoints}
    shape = next(iter(loaded.values()))[1]["training"].get("image_shape")
    images = torch.stack([_picture(path, size or (shape and shape[-1])) for path in pictures])
    models = {name: model for name, (model, _) in loaded.items()}
    with torch.no_grad():
        labels = next(iter(models.values()))(images).argmax(1)
    _write_figure(plot_budgets(models, images, labels, budget), out)
    for path, label in zip(pictures, labels.tolist(), strict=True):
        typer.echo(f"{path}: class {label}")
    typer.echo(f"wrote {out}")


def _overrides(settings: list[str] | None) -> dict[str, Any]:
    """Return {"lr": 0.02, ...} for ["lr=0.02", ...]; what is no JSON is text."""
    overrides = {}
    for setting in settings or []:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r} is not allowed; KEY=VALUE is needed, e.g. --set epochs=10")
        try:
            overrides[name] = json.loads(text)
        except ValueError:
            overrides[name] = text
    return overrides


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name!r} cannot be used here ({str(error).splitlines()[0]})") from error
    return device


def _subset(dataset: Dataset, n: int, seed: int) -> Subset:
    if not 0 < n <= len(dataset):
        raise ValueError(f"--n {n} is not allowed; the dataset has {len(dataset)} samples and at least 1 is needed")
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return Subset(dataset, order[:n].tolist())


def _picture(path: Path, size: int | None) -> Tensor:
    """Return a picture file as an image (3, H, W) in [0, 1]."""
    from PIL import Image
    from torchvision.transforms.functional import resize, to_tensor

    if not path.is_file():
        raise FileNotFoundError(f"picture {str(path)!r} does not exist")
    try:
        picture = Image.open(path).convert("RGB")
    except OSError as error:
        raise ValueError(f"picture {str(path)!r} is damaged or no picture") from error
    return to_tensor(picture if size is None else resize(picture, [size, size]))


def _write_comparison(evaluations: list[Evaluation], path: Path, attack: str) -> None:
    from .evaluation import compare
    from .plots import plot_tradeoff

    table = 100 * compare(evaluations)
    figure = plot_tradeoff(evaluations, attack)
    write_text("table", path.with_suffix(".csv"), table.round(2).to_csv())
    header = "| model | " + " | ".join(table.columns) + " |\n" + "|---" * (1 + len(table.columns)) + "|\n"
    rows = [f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for name, row in table.T.items()]
    write_text("table", path.with_suffix(".md"), f"Accuracy in %.\n\n{header}" + "\n".join(rows) + "\n")
    _write_figure(figure, path.with_suffix(".png"))
    typer.echo(table.T.round(2).to_string())
    typer.echo(f"wrote {path}.md, .csv and .png")


def _write_figure(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format=path.suffix[1:] or "png")
    write_bytes("figure", path, picture.getvalue())


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 2."""
    try:
        app()
    except (ValueError, TypeError, KeyError, OSError, ImportError, NotImplementedError) as error:
        typer.echo(f"part-plugin: {error.args[0] if isinstance(error, KeyError) else error}", err=True)
        sys.exit(2)
