"""What a training costs around its steps: a step of `train` against a bare loop with `PART`, and the loader alone.

    python benchmarks/speed/engine.py --width 16 --batch-size 128 --batches 8 --repeats 5

A step is the time from one call of `PART.perturb` to the next, in an epoch on random images, crops, flips and masks
that are kept included; the two take turns, each a training of its own, and the medians are compared. The loader is
timed alone, in CPU milliseconds: as `train` loads, and one sample at a time with torchvision's transforms, as
`MovedMasks` does.
"""

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from workload import add_size, parser, write

from part_plugin import PART
from part_plugin.recipes import training
from part_plugin.recipes.augmentation import MovedMasks, augmentation
from part_plugin.recipes.loader import ResumableBatches, ResumableLoader
from part_plugin.recipes.presets import preset
from part_plugin.recipes.samples import InMemory, numbers_of, whole

SETTINGS = {"epochs": 1, "burn_in": 0, "mask_every": 2, "milestones": [1]}


def steps(run: Callable[[], None]) -> list[float]:
    """Return the seconds between calls of `PART.perturb` in a run."""
    began, perturb = [], PART.perturb

    def timed(*args: object, **options: object) -> Tensor:
        began.append(time.perf_counter())
        return perturb(*args, **options)

    with mock.patch.object(PART, "perturb", timed):
        run()
    return [after - before for before, after in itertools.pairwise(began)]


def bare(settings: training.Preset, stored: InMemory, device: str) -> None:
    """Train an epoch in a loop of one's own."""
    model = training.build_network(settings.architecture, dict(settings.arguments), settings.num_classes).to(device)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    part = PART("at", burn_in=0, mask_every=2, seed=0)
    moves, generator = augmentation("cifar10", stored.images.shape[2:]), torch.Generator(device).manual_seed(0)
    part.set_epoch(0)
    part.masks_due()
    for x, y, index in DataLoader(stored, settings.batch_size, collate_fn=whole):
        part.remember(model, numbers_of(x.to(device)), y, index)
    loader = DataLoader(stored, settings.batch_size, shuffle=True, collate_fn=whole)
    for x, y, index in loader:
        masks = part.masks_of(index, x.shape[2:]).to(device)
        moved, masks = moves(x.to(device), masks, generator)
        optimizer.zero_grad()
        part.loss(model.train(), numbers_of(moved), y.to(device), index, masks).backward()
        optimizer.step()


def loaders(images: Tensor, labels: Tensor, batch_size: int) -> dict[str, Callable[[], None]]:
    """Return two ways to load an epoch with crops, flips and masks."""
    n, size = len(images), images.shape[2:]
    part = PART(burn_in=0, mask_every=5)
    part.set_epoch(0)
    part.masks_due()
    part.masks.put(torch.arange(n), torch.rand(n, 1, *size) > 0.5)
    batched, generator = augmentation("cifar10", size), torch.Generator().manual_seed(0)
    single = v2.Compose([v2.RandomCrop(tuple(size), padding=(size[1] // 8, size[0] // 8)), v2.RandomHorizontalFlip()])
    samples = [(numbers_of(image), int(label)) for image, label in zip(images, labels, strict=True)]

    def in_batches() -> None:
        batches = ResumableBatches(n, batch_size, 0)
        for x, _, index in ResumableLoader(InMemory(images, labels), batches, collate_fn=whole):
            numbers_of(batched(x, part.masks_of(index, size), generator)[0])

    def one_by_one() -> None:
        for _ in DataLoader(MovedMasks(samples, part, single), batch_size, shuffle=True):
            pass

    return {"in batches": in_batches, "one by one": one_by_one}


def main() -> None:
    """Measure, and print medians."""
    made = parser(__doc__, 5)
    add_size(made)
    made.add_argument("--batches", type=int, default=8, help="batches of an epoch")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    n = options.batches * options.batch_size
    images = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stored = InMemory(images, torch.arange(n) % 10)
    arguments = {"width": options.width}
    settings = preset("cifar10", batch_size=options.batch_size, arguments=arguments, **SETTINGS)
    samples = [(numbers_of(image), number % 10) for number, image in enumerate(images)]
    moves = augmentation("cifar10", (32, 32))

    def lightning() -> None:
        with tempfile.TemporaryDirectory() as folder:
            training.train(settings, samples, Path(folder) / "a.pt", options.device, verbose=False, transform=moves)

    ways = {"train": lightning, "bare loop": lambda: bare(settings, stored, options.device)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            seconds[name].append(statistics.median(steps(way)))
    ratios = [one / other for one, other in zip(*seconds.values(), strict=True)]
    for name, found in seconds.items():
        print(f"{name}: {1000 * statistics.median(found):.1f} ms a step")
    print(f"train / bare loop: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    milliseconds = {}
    for name, load in loaders(images, stored.labels, options.batch_size).items():
        found = []
        for _ in range(options.repeats):
            began = time.process_time()
            load()
            found.append(1000 * (time.process_time() - began) / options.batches)
        milliseconds[name] = found
        print(f"loader, {name}: {statistics.median(found):.2f} CPU ms a batch")
    write({"steps": seconds, "ratios": ratios, "loader": milliseconds, "options": vars(options)}, options.json)


if __name__ == "__main__":
    main()
