"""100,000 random attack problems: does every answer stay in its budget but for one unit in the last place?

    python benchmarks/robustness/ulp.py [--cases 100000]

Every attack of both adapters and of PART itself, on images of random size, with radii of every kind, in float64,
float32, bfloat16 and float16; torchattacks works in [0, 1], the others in clip ranges of every scale as well. A case
is one call on one batch. Checked of each: finite values, and, with numbers as the type has them, the clip range and
|adv - x| <= radius + one ulp of the larger of |adv| and |x|. The type is that of the images, or single precision where
the toolkit answers so (all of ART, BIM of torchattacks); of two types it is the coarser.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torchattacks
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BasicIterativeMethod,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescentPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from part_plugin import (
    MMA,
    PART,
    FixedBudget,
    PixelAttack,
    PixelBudget,
    PixelEvasionAttack,
    PixelMMA,
    PixelPGD,
    PixelProjectedGradientDescent,
    PixelTPGD,
)

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CLIPS = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-2.5, 0.1), (0.1, 1.4), (-0.3, 2.7))


class Case(NamedTuple):
    """A random problem."""

    x: Tensor
    y: Tensor
    radii: Tensor
    clip: tuple[float, float]
    alpha: float
    steps: int

    @property
    def eps(self) -> float:
        """Largest radius."""
        return float(self.radii.max())

    def budget(self) -> FixedBudget:
        """The budget of these radii."""
        return FixedBudget(self.radii)


class Net(nn.Module):
    """A convolution and a head, for images of any size."""

    def __init__(self, channels: int):
        super().__init__()
        self.features, self.head = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        maps = self.features(x.to(self.features.weight.dtype))  # BIM of torchattacks makes single precision of any
        logits: Tensor = self.head(maps.relu().mean((2, 3)))
        return logits


NETS: dict[Any, nn.Module] = {
    (channels, dtype): Net(channels).to(dtype).eval() for channels in (1, 3) for dtype in TYPES
}
Way = Callable[[nn.Module, Case], Tensor]


def case_of(draw: random.Random, clips: tuple[tuple[float, float], ...], types: tuple[torch.dtype, ...]) -> Case:
    """Return a random problem: clip range, type, shape and radii."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    (low, high), dtype = draw.choice(clips), draw.choice(types)
    n, c, h, w = draw.randint(1, 4), draw.choice((1, 3)), draw.randint(2, 6), draw.randint(2, 6)
    x = low + (high - low) * torch.rand(n, c, h, w, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.2, x.round(), x)  # many at 0, 1, ...
    bounds = [torch.tensor(bound, dtype=torch.float64).to(dtype) for bound in (low, high)]
    x = x.to(dtype).clamp(*bounds)
    eps = (high - low) * draw.choice((8 / 255, draw.random() * 0.5, 10 ** draw.uniform(-6, -1)))
    share = torch.rand((n, draw.choice((1, c)), h, w), generator=generator, dtype=torch.float64)
    kind = draw.randrange(4)
    share = (torch.where(share > 0.7, 1.0, 7 / 8), share, (share > 0.5).double(), torch.ones_like(share))[kind]
    y = torch.randint(5, (n,), generator=generator)
    return Case(x, y, eps * share, (low, high), max(eps, 1e-7) * draw.uniform(0.1, 1.0), draw.randint(1, 4))


def by_map(attack: Callable[[nn.Module, Case, PixelBudget], Tensor]) -> Way:
    """Return a way that takes a budget of a map; the radii of the case become those of the map."""

    def way(net: nn.Module, case: Case) -> Tensor:
        budget = PixelBudget(case.eps, case.eps / 2, target_layers="features")
        case.radii.resize_(len(case.x), 1, *case.x.shape[2:]).copy_(budget.radii(net, case.x, case.y))
        return attack(net, case, budget)

    return way


def part(**options: Any) -> Way:
    """PART itself."""
    return lambda net, case: PART(
        options.get("objective", "at"), budget=case.budget(), alpha=case.alpha, steps=case.steps, clip=case.clip,
        burn_in=0, attack=options.get("attack", "pgd"), random_start=options.get("random_start", True),
    ).perturb(net, case.x, case.y)  # fmt: skip


def wrapped(make: Callable[[nn.Module, float], Any]) -> Way:
    """An attack of torchattacks."""
    return lambda net, case: PixelAttack(make(net, max(case.eps, 1e-7)), budget=case.budget())(case.x, case.y)


def in_art(make: Callable[[PyTorchClassifier, Case], Any]) -> Way:
    """An attack of ART."""

    def way(net: nn.Module, case: Case) -> Tensor:
        shape = tuple(case.x.shape[1:])
        net = NETS[shape[0], torch.float32]
        classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), shape, 5, clip_values=case.clip, device_type="cpu")
        adv = make(classifier, case).generate(case.x.numpy(), case.y.numpy())
        return torch.from_numpy(adv)

    return way


def lifted(make: Callable[[PyTorchClassifier, Case], Any]) -> Way:
    """An attack of ART, wrapped."""
    return in_art(lambda classifier, case: PixelEvasionAttack(make(classifier, case), budget=case.budget()))


CORE: dict[str, Way] = {
    "PART": part(),
    "PART without random start": part(random_start=False),
    "PART-T": part(objective="trades"),
    "PART-M": part(objective="mart"),
    "PART, mma": part(attack="mma"),
    "PART, a map's budget": by_map(
        lambda net, case, budget: PART(
            budget=budget, alpha=case.alpha, steps=case.steps, clip=case.clip, burn_in=0
        ).perturb(net, case.x, case.y)
    ),
}
TORCHATTACKS: dict[str, Way] = {
    "PixelPGD": lambda net, c: PixelPGD(net, c.eps, c.alpha, c.steps, budget=c.budget())(c.x, c.y),
    "PixelTPGD": lambda net, c: PixelTPGD(net, c.eps, c.alpha, c.steps, budget=c.budget())(c.x),
    "PixelMMA": lambda net, c: PixelMMA(net, c.eps, c.alpha, c.steps, budget=c.budget())(c.x, c.y),
    "MMA": lambda net, c: _uniform(c) and MMA(net, c.eps, c.alpha, c.steps)(c.x, c.y),
    "PixelAttack of FGSM": wrapped(lambda net, eps: torchattacks.FGSM(net, eps)),
    "PixelAttack of BIM": wrapped(lambda net, eps: torchattacks.BIM(net, eps, eps / 2, 2)),
    "PixelAttack of PGD": wrapped(lambda net, eps: torchattacks.PGD(net, eps, eps / 2, 2)),
    "PixelAttack of MIFGSM": wrapped(lambda net, eps: torchattacks.MIFGSM(net, eps, eps / 2, 2)),
    "PixelAttack of FFGSM": wrapped(lambda net, eps: torchattacks.FFGSM(net, eps, eps)),
    "PixelAttack of APGD": wrapped(lambda net, eps: torchattacks.APGD(net, eps=eps, steps=3)),
    "PixelAttack of Square": wrapped(lambda net, eps: torchattacks.Square(net, eps=eps, n_queries=3)),
}
LIMITED = {f"PixelAttack of {name}": TYPES[:1] for name in ("APGD", "Square")}  # which mix in single precision
ART: dict[str, Way] = {
    "PixelProjectedGradientDescent": in_art(
        lambda k, c: PixelProjectedGradientDescent(
            k,
            eps=c.eps,
            eps_step=c.alpha,
            max_iter=c.steps,
            num_random_init=c.steps % 2,
            budget=c.budget(),
            verbose=False,
        )
    ),
    "PixelEvasionAttack of FGM": lifted(lambda k, c: FastGradientMethod(k, eps=positive(c))),
    "PixelEvasionAttack of BIM": lifted(
        lambda k, c: BasicIterativeMethod(k, eps=positive(c), eps_step=positive(c) / 2, max_iter=2, verbose=False)
    ),
    "PixelEvasionAttack of PGD": lifted(
        lambda k, c: ProjectedGradientDescentPyTorch(
            k, eps=positive(c), eps_step=positive(c) / 2, max_iter=2, num_random_init=1, verbose=False
        )
    ),
    "PixelEvasionAttack of MIM": lifted(
        lambda k, c: MomentumIterativeMethod(k, eps=positive(c), eps_step=positive(c) / 2, max_iter=2, verbose=False)
    ),
    "PixelEvasionAttack of APGD": lifted(
        lambda k, c: AutoProjectedGradientDescent(
            k, eps=positive(c), eps_step=positive(c) / 2, max_iter=2, nb_random_init=1, verbose=False
        )
    ),
}


def positive(case: Case) -> float:
    """Return the largest radius, or a tiny one where that is zero, which ART's attacks refuse."""
    return max(case.eps, 1e-7)


def _uniform(case: Case) -> bool:
    case.radii.fill_(case.eps)
    return True


def overstep(case: Case, adv: Tensor) -> float:
    """Return by how many units in the last place an answer oversteps at most; infinity for other faults."""
    coarser = max(case.x.dtype, adv.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    low, high = (torch.tensor(bound, dtype=torch.float64).to(coarser).double() for bound in case.clip)
    before, after = case.x.double(), adv.double()
    if adv.dtype not in (case.x.dtype, torch.float32) or not bool(
        adv.isfinite().all() and (after >= low).all() and (after <= high).all()
    ):
        return float("inf")
    larger = torch.maximum(before.abs(), after.abs()).clamp(min=torch.finfo(coarser).tiny)
    ulp = torch.finfo(coarser).eps * 2.0 ** (torch.frexp(larger)[1] - 1).double()
    return float((((after - before).abs() - case.radii.to(coarser).double()) / ulp).max())


def main() -> None:
    """Run all cases, print how far each attack oversteps at most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print every case that is beyond one ulp")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    np.random.seed(arguments.seed)
    draw = random.Random(arguments.seed)
    ways = [(name, way, CLIPS, TYPES) for name, way in CORE.items()]
    ways += [(name, way, CLIPS[:1], LIMITED.get(name, TYPES)) for name, way in TORCHATTACKS.items()]
    ways += [(name, way, CLIPS, TYPES[:2]) for name, way in ART.items()]
    done: Counter[str] = Counter()
    worst: dict[str, float] = {}
    beyond: Counter[str] = Counter()
    for number in range(arguments.cases):
        name, way, clips, types = ways[number % len(ways)]
        case = case_of(draw, clips, types)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            adv = way(NETS[case.x.shape[1], case.x.dtype], case)
        ulps = overstep(case, adv)
        done[name] += 1
        worst[name] = max(worst.get(name, 0.0), ulps)
        if ulps > 1:
            if arguments.show:
                print(name, ulps, case)
            beyond[f"{name}, {case.x.dtype}"] += 1
    for name, most in worst.items():
        print(f"{name:32} {done[name]:6} cases, at most {most:.3f} ulp beyond the radius")
    print(f"{done.total()} cases, {beyond.total()} beyond one ulp {dict(beyond)}")


if __name__ == "__main__":
    main()
