"""Eight threads, four networks, 10,000 mixed calls: does each get what it gets alone, and is every network as before?

    python benchmarks/robustness/threads.py [--calls 10000]

Three networks are attacked and mapped by seven threads in random order: one with a replica, one that has none (its
forward pass is a closure over itself, so that the threads take turns), and one with frozen parts and gradients of its
own. The fourth is trained by the eighth thread, in a plain loop, while the others attack it as well; its weights must
be those of the same training alone. Every other result is compared, bit by bit, with that of the call alone.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import torchattacks
from art.attacks.evasion import BasicIterativeMethod
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from part_plugin import (
    PART,
    PixelAttack,
    PixelEvasionAttack,
    PixelPGD,
    PixelProjectedGradientDescent,
    class_activation_map,
    evaluate,
)

X, Y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
OPTIONS: dict[str, Any] = {"eps": 0.1, "alpha": 0.03, "steps": 2, "target_layers": "net.0"}


class Net(nn.Module):
    """A small network; with `closed` its forward pass is a closure over itself."""

    def __init__(self, closed: bool = False):
        super().__init__()
        first, last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 10, 3, padding=1)
        self.net = nn.Sequential(nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU()), last, nn.BatchNorm2d(10))
        if closed:
            self.forward = lambda x: self.net(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.net(x).mean((2, 3))
        return out


def calls_on(net: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """Return calls whose results do not hang on the global random state."""

    def evaluated() -> Tensor:
        result = evaluate(net, X, Y, 0.1, ["natural", "pgd2", "adaptive_pgd2"], verbose=False, adaptive=budget)
        return torch.stack([torch.from_numpy(row.correct) for row in result.results])

    budget = PART(**OPTIONS).budget
    eps, alpha, steps = (OPTIONS[name] for name in ("eps", "alpha", "steps"))
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu")
    in_art = {"eps": eps, "eps_step": alpha, "max_iter": steps, "verbose": False}
    shared = {  # by all threads
        "PixelPGD": PixelPGD(net, random_start=False, **OPTIONS),
        "PixelAttack of BIM": PixelAttack(torchattacks.BIM(net, eps, alpha, steps), target_layers="net.0"),
        "PixelAttack of FGSM": PixelAttack(torchattacks.FGSM(net, eps), target_layers="net.0"),
    }
    of_art = {
        "PGD in ART": PixelProjectedGradientDescent(classifier, target_layers="net.0", **in_art),
        "BIM in ART": PixelEvasionAttack(BasicIterativeMethod(classifier, **in_art), target_layers="net.0"),
    }
    return {
        "PART.perturb": lambda: PART(burn_in=0, seed=0, **OPTIONS).perturb(net, X, Y),
        "PART-T folded": lambda: PART("trades", burn_in=0, seed=1, fast="fold", **OPTIONS).perturb(net, X, Y),
        "PART with mma": lambda: PART(attack="mma", burn_in=0, seed=2, **OPTIONS).perturb(net, X, Y),
        **{name: partial(attack, X, Y) for name, attack in shared.items()},
        **{
            name: lambda a=attack: torch.from_numpy(a.generate(X.numpy(), Y.numpy())) for name, attack in of_art.items()
        },
        "GradCAM": lambda: class_activation_map(net, X, target_layers="net.0"),
        "LayerCAM": lambda: class_activation_map(net, X, Y, "layercam", "net.0"),
        "AblationCAM": lambda: class_activation_map(net, X[:1], Y[:1], "AblationCAM", "net.0"),
        "evaluate": evaluated,
    }


def state_of(net: nn.Module) -> tuple[object, ...]:
    """Return all that a call could change."""
    modules = list(net.modules())
    return (
        [(id(module), module.training, "forward" in vars(module), sorted(vars(module))) for module in modules],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules],
        [(id(p), p.requires_grad, p.stride(), p.data_ptr(), id(p.grad)) for p in net.parameters()],
        [value.tolist() for value in net.state_dict().values()],
        [None if p.grad is None else p.grad.tolist() for p in net.parameters()],
    )


def train(net: nn.Module, steps: int) -> None:
    """Train a network in a plain loop."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X), Y).backward()
        optimizer.step()


def networks() -> list[nn.Module]:
    """Return the four networks, the last for training."""
    torch.manual_seed(0)
    made = [Net(), Net(closed=True), Net(), Net()]
    for net in made:
        net.train()(X)
    made[1].eval()
    made[2].net[0].eval()
    made[2].net[0][0].weight.requires_grad_(False)
    made[2](X).sum().backward()
    return made


def main() -> None:
    """Run all calls, print how many were right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    *attacked, trained = networks()
    calls = {(number, name): call for number, net in enumerate(attacked) for name, call in calls_on(net).items()}
    expected = {key: call() for key, call in calls.items()}
    calls |= {(len(attacked), name): call for name, call in calls_on(trained).items() if name != "evaluate"}
    alone = networks()[-1]
    train(alone, arguments.calls)
    before = [state_of(net) for net in attacked]
    wrong: Counter[tuple[int, str]] = Counter()
    done: Counter[tuple[int, str]] = Counter()
    counting = threading.Lock()

    def work(number: int) -> None:
        keys = random.Random(number).choices(list(calls), k=arguments.calls // (arguments.threads - 1))
        for key in keys:
            result = calls[key]()
            right = key not in expected or torch.equal(result, expected[key])
            with counting:
                done[key] += 1
                wrong[key] += not right

    began = time.perf_counter()
    with ThreadPoolExecutor(arguments.threads) as pool:
        jobs = [pool.submit(work, number) for number in range(arguments.threads - 1)]
        jobs.append(pool.submit(train, trained, arguments.calls))
        for job in jobs:
            job.result()
    seconds = time.perf_counter() - began
    same = [state_of(net) == state for net, state in zip(attacked, before, strict=True)]
    ours, theirs = (list(net.state_dict().values()) for net in (trained, alone))
    trained_alike = all(map(torch.equal, ours, theirs))
    beside = f"by {arguments.threads - 1} threads beside {arguments.calls} training steps"
    print(f"{done.total()} calls {beside}: {seconds:.0f} s")
    print(f"results that differ from those of the call alone: {wrong.total()} {dict(+wrong)}")
    print(f"networks that are as they were: {sum(same)} of {len(same)}")
    print(f"the network trained meanwhile has the weights of the training alone: {trained_alike}")


if __name__ == "__main__":
    main()
