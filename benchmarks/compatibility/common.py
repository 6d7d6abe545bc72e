"""What the rows share: a trained network, images, and what must hold of networks and adversarial images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from rows import seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn

EPS, EPS_LOW = 0.25, 0.0625  # fractions of 2, as the pixels of digits: nothing is rounded
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return all digits as (1797, 3, 8, 8) in [0, 1], and their classes."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1), torch.tensor(y)


def batch(n: int = 8) -> tuple[Tensor, Tensor]:
    """Return n digits that the network was not trained on and gets right, and their classes.

    Args:
        n: how many.
    """
    images, labels = (each[1400:1500] for each in digits())
    with torch.no_grad():
        right = network()(images).argmax(1) == labels
    return images[right][:n].clone(), labels[right][:n].clone()


def untrained(width: int = 16) -> nn.Sequential:
    """Return a small network for digits in three channels.

    Args:
        width: channels of its first convolution.
    """
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def network() -> nn.Sequential:
    """Return a fresh copy of the network trained on digits, in eval mode."""
    return copy.deepcopy(_trained())


def lived_in() -> nn.Sequential:
    """Return the trained network in the middle of a loop: training, one batch norm frozen, gradients accumulated."""
    made = network()
    made[0].weight.requires_grad_(False)
    nn.functional.cross_entropy(made(batch()[0]), batch()[1]).backward()
    made.train()[1].eval()
    return made


@cache
@torch.enable_grad()
def _trained() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = untrained()
        optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
        images, labels = (each[:1400] for each in digits())
        for _ in range(6):
            for rows in torch.randperm(len(images)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(made(images[rows]), labels[rows]).backward()
                optimizer.step()
    return made.eval()


class Shrunk(nn.Module):
    """The network behind a change of variable, written out: g(z) = f(x + m * (z - x)).

    Args:
        model: f.
        image: x, (1, C, H, W).
        m: (1, 1, H, W), in [0, 1].
    """

    def __init__(self, model: nn.Module, image: Tensor, m: Tensor):
        super().__init__()
        self.model = model
        self.image, self.m = image, m

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits of g at z, (N, C, H, W)."""
        return self.model(self.moved(z))

    def moved(self, z: Tensor) -> Tensor:
        """Return x + m * (z - x), and z itself where m = 1."""
        return torch.where(self.m < 1, self.image + self.m * (z - self.image), z)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Assert that weights, buffers, modes, hooks and gradients are the same afterwards.

    Args:
        model: what must not be touched.
    """
    before = _snapshot(model)
    yield
    after = _snapshot(model)
    for what, value in before.items():
        assert after[what] == value, f"the {what} of the network changed"


def _snapshot(model: nn.Module) -> dict[str, Any]:
    named = dict(model.named_modules())
    return {
        "state dict": {name: value.clone().numpy().tobytes() for name, value in model.state_dict().items()},
        "modes": {name: module.training for name, module in named.items()},
        "hooks": {name: [len(getattr(module, hooks)) for hooks in HOOKS] for name, module in named.items()},
        "gradients": {
            name: (id(p.grad), p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes())
            for name, p in model.named_parameters()
        },
    }


def check_within(images: Tensor, adv: Tensor, radii: Tensor | float, clip: tuple[float, float] = (0, 1)) -> None:
    """Assert that every pixel is within its radius, but for one unit in the last place, and in its range.

    Args:
        images: (N, C, H, W).
        adv: the same shape.
        radii: broadcast to the images.
        clip: the range.
    """
    assert adv.shape == images.shape, f"images of shape {tuple(adv.shape)} came back"
    assert adv.isfinite().all(), "an adversarial image is not finite"
    room = torch.as_tensor(radii).double() + ulp(torch.maximum(images.abs(), adv.abs()))
    assert ((adv.double() - images.double()).abs() <= room).all(), "a pixel left its budget"
    assert adv.min() >= clip[0], "a pixel left its range"
    assert adv.max() <= clip[1], "a pixel left its range"


def check_equal(found: Tensor, expected: Tensor, otherwise: str) -> bool:
    """Assert that two tensors are the same, but for one unit in the last place, and return whether to the bit.

    Args:
        found: (N, C, H, W).
        expected: the same shape.
        otherwise: what is said if they are not.
    """
    gap = (found.double() - expected.double()).abs()
    assert (gap <= ulp(expected.abs())).all(), otherwise
    return torch.equal(found, expected)


def ulp(values: Tensor) -> Tensor:
    """Return the distance from each value to the next larger number of its type, in double precision.

    Args:
        values: >= 0.
    """
    return torch.nextafter(values, torch.full_like(values, torch.inf)).double() - values.double()


def seeded(run: Callable[[], Any]) -> Any:
    """Return what a call returns when every generator is seeded just before.

    Args:
        run: what is called.
    """
    seed_everything()
    return run()


@contextmanager
def training_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what a network is trained on: its inputs in training mode, with gradients enabled.

    Args:
        model: what is trained.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training and torch.is_grad_enabled():
            seen.append(inputs[0].detach().clone())

    handle = model.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
