"""The options of the command line that are long, or that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .recipes.datasets import DATASETS

EXIT_CODES = (
    "Exit codes: 0, done; 2, a mistake, which one line on stderr names, before any work; 130, stopped by Ctrl-C, and "
    "143, by SIGTERM: the same command again goes on; 1, anything else."
)
OTHERS = """\
Networks: a checkpoint of `train` or save_checkpoint says what it holds; so does a directory of the Hugging Face hub
with config.json and model.safetensors. Weights of another program need --architecture. robustbench:NAME is a model of
RobustBench that lies in --model-dir. Nothing is downloaded, and no file makes this command run code.
"""


def _print_version(wanted: bool) -> None:
    """Print the version and end the command, if that is `wanted`.

    Raises:
        typer.Exit: it is.
    """
    if wanted:
        typer.echo(f"part-plugin {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but warnings and mistakes.")]
Root = Annotated[Path, typer.Option(help="Directory of the dataset.")]
Device = Annotated[str, typer.Option(help="Where to compute, e.g. cpu or cuda.")]
Download = Annotated[bool, typer.Option(help="Download the dataset if it is missing (cifar10, svhn).")]
Networks = Annotated[list[Path], typer.Argument(help="Checkpoints to evaluate, directories, or robustbench:NAME.")]
Dataset = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(DATASETS)}. [default: what the first was trained on]")
]
Attacks = Annotated[str | None, typer.Option(help="Attacks instead of a suite, e.g. natural,pgd20,mma,autoattack.")]
Eps = Annotated[
    str | None, typer.Option(help="Radius, e.g. 8/255. [default: what the first was trained with, or 8/255]")
]
First = Annotated[
    int | None,
    typer.Option(help="Evaluate so many samples, the first (of an imagefolder random ones). [default: all]"),
]
Corruptions = Annotated[Path | None, typer.Option(help="Directory of CIFAR-10-C. [default: corruptions are generated]")]
Architecture = Annotated[
    str | None,
    typer.Option(
        help="What network the weights of another program are of: timm:NAME, torchvision:NAME, transformers:CLASS, "
        "robustbench:MODULE.NAME, or package.module:function for one of your own. [default: what the file says]"
    ),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--argument", help="KEY=VALUE for the architecture, e.g. img_size=32; may be given several times."),
]
NumClasses = Annotated[
    int | None, typer.Option(help="Number of classes of the architecture. [default: what the weights have]")
]
Mean = Annotated[str | None, typer.Option(help="Normalisation per channel, e.g. 0.485,0.456,0.406. [default: none]")]
Std = Annotated[str | None, typer.Option(help="Goes with --mean, e.g. 0.229,0.224,0.225.")]
Key = Annotated[str | None, typer.Option(help="Which weights of a file that has several, e.g. ema; or their prefix.")]
ModelDir = Annotated[Path, typer.Option(help="Where RobustBench keeps its models.")]
Size = Annotated[
    int | None, typer.Option(help="Resize pictures to SIZE x SIZE. [default: as the first network was trained]")
]
