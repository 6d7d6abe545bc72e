"""The code published with the paper (github.com/tmlr-group/PART, which needs torchcam), as it is called here."""

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Published:
    """A checkout of the published code, with the paper's settings.

    Args:
        path: the checkout.
        eps: radius of important pixels.
        eps_low: radius of the others.
        alpha: step size of the attack.
        steps: of the attack.
    """

    def __init__(self, path: str, eps: float, eps_low: float, alpha: float, steps: int):
        self._code = _load(path)
        self._settings = types.SimpleNamespace(model="resnet", cam="gradcam", epsilon=eps, low_epsilon=eps_low)
        self._attack = (eps, steps, alpha)

    def maps(self, model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Return the weights that it makes of its maps."""
        return self._code.craft_weight_matrix(model.eval(), x, x.device, self._settings, parallel=False)

    def attack(self, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return its adversarial examples."""
        radii = self._code.generate_weighted_eps(self.maps(model, x), self._settings)
        with _cuda_does_nothing(x.device):
            return self._code.part_pgd(model, x, y, radii, *self._attack).detach()


def _load(path: str) -> types.ModuleType:
    """Return its module `utils`, which asks for a function that Matplotlib 3.9 took away."""
    import matplotlib
    from matplotlib import cm

    if not hasattr(cm, "get_cmap"):
        cm.get_cmap = matplotlib.colormaps.__getitem__
    sys.path.insert(0, path)
    try:
        return importlib.import_module("utils")
    finally:
        sys.path.remove(path)


@contextmanager
def _cuda_does_nothing(device: torch.device) -> Iterator[None]:
    """Let code that calls `.cuda()` run on a CPU."""
    kept = torch.Tensor.cuda
    if device.type == "cpu":
        torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor
    try:
        yield
    finally:
        torch.Tensor.cuda = kept
