"""Does the model hide its gradients? The five behaviours of Athalye et al. 2018, measured (PART, Appendix H.3)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks.pixel_ag import pixel_ag
from ..checks import check_class_range, check_count, check_images, check_number, check_seed, class_indices
from ..mismatch import check_model
from ..network.batching import within_memory
from ..network.view import logits_of
from ..objectives import AT, ascent
from ..radii import uniform
from ..radius import radius_text
from .attack_result import Flags
from .chance import fools_more, is_better
from .common import correct, device_of, evaluated, progress, random_start
from .examine import differ, twice
from .gradient_result import Check, GradientChecks
from .surrogate import train_surrogate

MULTIPLES = (1, 2, 3, 4)
Attack = Callable[[Tensor, Tensor], Tensor]
"""Images and labels -> adversarial images."""


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
    differ says so at the 5 % level; 3 and 4 allow no exception. In 3 and 5 a sample that is fooled after a quarter of
    the steps is left alone.

    A model that PGD leaves no more accurate than a constant answer, at the 5 % level, has no robustness to explain: if
    a check fails then, or if its natural accuracy is no better either, the verdict is that it is too weak to judge. One
    whose answers differ though it gives no gradient at all is judged all the same, one whose logits change from call to
    call is found out by that.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; left as it was.
        x: images (N, C, H, W) in [0, 1].
        y: class indices (N,) or (N, 1), or one-hot (N, K).
        eps: radius of every pixel, of images in [0, 1].
        steps: steps of PGD, of size eps / 4.
        surrogate: the other network of 2, best one trained like the model; default: a small one, trained here
            against one-step examples on `x` with the classes that the model predicts.
        samples: random points per image.
        batch_size: samples per forward pass.
        seed: of the random starts and points; the global random state is left alone.
        verbose: show a progress bar.

    Raises:
        TypeError, ValueError: a model or surrogate that is no network, wrong images or labels, eps <= 0, counts < 1.
    """
    check_model("model", model)
    if surrogate is not None:
        check_model("surrogate", surrogate)
    check_number("eps", eps, above=True)
    for name, value in (("steps", steps), ("samples", samples), ("batch_size", batch_size)):
        check_count(name, value)
    check_seed("seed", seed)
    x = torch.as_tensor(x)
    check_images(x)
    y = class_indices(y, len(x))
    device = device_of(model)
    with evaluated(model, x) as model, progress(verbose, 5, "check", "gradient checks") as bar:
        x, y = x.detach().to(device).clone(), y.to(device).clone()
        with torch.no_grad():
            check_class_range(y, logits_of(model, x[:1]).shape[1])
        return _Measurements(model, x, y, eps, steps, batch_size, seed).checks(surrogate, samples, bar)


class _Measurements:
    """The measurements, all on the same images; flags are True where the model is right."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, batch_size: int, seed: int):
        self.model, self.x, self.y, self.eps, self.steps = model, x, y, eps, steps
        self.batch_size, self.seed = batch_size, seed
        self.without_gradient = 0

    def checks(self, surrogate: nn.Module | None, samples: int, bar: tqdm[None]) -> GradientChecks:
        changes = differ(*twice(self.model, self.x[: self.batch_size]))
        white_box = self.flags(self.pgd(self.model, self.eps))
        zero_gradients = self.without_gradient / len(self.x)
        makers: list[Callable[[], Check]] = [
            lambda: self.one_step(white_box),
            lambda: self.black_box(white_box, surrogate),
            self.unbounded,
            lambda: self.random_points(white_box, samples),
            lambda: self.growth(white_box),
        ]
        checks = []
        for make in makers:
            checks.append(make())
            bar.update()
        silent = zero_gradients == 1 and len(set(self.classes().tolist())) > 1
        weak = "" if silent else self.weakness(white_box, all(check.passed for check in checks))
        return GradientChecks(checks, zero_gradients, weak, changes)

    def weakness(self, white_box: Flags, passed: bool) -> str:
        """Return why the model is too weak to be judged by checks that it `passed` or did not, "" if it is not."""
        y = self.y.cpu().numpy()
        constant, natural = float(np.bincount(y).max() / len(y)), self.classes().cpu().numpy() == y
        flags, images = (natural, "natural images") if passed else (white_box, "images under PGD")
        if is_better(flags, constant):
            return ""
        return f"it is right about {flags.mean():.2%} of {len(y)} {images}, a constant answer about {constant:.2%}"

    def classes(self) -> Tensor:
        """Return what the model predicts of the images."""
        with torch.no_grad():
            return torch.cat([logits_of(self.model, images).argmax(1) for images in self.x.split(self.batch_size)])

    def one_step(self, white_box: Flags) -> Check:
        single = self.flags(lambda x, y: self.ascend(self.model, x, y, self.eps, self.eps, 1, x))
        return Check(
            "one step fools no more than many",
            f"accuracy {single.mean():.2%} after 1 step, {white_box.mean():.2%} after {self.steps}",
            not fools_more(single, white_box),
            "the gradient misleads after the first step: give PGD more and smaller steps, and look in the forward pass "
            "for noise, rounding and saturated activations",
        )

    def black_box(self, white_box: Flags, surrogate: nn.Module | None) -> Check:
        source = "a trained" if surrogate is None else "the given"
        if surrogate is None:
            surrogate = train_surrogate(self.model, self.x, self.eps, self.batch_size, self.seed)
        with evaluated(surrogate, self.x) as surrogate:
            transfer = self.flags(self.pgd(surrogate, self.eps))
        return Check(
            "black-box fools no more than white-box",
            f"accuracy {transfer.mean():.2%} on examples of {source} surrogate, {white_box.mean():.2%} on its own",
            not fools_more(transfer, white_box),
            "quote the accuracy on examples of other networks too, and attack the model through a smooth stand-in of "
            "what has no gradient",
        )

    def unbounded(self) -> Check:
        left = self.survivors(1.0)
        return Check(
            "an unbounded attack fools all",
            f"accuracy {left.mean():.2%} at eps = 1",
            not left.any(),
            "PGD does not arrive: look in the forward pass for rounding, argmax, detach or a softmax before the logits",
        )

    def random_points(self, white_box: Flags, samples: int) -> Check:
        rows = torch.from_numpy(np.flatnonzero(white_box)).to(self.x.device)
        x, y, found = self.x[rows], self.y[rows], np.zeros(len(rows), bool)
        generator = torch.Generator(self.x.device).manual_seed(self.seed)
        for _ in range(samples if len(rows) else 0):
            noise = torch.empty_like(x).uniform_(-self.eps, self.eps, generator=generator)
            found |= ~self.flags(lambda adv, _: adv, torch.clamp(x + noise, 0, 1), y)
        return Check(
            "random points fool none that PGD did not",
            f"{found.sum()} of {len(rows)} fooled by {samples} points each",
            not found.any(),
            "quote the accuracy under AutoAttack, whose Square Attack asks for no gradient",
        )

    def growth(self, white_box: Flags) -> Check:
        curves = [white_box, *(self.survivors(times * self.eps) for times in MULTIPLES[1:])]
        grows = not any(fools_more(small, large) for small, large in itertools.pairwise(curves))
        fell = not white_box.any() or curves[-1].mean() < white_box.mean()
        accuracies = ", ".join(f"{curve.mean():.2%}" for curve in curves)
        radii = ", ".join(radius_text(times * self.eps).split()[0] for times in MULTIPLES)
        return Check(
            "success grows with eps",
            f"accuracy {accuracies} at eps = {radii}",
            bool(grows and fell),
            "PGD gets lost around the image: give it more steps and restarts, or other losses, as AutoAttack has",
        )

    def survivors(self, eps: float) -> Flags:
        """Return which samples survive PGD of a radius.

        After a quarter of its steps those are left alone that are fooled, or have not moved and never will.
        """
        few = -(-self.steps // 4)

        def attack(x: Tensor, y: Tensor) -> Tensor:
            start = random_start(x, uniform(x, eps), self.seed)
            adv = self.ascend(self.model, x, y, eps, eps / 4, few, start)
            rest = correct(self.model, adv, y) & (adv != start).flatten(1).any(1)
            if rest.any() and few < self.steps:
                more = self.steps - few
                adv[rest] = self.ascend(self.model, x[rest], y[rest], eps, eps / 4, more, adv[rest])
            return adv

        return self.flags(attack)

    def pgd(self, network: nn.Module, eps: float) -> Attack:
        """Return PGD on a network, from a random start."""

        def attack(x: Tensor, y: Tensor) -> Tensor:
            start = random_start(x, uniform(x, eps), self.seed)
            return self.ascend(network, x, y, eps, eps / 4, self.steps, start)

        return attack

    def ascend(
        self, network: nn.Module, x: Tensor, y: Tensor, eps: float, alpha: float, steps: int, start: Tensor
    ) -> Tensor:
        loss = ascent(network, AT(), y)
        return pixel_ag(loss, x, uniform(x, eps), alpha, steps, start, on_first_gradient=self.count_missing)

    def count_missing(self, gradient: Tensor) -> None:
        self.without_gradient += int((gradient.flatten(1).abs().amax(1) == 0).sum())

    def flags(self, attack: Attack, x: Tensor | None = None, y: Tensor | None = None) -> Flags:
        """Return whether the model is right about the adversarial images, by default of all samples."""
        x, y = self.x if x is None else x, self.y if y is None else y
        flags: list[Tensor] = []
        for images, labels in zip(x.split(self.batch_size), y.split(self.batch_size), strict=True):

            def run(rows: slice, images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return correct(self.model, attack(images[rows], labels[rows]), labels[rows])

            flags += within_memory(run, len(images))
        found: Flags = torch.cat(flags).cpu().numpy()
        return found
