"""Does the model hide its gradients? The five behaviours of Athalye et al. 2018, measured (PART, Appendix H.3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks.pixel_ag import pixel_ag
from ..budget import FixedBudget
from ..checks import check_class_range, check_count, check_images, check_number, class_indices, radius_text
from ..network.batching import within_memory
from ..network.isolation import eval_mode
from ..network.view import logits_of
from ..objectives import AT, ascent
from ..part import PART
from .common import correct, device_of, random_start

MULTIPLES = (1, 2, 3, 4)


@dataclass
class Check:
    """One behaviour: what was expected, what was measured, and whether they agree."""

    behaviour: str
    measured: str
    passed: bool

    def __post_init__(self):
        self.passed = bool(self.passed)  # NumPy has one of its own, which JSON does not know


@dataclass
class GradientChecks:
    """The five behaviours; one that fails is a sign of obfuscated gradients."""

    checks: list[Check]
    zero_gradients: float
    """Share of samples whose image gave the attack no gradient at all."""

    @property
    def passed(self) -> bool:
        """Whether all behaviours are those of a model that hides nothing."""
        return all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = [str(number) for number, check in enumerate(self.checks, 1) if not check.passed]
        if not failed:
            return "no sign of obfuscated gradients"
        return f"obfuscated gradients: check {' and '.join(failed)} failed; robust accuracies are not to be trusted"

    def __str__(self) -> str:
        lines = [
            f"  {number}. {'pass' if check.passed else 'FAIL'}  {check.behaviour}: {check.measured}"
            for number, check in enumerate(self.checks, 1)
        ]
        zero = f"  samples without gradient: {self.zero_gradients:.2%}"
        return "\n".join([f"gradient checks: {self.verdict}", *lines, zero])

    def markdown(self) -> str:
        """Return the checks as a Markdown table with the verdict below."""
        rows = [
            f"| {number} | {check.behaviour} | {check.measured} | {'pass' if check.passed else 'FAIL'} |"
            for number, check in enumerate(self.checks, 1)
        ]
        table = "\n".join(["| | expected | measured | |", "|---|---|---|---|", *rows])
        return f"{table}\n\nSamples without gradient: {self.zero_gradients:.2%}. Verdict: {self.verdict}."

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"checks": [vars(check) for check in self.checks], "zero_gradients": self.zero_gradients}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> GradientChecks:
        """Undo `to_dict`."""
        return cls([Check(**check) for check in content["checks"]], content["zero_gradients"])


def gradient_checks(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    eps: float = 8 / 255,
    steps: int = 20,
    surrogate: nn.Module | None = None,
    samples: int = 100,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
) -> GradientChecks:
    """Measure the five behaviours that tell honest robustness from hidden gradients.

    1. One step of size eps fools no more samples than PGD does.
    2. Examples made on another network fool no more samples than those made on the model itself.
    3. PGD free to change the image altogether fools every sample.
    4. Random points of the budget fool no sample that PGD did not.
    5. PGD fools more samples as eps grows to 2, 3 and 4 times its value.

    In 1, 2 and 5 one attack counts as better only if a sign test on the samples on which the two
    differ says so at the 5 % level; 3 and 4 allow no exception.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; left as it was.
        x: images (N, C, H, W) in [0, 1].
        y: class indices (N,) or (N, 1), or one-hot (N, K).
        eps: radius of every pixel.
        steps: steps of PGD, of size eps / 4.
        surrogate: the other network of 2, best one trained like the model; default: a small one, trained here
            against PGD on `x` with the classes that the model predicts.
        samples: random points per image.
        batch_size: samples per forward pass.
        seed: of the random starts and points; the global random state is left alone.
        verbose: show a progress bar.

    Raises:
        TypeError, ValueError: wrong images or labels, eps <= 0, counts < 1.
    """
    check_number("eps", eps, above=True)
    for name, value in (("steps", steps), ("samples", samples), ("batch_size", batch_size)):
        check_count(name, value)
    device = device_of(model)
    x = torch.as_tensor(x)
    check_images(x)
    y = class_indices(y, len(x))
    with eval_mode(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        x, y = x.detach().to(device).clone(), y.to(device).clone()
        with torch.no_grad():
            check_class_range(y, logits_of(model, x[:1]).shape[1])
        bar = tqdm(total=5, desc="gradient checks", unit="check", leave=False, disable=not verbose)
        with bar:
            return _Measurements(model, x, y, eps, steps, batch_size, seed, bar).checks(surrogate, samples)


class _Measurements:
    """The measurements, all on the same images; flags are True where the model is right."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, batch_size: int, seed: int, bar: tqdm
    ):
        self.model, self.x, self.y, self.eps, self.steps = model, x, y, eps, steps
        self.batch_size, self.seed, self.bar = batch_size, seed, bar
        self.without_gradient = 0

    def checks(self, surrogate: nn.Module | None, samples: int) -> GradientChecks:
        white_box = self.pgd(self.eps)
        zero = self.without_gradient / len(self.x)
        made = [lambda: self.one_step(white_box), lambda: self.transfer(white_box, surrogate)]
        made += [self.unbounded, lambda: self.random_points(white_box, samples), lambda: self.growth(white_box)]
        results = []
        for make in made:
            results.append(make())
            self.bar.update()
        return GradientChecks(results, zero)

    def one_step(self, white_box: np.ndarray) -> Check:
        single = self.flags(lambda x, y: self.ascend(self.model, x, y, self.eps, self.eps, 1, x))
        return Check(
            "one step fools no more than many",
            f"accuracy {single.mean():.2%} after 1 step, {white_box.mean():.2%} after {self.steps}",
            not _fools_more(single, white_box),
        )

    def transfer(self, white_box: np.ndarray, surrogate: nn.Module | None) -> Check:
        own = surrogate is None
        surrogate = self.train_surrogate() if own else surrogate
        with eval_mode(surrogate):
            foreign = self.flags(lambda x, y: self.attack(surrogate, x, y, self.eps))
        return Check(
            "black-box fools no more than white-box",
            f"accuracy {foreign.mean():.2%} on examples of {'a trained' if own else 'the given'} surrogate, "
            f"{white_box.mean():.2%} on its own",
            not _fools_more(foreign, white_box),
        )

    def unbounded(self) -> Check:
        left = self.pgd(1.0)
        return Check("an unbounded attack fools all", f"accuracy {left.mean():.2%} at eps = 1", not left.any())

    def random_points(self, white_box: np.ndarray, samples: int) -> Check:
        rows = np.flatnonzero(white_box)
        found = np.zeros(len(rows), bool)
        generator = torch.Generator(self.x.device).manual_seed(self.seed)
        for _ in range(samples if len(rows) else 0):
            noise = torch.empty_like(self.x[:1]).expand(len(rows), *self.x.shape[1:]).contiguous()
            adv = torch.clamp(self.x[rows] + noise.uniform_(-self.eps, self.eps, generator=generator), 0, 1)
            found |= ~self.flags(lambda x, y: x, adv, self.y[rows])
        return Check(
            "random points fool none that PGD did not",
            f"{found.sum()} of {len(rows)} fooled by {samples} points each",
            not found.any(),
        )

    def growth(self, white_box: np.ndarray) -> Check:
        curves = [white_box, *(self.pgd(times * self.eps) for times in MULTIPLES[1:])]
        shrinking = not any(_fools_more(small, large) for small, large in itertools.pairwise(curves))
        fell = not white_box.any() or curves[-1].mean() < white_box.mean()
        accuracies = ", ".join(f"{curve.mean():.2%}" for curve in curves)
        radii = ", ".join(radius_text(times * self.eps).split()[0] for times in MULTIPLES)
        return Check("success grows with eps", f"accuracy {accuracies} at eps = {radii}", shrinking and fell)

    def pgd(self, eps: float) -> np.ndarray:
        return self.flags(lambda x, y: self.attack(self.model, x, y, eps))

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        radii = FixedBudget(eps)(model, x)
        return self.ascend(model, x, y, eps, eps / 4, self.steps, random_start(x, radii, self.seed))

    def ascend(
        self, model: nn.Module, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, start: Tensor
    ) -> Tensor:
        radii = FixedBudget(eps)(model, x)
        return pixel_ag(ascent(model, AT(), y), x, radii, alpha, steps, start, on_first_gradient=self.count_missing)

    def count_missing(self, gradient: Tensor) -> None:
        self.without_gradient += int((gradient.flatten(1).abs().amax(1) == 0).sum())

    def flags(self, make: Any, x: Tensor | None = None, y: Tensor | None = None) -> np.ndarray:
        x, y = (self.x, self.y) if x is None else (x, y)
        flags = []
        for images, labels in zip(x.split(self.batch_size), y.split(self.batch_size), strict=True):

            def run(rows: slice, images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return correct(self.model, make(images[rows], labels[rows]), labels[rows])

            flags += within_memory(run, len(images))
        return torch.cat(flags).cpu().numpy()

    def train_surrogate(self) -> nn.Module:
        """Return a small network of another kind that has learned, against PGD, to predict what the model does."""
        with torch.no_grad():
            parts = [logits_of(self.model, images) for images in self.x.split(self.batch_size)]
        classes = torch.cat(parts).argmax(1)
        torch.manual_seed(self.seed)
        network = _small_network(self.x.shape[1], parts[0].shape[1]).to(self.x.device)
        part = PART(eps=self.eps, eps_low=self.eps, alpha=self.eps / 2, steps=3, burn_in=0, seed=self.seed)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        updates = max(300, 10 * len(self.x) // 64)
        for _ in range(updates):
            rows = torch.randint(len(self.x), (min(64, len(self.x)),)).to(self.x.device)
            optimizer.zero_grad()
            part.loss(network.train(), self.x[rows], classes[rows]).backward()
            optimizer.step()
        return network.eval()


def _fools_more(one: Sequence[bool], other: Sequence[bool]) -> bool:
    """Whether the first attack fools more samples than the second: a one-sided sign test at the 5 % level."""
    one, other = np.asarray(one), np.asarray(other)
    better, worse = int((~one & other).sum()), int((one & ~other).sum())
    return better > worse and bool(binomtest(better, better + worse, alternative="greater").pvalue < 0.05)


def _small_network(channels: int, num_classes: int) -> nn.Module:
    def block(inside: int, outside: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

    layers = [*block(channels, 32, 1), *block(32, 64, 2), *block(64, 64, 1), *block(64, 128, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, num_classes))
