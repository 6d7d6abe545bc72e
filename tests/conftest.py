"""Real networks on real images: pyautoattack's CIFAR-10 ResNet-18, and a small one trained on digits."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from sklearn.datasets import load_digits
from torch import nn

settings.register_profile("part", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("part")
torch.set_num_threads(1)  # networks as small as these get many times slower where threads must share a core


class SmallNet(nn.Module):
    """Two convolutions with batch norm and dropout, for 8x8 or larger images with any number of channels."""

    def __init__(self, channels: int = 1, num_classes: int = 10, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4 * 2 * width, num_classes)

    def forward(self, x):
        return self.head(self.dropout(self.pool(self.features(x))))

    def pool(self, features):
        return nn.functional.adaptive_avg_pool2d(features, 2).flatten(1)


@pytest.fixture(scope="session")
def digits():
    """All digits as (1797, 1, 8, 8) float32 in [0, 1] and their classes."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)


@pytest.fixture(scope="session")
def _trained_digits_net(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        x, y = digits[0][:1400], digits[1][:1400]
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
    net.eval()
    accuracy = (net(digits[0][1400:]).argmax(1) == digits[1][1400:]).float().mean()
    assert accuracy > 0.9
    return net


@pytest.fixture
def digits_net(_trained_digits_net):
    """A network trained on digits (over 90 % accurate), a fresh copy for each test, in eval mode."""
    net = SmallNet()
    net.load_state_dict(_trained_digits_net.state_dict())
    return net.eval()


@pytest.fixture(scope="session")
def _robust_digits_net(digits):
    """Adversarial training at eps 0.1, by the package itself."""
    from part_plugin import PART

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        part = PART(eps=0.1, eps_low=0.1, alpha=0.04, steps=4, burn_in=0, seed=0)
        x, y = digits[0][:1400], digits[1][:1400]
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(100):
                optimizer.zero_grad()
                part.loss(net.train(), x[rows], y[rows]).backward()
                optimizer.step()
    return net.eval()


@pytest.fixture
def robust_net(_robust_digits_net):
    """A network trained adversarially on digits at eps 0.1, a fresh copy for each test, in eval mode."""
    net = SmallNet()
    net.load_state_dict(_robust_digits_net.state_dict())
    return net.eval()


@pytest.fixture
def batch(digits):
    """Sixteen digits that no network here was trained on."""
    return digits[0][1500:1516].clone(), digits[1][1500:1516].clone()


@pytest.fixture(scope="session")
def cifar_net():
    """The CIFAR-10 ResNet-18 that pyautoattack ships (93.8 % natural accuracy), in eval mode."""
    folder = Path(importlib.util.find_spec("pyautoattack").origin).parent / "examples"
    spec = importlib.util.spec_from_file_location("pyautoattack_resnet", folder / "resnet.py")
    resnet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(resnet)
    net = resnet.ResNet18()
    net.load_state_dict(torch.load(folder / "model_test.pt", map_location="cpu", weights_only=True))
    return net.eval()


@pytest.fixture(scope="session")
def photos():
    """Eight 32x32 crops of scikit-learn's two photographs, (8, 3, 32, 32) float32 in [0, 1]."""
    from sklearn.datasets import load_sample_images

    crops = [
        image[top : top + 256 : 8, left : left + 256 : 8]
        for image in load_sample_images().images
        for top, left in ((0, 0), (100, 100), (150, 300), (60, 380))
    ]
    return torch.tensor(np.stack(crops) / 255, dtype=torch.float32).permute(0, 3, 1, 2).contiguous()


def snapshot(model: nn.Module) -> dict:
    """Everything a call must leave alone: modules and what hangs on them, modes, hooks, gradients, buffers, weights."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modules": {name: (id(module), sorted(vars(module))) for name, module in model.named_modules()},
        "layout": {name: (id(p), p.data_ptr(), p.stride()) for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: [len(getattr(module, h)) for h in hooks] for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "grad_objects": {name: id(p.grad) for name, p in model.named_parameters()},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "state": {name: value.clone() for name, value in model.state_dict().items()},
    }


def assert_untouched(model: nn.Module, before: dict) -> None:
    after = snapshot(model)
    for key in ("modules", "layout", "modes", "hooks", "requires_grad", "grad_objects"):
        assert after[key] == before[key], key
    for name, value in before["state"].items():
        assert torch.equal(after["state"][name], value), name
    for name, value in before["grads"].items():
        assert value is None or torch.equal(after["grads"][name], value), name


@pytest.fixture
def lived_in(digits_net, batch):
    """A network in the middle of a training loop: training, one batch norm frozen, gradients accumulated."""
    digits_net.train()
    digits_net.features[1].eval()
    digits_net.features[0].weight.requires_grad_(False)
    nn.functional.cross_entropy(digits_net(batch[0]), batch[1]).backward()
    return digits_net
