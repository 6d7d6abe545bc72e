"""Attacks of torchattacks and ART, on the network that is evaluated or on a surrogate (a transfer attack)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..network.isolation import callers_own, gradients_kept, isolated
from .common import correct, fingerprint, seeded
from .entries import ByBatch, Rows


@dataclass(eq=False)
class ToolkitAttack(ByBatch):
    """An attack of torchattacks or ART, in the manner of the toolkit: global seed, images and labels as it wants them.

    Args:
        attack: the instance.
        name: of its row.
        seed: for the generators that it draws from.
    """

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
    def portable(self) -> bool:
        """Whether it can be sent to another process: to pickle one of ART's leaves files in its folder."""
        return not self.of_art

    @property
    def network(self) -> nn.Module:
        """The network it was made on."""
        network: nn.Module = self.attack.estimator.model if self.of_art else self.attack.model
        return network

    @property
    def eps(self) -> float | None:
        """Radius, of images in [0, 1]; None if it is no number or not l_inf."""
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

    @property
    def key(self) -> str:
        """What tells its pieces from those of other entries, the same on another network among them."""
        return f"{super().key}/{fingerprint(self.network)}"

    def run(self, model: nn.Module, images: Tensor, labels: Tensor) -> Rows:
        """Return the flags of one batch.

        Raises:
            RuntimeError: the attack left its radius.
            ValueError: it returned something else than images.
        """
        began = time.perf_counter()
        adv = self._by_art(images, labels) if self.of_art else self._by_torchattacks(images, labels)
        if not isinstance(adv, Tensor) or adv.shape != images.shape:
            found = tuple(adv.shape) if isinstance(adv, Tensor) else f"a {type(adv).__name__}"
            raise ValueError(
                f"attacks holds {self.name}, which returned {found}; images {tuple(images.shape)} are needed"
            )
        adv = adv.detach().to(images)
        moved = float((adv - images).abs().max())
        if self.eps is not None and moved > self.eps + 1e-5:
            raise RuntimeError(
                f"attacks holds {self.name}, which moved a pixel by {moved:.4g}, further than its eps={self.eps:.4g}; "
                "its images must be in [0, 1] (set_normalization_used, clip_values)"
            )
        return {self.name: (correct(model, adv, labels), time.perf_counter() - began)}

    def _by_torchattacks(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the adversarial images of a copy of the attack that works on a replica of its network."""
        from ..adapters.torchattacks.base import bound_to

        with isolated(self.network, images) as network, gradients_kept(network), seeded(self.seed, images.device):
            adv: Tensor = bound_to(self.attack, network)(images, labels)
            return adv

    def _by_art(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return ART's adversarial images, from images in [0, 1] to images in [0, 1]."""
        low, high = self._range()
        with callers_own(self.network), seeded(self.seed, images.device):
            adv = self.attack.generate((images * (high - low) + low).cpu().numpy(), labels.cpu().numpy())
        back: Tensor = (torch.from_numpy(np.asarray(adv)) - low) / (high - low)
        return back

    def _radius(self, name: str) -> float | None:
        radius, norm = getattr(self.attack, name, None), getattr(self.attack, "norm", "Linf")
        if name == "eps" and radius is None:  # PIFGSM's
            radius = getattr(self.attack, "max_epsilon", None)
        linf = norm in ("Linf", "inf", np.inf) and "L2" not in type(self.attack).__name__
        if not isinstance(radius, Real) or not linf:
            return None
        low, high = self._range()
        return float(radius) / float(high - low)

    def _range(self) -> Any:
        """Return the smallest and largest value of a pixel."""
        return self.attack.estimator.clip_values if self.of_art else (0.0, 1.0)


def toolkit_attack(attack: Any, seed: int) -> ToolkitAttack | None:
    """Return the entry of an attack's instance; None if it is of no toolkit that is known.

    Args:
        attack: any object.
        seed: see `ToolkitAttack`.

    Raises:
        ValueError: an estimator of ART without clip_values.
    """
    if hasattr(attack, "estimator") and hasattr(attack, "generate"):
        if attack.estimator.clip_values is None:
            raise ValueError(f"attacks holds {type(attack).__name__}, whose estimator has no clip_values; give it some")
        return ToolkitAttack(attack, type(attack).__name__, seed)
    if isinstance(getattr(attack, "model", None), nn.Module) and hasattr(attack, "supported_mode"):
        return ToolkitAttack(attack, str(attack.attack), seed)
    return None
