"""Small networks and results for the tests of the evaluation."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from part_plugin import PART
from part_plugin.evaluation import AttackResult, CorruptionResult, Evaluation, GradientChecks, corrupted
from part_plugin.evaluation.gradient_result import Check

EPS = 0.1


def narrow(num_classes=10):
    """The smallest network for digits that can be robust and has maps; with batch norm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


@pytest.fixture(scope="session")
def _narrow_net(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = narrow()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        part = PART(eps=EPS, eps_low=EPS, alpha=0.04, steps=3, burn_in=0, seed=0)
        x, y = digits[0][:1400], digits[1][:1400]
        for _ in range(6):
            for rows in torch.randperm(len(x)).split(100):
                optimizer.zero_grad()
                part.loss(net.train(), x[rows], y[rows]).backward()
                optimizer.step()
    return net.eval()


@pytest.fixture
def narrow_net(_narrow_net):
    """A network trained adversarially on digits at eps 0.1, a fresh copy for each test, in eval mode."""
    net = narrow()
    net.load_state_dict(_narrow_net.state_dict())
    return net.eval()


@pytest.fixture
def other_net(digits):
    """Another network on digits, not trained to withstand anything: the surrogate of transfer attacks."""
    x, y = digits[0][:1400].flatten(1), nn.functional.one_hot(digits[1][:1400], 10).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        net[1].weight.copy_(10 * torch.linalg.lstsq(x, y - 0.1, driver="gelsd").solution.T)
        net[1].bias.zero_()
    return net.eval()


@pytest.fixture(scope="session")
def held_out(digits):
    return digits[0][1400:1464], digits[1][1400:1464]


def result(name, flags, eps=EPS, eps_low=None, seconds=1.0, settings=None, warnings=()):
    flags = np.array([flag == "1" for flag in flags])
    low = eps if eps_low is None else eps_low
    return AttackResult(name, flags, seconds, eps, low, name if settings is None else settings, list(warnings))


class Terminal(io.StringIO):
    """Something that is written to and says that it is a terminal."""

    def isatty(self):
        return True


CARD = {"weights": "w", "eps": EPS, "seed": 3, "norm": "Linf", "attacks": ["natural"], "data": "d", "n": 6}


@pytest.fixture
def by_hand():
    """An evaluation of six samples whose every number can be worked out on paper."""
    results = [
        result("natural", "111110", 0.0, seconds=0.25),
        result("pgd5", "111100", seconds=1.0, settings="pgd"),
        result("pgd9", "011100", seconds=3.0, settings="pgd"),
        result("adaptive_pgd9", "000000", 0.15, EPS, seconds=5.0),
        result("PixelPGD", "000000", EPS, 0.05, seconds=7.0),
        result("PGDL2", "000000", None, None, seconds=9.0),
        result("autoattack", "110100", seconds=2.5, warnings=["zero gradient"]),
    ]
    gradients = GradientChecks([Check("one step", "a", True), Check("black-box", "b", False)], 0.25)
    index, columns = pd.Index(["fog", "jpeg_compression"], name="corruption"), pd.Index([1, 5], name="severity")
    corruptions = CorruptionResult(pd.DataFrame([[0.9, 0.7], [0.5, 0.25]], index, columns), "CIFAR-10-C files", 20)
    labels = np.array([0, 0, 4, 4, 4, 1])
    return Evaluation("mine", EPS, 3, results, labels, dict(CARD), gradients, corruptions, ["its logits change"])


@pytest.fixture(scope="session")
def labels(cifar_net, photos):
    """What the network makes of the clean photographs: its accuracy on them is 1."""
    with torch.no_grad():
        return cifar_net(photos).argmax(1)


@pytest.fixture(scope="session")
def cifar_10_c(tmp_path_factory, photos, labels):
    """A folder in CIFAR-10-C's layout with two corruptions; all but eight images per severity are black."""
    folder = tmp_path_factory.mktemp("data") / "CIFAR-10-C"
    folder.mkdir()
    for name in ("fog", "contrast"):
        images = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (50_000, 32, 32, 3))
        for severity in range(1, 6):
            pictures = (255 * corrupted(photos, name, severity)).round().byte().permute(0, 2, 3, 1)
            images[10_000 * (severity - 1) :][: len(photos)] = pictures.numpy()
        images.flush()
    classes = np.zeros(10_000, np.uint8)
    classes[: len(labels)] = labels.numpy()
    np.save(folder / "labels.npy", np.tile(classes, 5))
    return folder.parent
