"""What the scripts of this folder share besides the clock: options, the network with its batch, the JSON file."""

import argparse
import json

import torch


def parser(description: str, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cpu")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--repeats", type=int, default=repeats, help=f"repetitions (default: {repeats})")
    made.add_argument("--json", metavar="PATH", help="write the numbers there")
    return made


def add_size(made: argparse.ArgumentParser) -> None:
    """Add the options that say how much work there is."""
    made.add_argument("--width", type=int, default=16, help="channels of the first block; ResNet-18 has 64")
    made.add_argument("--batch-size", type=int, default=128)


def network_and_batch(options: argparse.Namespace) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return RobustBench's ResNet-18, random images (N, 3, 32, 32) in [0, 1] and random classes, the same each time.

    What is timed depends neither on weights nor on labels.
    """
    from part_plugin.adapters.robustbench import ResNet18

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = ResNet18(options.width).to(options.device)
    x = torch.rand(options.batch_size, 3, 32, 32, device=options.device)
    return model, x, torch.randint(10, (len(x),), device=options.device)


def write(content: dict, path: str | None) -> None:
    """Write the JSON file, if one was asked for."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
