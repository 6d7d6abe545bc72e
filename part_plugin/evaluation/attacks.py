"""What `evaluate` can run: the natural images, PGD, the minimum-margin attack, adaptive forms, toolkits' attacks.

Each entry turns a batch into flags, one row of the result for each of its names. The random start
of an image depends on the seed and the image alone, so that accuracies depend neither on the batch
size nor on the order or number of the samples.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks.minimum_margin import MinimumMargin
from ..attacks.pixel_ag import pixel_ag
from ..budget import Budget, FixedBudget
from ..network.batching import in_parts, within_memory
from ..network.isolation import eval_mode, gradients_kept
from ..objectives import AT, ascent
from .autoattack import AutoAttack
from .common import correct, device_of, fingerprint, random_start, seeded
from .results import AttackResult, flags_from_text, flags_to_text
from .state import State

Flags = dict[str, tuple[Tensor, float]]
"""Name of a row -> whether each sample of the batch is classified correctly, and the seconds that took."""


class ByBatch:
    """An entry that goes through the samples batch by batch, each batch on its own."""

    names: tuple[str, ...]
    eps: float | None
    eps_low: float | None
    settings: str

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Flags:
        """Return the flags of one batch."""
        raise NotImplementedError

    def key(self, model: nn.Module) -> str:
        """Return what tells its pieces from those of other entries."""
        return f"{self.names}/{self.settings}"

    def results(
        self, model: nn.Module, x: Tensor, y: Tensor, batch_size: int, state: State, bar: tqdm
    ) -> list[AttackResult]:
        """Return one result per name; batches that are in `state` already are taken from there."""
        pieces = []
        for first in range(0, len(x), batch_size):
            key = f"{self.key(model)}/{first}"
            if key not in state:
                state[key] = self._piece(model, x[first : first + batch_size], y[first : first + batch_size])
            pieces.append(state[key])
            bar.update(min(batch_size, len(x) - first))
        return [
            AttackResult(
                name,
                np.concatenate([flags_from_text(piece[name][0]) for piece in pieces]),
                sum(piece[name][1] for piece in pieces),
                self.eps,
                self.eps_low,
                self.settings,
            )
            for name in self.names
        ]

    def split(self, run: Callable[[slice], Flags], model: nn.Module, images: Tensor) -> list[Flags]:
        """Call `run` on the rows of a batch, in as few parts as memory allows."""
        return within_memory(run, len(images))

    def _piece(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, tuple[str, float]]:
        device = device_of(model)
        images, labels = images.to(device), labels.to(device)
        parts = self.split(lambda rows: self.run(model, images[rows], labels[rows]), model, images)
        return {
            name: (
                "".join(flags_to_text(part[name][0].cpu().numpy()) for part in parts),
                sum(part[name][1] for part in parts),
            )
            for name in self.names
        }


@dataclass
class Natural(ByBatch):
    """No attack at all."""

    names: tuple[str, ...] = ("natural",)
    eps: float = 0.0
    eps_low: float = 0.0
    settings: str = "the images as they are"

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Flags:
        """Return the flags of one batch."""
        began = time.perf_counter()
        return {"natural": (correct(model, images, labels), time.perf_counter() - began)}


@dataclass
class IterativeAttack(ByBatch):
    """PGD or the minimum-margin attack under a budget; all numbers of steps asked for in one run.

    Attributes:
        steps: name of the row -> number of steps, ascending.
        margin: whether it is the minimum-margin attack.
    """

    steps: dict[str, int]
    margin: bool
    budget: Budget
    alpha: float
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the rows."""
        return tuple(self.steps)

    @property
    def eps(self) -> float:
        """Largest radius."""
        return self.budget.eps

    @property
    def eps_low(self) -> float:
        """Smallest radius."""
        return self.budget.eps_low

    @property
    def settings(self) -> str:
        """What runs, to read."""
        loss = "margin to 3 targets" if self.margin else "cross-entropy"
        return (
            f"{loss}, {self.budget}, alpha={self.alpha:.4g}, random start, last of the steps {[*self.steps.values()]}"
        )

    def split(self, run: Callable[[slice], Flags], model: nn.Module, images: Tensor) -> list[Flags]:
        """Call `run` on the rows of a batch; their random starts do not depend on what else is in it."""
        return in_parts(run, model, images)

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Flags:
        """Return the flags of one batch after every number of steps asked for."""
        began = time.perf_counter()
        radii = self.budget(model, images, labels)
        adv = random_start(images, radii, self.seed)
        attack = MinimumMargin(model, images, labels, radii, self.alpha, adv) if self.margin else None
        loss = ascent(model, AT(), labels)
        flags, done = {}, 0
        for name, steps in self.steps.items():
            more, done = steps - done, steps
            adv = attack.advance(more) if attack else pixel_ag(loss, images, radii, self.alpha, more, adv)
            flags[name] = (correct(model, adv, labels), time.perf_counter() - began)
        return flags


@dataclass
class ToolkitAttack(ByBatch):
    """An attack of torchattacks or ART, made on the evaluated model or on another (a transfer attack)."""

    attack: Any
    name: str
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Name of the row."""
        return (self.name,)

    @property
    def of_art(self) -> bool:
        """Whether it is an attack of ART, which has an estimator where torchattacks has a model."""
        return hasattr(self.attack, "estimator")

    @property
    def network(self) -> nn.Module:
        """The network it was made on."""
        return self.attack.estimator.model if self.of_art else self.attack.model

    @property
    def eps(self) -> float | None:
        """Radius in units of images in [0, 1], or None if it is no number or not l_inf."""
        return self._radius("eps")

    @property
    def eps_low(self) -> float | None:
        """Radius of unimportant pixels, if that is another."""
        return self._radius("eps_low") if hasattr(self.attack, "eps_low") else self.eps

    @property
    def settings(self) -> str:
        """What runs, to read."""
        if not self.of_art:
            return str(self.attack)
        plain = {name: getattr(self.attack, name, None) for name in self.attack.attack_params}
        shown = ", ".join(f"{n}={v}" for n, v in plain.items() if isinstance(v, (bool, int, float, str)))
        return f"{type(self.attack).__name__}({shown})"

    def key(self, model: nn.Module) -> str:
        """Return what tells its pieces from those of other entries, the same on another network among them."""
        made_on = "" if self.network is model else fingerprint(self.network)
        return f"{super().key(model)}/{made_on}"

    def _radius(self, name: str) -> float | None:
        radius, norm = getattr(self.attack, name, None), getattr(self.attack, "norm", "Linf")
        linf = norm in ("Linf", "inf", np.inf) and "L2" not in type(self.attack).__name__
        if not isinstance(radius, Real) or not linf:
            return None
        low, high = self._range()
        return float(radius / (high - low))

    def _range(self) -> tuple[float, float]:
        return self.attack.estimator.clip_values if self.of_art else (0.0, 1.0)

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Flags:
        """Return the flags of one batch."""
        began = time.perf_counter()
        kept = nullcontext() if self.network is model else eval_mode(self.network)
        with seeded(self.seed, images.device), kept, gradients_kept(self.network):
            adv = self._generate(images, labels) if self.of_art else self.attack(images, labels)
        adv = adv.detach().to(images)
        self._check_budget((adv - images).abs().max().item())
        return {self.name: (correct(model, adv, labels), time.perf_counter() - began)}

    def _generate(self, images: Tensor, labels: Tensor) -> Tensor:
        low, high = self._range()
        adv = self.attack.generate((images * (high - low) + low).cpu().numpy(), labels.cpu().numpy())
        return (torch.from_numpy(np.asarray(adv)).to(images) - low) / (high - low)

    def _check_budget(self, moved: float) -> None:
        if self.eps is not None and moved > self.eps + 1e-5:
            raise RuntimeError(
                f"attacks holds {self.name}, which moved a pixel by {moved:.4g}, further than its eps={self.eps:.4g}; "
                "its images must be in [0, 1] (set_normalization_used, clip_values)"
            )


Entry = Natural | IterativeAttack | ToolkitAttack | AutoAttack

_NAME = re.compile(r"(adaptive_)?(?:pgd([1-9]\d*)|mma([1-9]\d*)?)")
KNOWN = "'natural', 'pgd20', 'mma', 'adaptive_pgd20', 'adaptive_mma20' (any number of steps), 'autoattack', 'gradients', 'corruptions', or an attack of torchattacks or ART"  # noqa: E501


def parse(attacks: Sequence[Any], eps: float, adaptive: Budget, seed: int) -> list[Entry]:
    """Return the entries for attacks given by name or as instances; names of one kind share a run.

    Raises:
        ValueError: an unknown name, one that is there twice.
        TypeError: neither a name nor an attack.
    """
    entries: dict[Any, Entry] = {}
    for attack in attacks:
        if not isinstance(attack, str):
            entry = _toolkit_attack(attack, seed)
            name = entry.name
            entry.name += "" if name not in _names(entries) else f" {len(entries)}"
            entries[id(attack)] = entry
            continue
        if attack in _names(entries):
            raise ValueError(f"attacks holds {attack!r} twice")
        if attack in ("natural", "autoattack"):
            entries[attack] = Natural() if attack == "natural" else AutoAttack(eps, seed)
            continue
        found = _NAME.fullmatch(attack)
        if found is None:
            raise ValueError(f"attacks holds {attack!r}; choose from {KNOWN}")
        margin, is_adaptive = "mma" in attack, bool(found[1])
        budget = adaptive if is_adaptive else FixedBudget(eps)
        entry = entries.setdefault((margin, is_adaptive), IterativeAttack({}, margin, budget, eps / 4, seed))
        entry.steps[attack] = int(found[2] or found[3] or 20)
    for entry in entries.values():
        if isinstance(entry, IterativeAttack):
            entry.steps = dict(sorted(entry.steps.items(), key=lambda item: item[1]))
    return list(entries.values())


def _names(entries: dict[Any, Entry]) -> list[str]:
    return [name for entry in entries.values() for name in entry.names]


def _toolkit_attack(attack: Any, seed: int) -> ToolkitAttack:
    if hasattr(attack, "estimator") and hasattr(attack, "generate"):
        if attack.estimator.clip_values is None:
            raise ValueError(f"attacks holds {type(attack).__name__}, whose estimator has no clip_values; give it some")
        return ToolkitAttack(attack, type(attack).__name__, seed)
    if isinstance(getattr(attack, "model", None), nn.Module) and hasattr(attack, "supported_mode"):
        return ToolkitAttack(attack, str(attack.attack), seed)
    raise TypeError(f"attacks holds a {type(attack).__name__}; choose from {KNOWN}")


def check_evidence(entries: Sequence[Entry], eps: float) -> None:
    """Raise if every attack is weaker than the threat model by construction, as Pixel-AG is."""
    weaker = [
        name
        for entry in entries
        for name in entry.names
        if entry.eps_low is not None and 0 < entry.eps_low < entry.eps and entry.eps_low < eps * (1 - 1e-6)
    ]
    others = [entry for entry in entries if not isinstance(entry, Natural)]
    if weaker and len(weaker) == len(others):
        raise ValueError(
            f"attacks holds {weaker[0]} with eps_low < eps={eps:.4g} as the only evidence; add an attack that lets "
            "every pixel move by eps, such as 'pgd20' or 'autoattack'"
        )
