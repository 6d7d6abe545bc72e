"""Cells of a grid: one training and its evaluation each, known by its settings.

So scripts that share a folder of results share their cells: what `reproduce.py` has trained, `ablation.py` does not
train again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from part_plugin.recipes.presets import Preset

METHODS = ("AT", "PART", "TRADES", "PART-T", "MART", "PART-M")


@dataclass(frozen=True)
class Scale:
    """How large a grid is trained and tested, apart from what its cells compare.

    Attributes:
        settings: by dataset.
        samples: random training images; None: all.
        test: test images for the attacks; None: all.
        validation: test images on which natural and PGD-10 accuracy are followed over epochs.
        eps: l_inf radius of the test.
        widest: largest radius to train with, where radii vary, in eighths of `eps`.
        attacks: what every cell is tested with; see `evaluate`.
        thorough: what the cells of the main table are tested with.
        seeds: seeds of every cell.
    """

    settings: dict[str, Preset]
    samples: int | None = None
    test: int | None = None
    validation: int = 1000
    eps: float = 8 / 255
    widest: float = 12
    attacks: tuple[str, ...] = ("natural", "pgd20", "mma", "autoattack")
    thorough: tuple[str, ...] = ("natural", "pgd20", "mma", "autoattack")
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True)
class Cell:
    """One training, and what its network is tested with.

    Attributes:
        scale: the images of training and test, and the test's radius.
        settings: of the training.
        budget: name in `budgets.BUDGETS`; "aligned" is PART's own.
        attacks: see `evaluate`.
    """

    scale: Scale
    settings: Preset
    budget: str
    attacks: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name that tells this training from every other."""
        of = self.scale
        content = [dataclasses.asdict(self.settings), self.budget, of.samples, of.test, of.validation, of.eps]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def method(self) -> str:
        """Name of the method; equal radii are the plain objective."""
        plain = self.budget == "aligned" and self.settings.eps_low == self.settings.eps
        return METHODS[2 * ("at", "trades", "mart").index(self.settings.objective) + (not plain)]


def cell(scale: Scale, dataset: str, method: str, budget: str = "aligned", thorough: bool = False, **changes) -> Cell:
    """Return one cell of a scale; `changes` are settings that differ from the scale's."""
    number = METHODS.index(method)
    settings = dataclasses.replace(scale.settings[dataset], objective=("at", "trades", "mart")[number // 2], **changes)
    if number % 2 == 0:
        settings = dataclasses.replace(settings, eps_low=settings.eps)
    return Cell(scale, settings, budget, scale.thorough if thorough else scale.attacks)


def over_seeds(scale: Scale, cells: Iterable[Cell]) -> list[Cell]:
    """Return the cells with every seed of the scale, seeds outermost: an unfinished grid holds whole comparisons."""
    cells = list(cells)
    return [
        dataclasses.replace(one, settings=dataclasses.replace(one.settings, seed=seed))
        for seed in scale.seeds
        for one in cells
    ]


def merged(cells: Iterable[Cell]) -> list[Cell]:
    """Return each training once, with all attacks that any of its mentions asks for, in `thorough`'s order."""
    known: dict[str, Cell] = {}
    for one in cells:
        attacks = dict.fromkeys([*(known[one.id].attacks if one.id in known else ()), *one.attacks])
        known[one.id] = dataclasses.replace(one, attacks=tuple(attacks))
    return list(known.values())
