"""Networks as they are in working pipelines: compiled, checkpointed, averaged, with more than one head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.optim.swa_utils import AveragedModel
from torchvision.models.resnet import BasicBlock

COMPILED = {"backend": "eager"}  # what is asked is which modules run, not how fast


def _cnn() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=10)


def _vit() -> nn.Module:
    small = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}
    return timm.create_model("vit_tiny_patch16_224", num_classes=10, **small)


class Normalize(nn.Module):
    """Images to zero mean and unit variance."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, normalised."""
        return (images - 0.5) / 0.25


class Ensemble(nn.Module):
    """The mean logits of two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _cnn(), _vit()

    def forward(self, images: Tensor) -> Tensor:
        """Return mean logits."""
        return (self.first(images) + self.second(images)) / 2


class Unused(nn.Module):
    """A network that last of all runs a layer whose output nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.unused = _cnn(), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of the network alone."""
        logits = self.network(images)
        self.unused(images)
        return logits


class Reused(nn.Module):
    """One block that is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 16, 4, 4), nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GELU())
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        features = self.stem(images)
        for _ in range(3):
            features = features + self.block(features)
        return self.head(features.mean((2, 3)))


def _in_place(make: Callable[[], nn.Module]) -> nn.Module:
    model = make()
    model.compile(**COMPILED)
    return model


def _blocks_compiled() -> nn.Module:
    model = _vit()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = torch.compile(block, **COMPILED)
    return model


def _checkpointed_by_timm(make: Callable[[], nn.Module]) -> nn.Module:
    model = make()
    model.set_grad_checkpointing(True)
    return model


def _checkpointed_by_torch(kind: CheckpointImpl) -> nn.Module:
    model = torchvision.models.resnet18(num_classes=10)
    wrapper = partial(checkpoint_wrapper, checkpoint_impl=kind)
    apply_activation_checkpointing(
        model, checkpoint_wrapper_fn=wrapper, check_fn=lambda module: isinstance(module, BasicBlock)
    )
    return model


WRAPPED: list[tuple[str, Callable[[], nn.Module], list[str] | None]] = [
    ("DataParallel", lambda: nn.DataParallel(_cnn()), None),
    ("torch.compile(CNN)", lambda: torch.compile(_cnn(), **COMPILED), None),
    ("torch.compile(ViT)", lambda: torch.compile(_vit(), **COMPILED), None),
    ("CNN.compile()", partial(_in_place, _cnn), None),
    ("ViT.compile()", partial(_in_place, _vit), None),
    ("Normalize, then a compiled CNN", lambda: nn.Sequential(Normalize(), torch.compile(_cnn(), **COMPILED)), None),
    ("ViT of compiled blocks", _blocks_compiled, None),
    ("CNN, set_grad_checkpointing (reentrant)", partial(_checkpointed_by_timm, _cnn), None),
    ("ViT, set_grad_checkpointing (reentrant)", partial(_checkpointed_by_timm, _vit), None),
    ("CheckpointWrapper, reentrant", partial(_checkpointed_by_torch, CheckpointImpl.REENTRANT), None),
    ("CheckpointWrapper, not reentrant", partial(_checkpointed_by_torch, CheckpointImpl.NO_REENTRANT), None),
    ("AveragedModel", lambda: AveragedModel(_cnn()), None),
    ("ModelEmaV3", lambda: timm.utils.ModelEmaV3(_vit()), None),
    ("a layer that nobody uses, run last", Unused, None),
    ("a block called three times", Reused, None),
    ("an ensemble of a CNN and a ViT", Ensemble, ["first.layer4", "second.blocks.2.norm1"]),
    ("torch.jit.script(CNN)", lambda: torch.jit.script(torchvision.models.resnet18(num_classes=10)), None),
]
