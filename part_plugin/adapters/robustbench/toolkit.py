"""RobustBench made importable from its PyPI release, and its evaluation.

Importing this module is enough for `import robustbench` to work: release 1.1.1 asks for a module
`autoattack`, which its dependency pyautoattack installs as `pyautoattack`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import check_images, class_indices
from ...network.isolation import eval_mode, gradients_kept


def check_own_files() -> None:
    """Raise if another package's files lie over RobustBench's.

    The wheel of torchattacks 3.5.1 carries an old copy of it; whichever is installed last wins.

    Raises:
        ImportError: they do, or RobustBench is not installed.
    """
    try:
        installed = metadata.distribution("robustbench")
    except metadata.PackageNotFoundError:
        raise ImportError("robustbench is not installed") from None
    rows = csv.reader((installed.read_text("RECORD") or "").splitlines())
    files = [(name, digest) for name, digest, _ in rows if name.endswith(".py")]
    wrong = [name for name, digest in files if digest != _digest(Path(str(installed.locate_file(name))))]
    if wrong:
        raise ImportError(
            f"{len(wrong)} of robustbench's files are missing or another package's ({wrong[0]}), most likely because "
            "torchattacks' wheel holds an old copy: pip install --force-reinstall --no-deps robustbench"
        )


def _digest(file: Path) -> str:
    """Return the checksum of a file as pip's RECORD writes it."""
    content = file.read_bytes() if file.is_file() else b""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@contextmanager
def _autoattack_alias() -> Iterator[None]:
    """Let `from autoattack import AutoAttack` find pyautoattack, only while RobustBench is imported."""
    if importlib.util.find_spec("autoattack") is not None:
        yield
        return
    from pyautoattack import AutoAttack, state

    class RobustBenchAutoAttack(AutoAttack):
        """pyautoattack's AutoAttack under the arguments that RobustBench calls it with.

        Seeded with 0 where RobustBench leaves it to the clock, so that a number can be had again.
        """

        def __init__(self, model: nn.Module, *, log_path: str | None = None, seed: int | None = 0, **kwargs: Any):
            super().__init__(model, seed=seed, **kwargs)

        def run_standard_evaluation(self, x: Tensor, y: Tensor, bs: int = 250, **kwargs: Any) -> Tensor:
            adv: Tensor = super().run_standard_evaluation(x, y, batch_size=bs, **kwargs)[0]
            return adv

    alias = types.ModuleType("autoattack")
    vars(alias)["AutoAttack"] = RobustBenchAutoAttack
    sys.modules |= {"autoattack": alias, "autoattack.state": state}
    try:
        yield
    finally:
        del sys.modules["autoattack"], sys.modules["autoattack.state"]


check_own_files()
if importlib.util.find_spec("pkg_resources") is None:
    raise ImportError("robustbench imports pkg_resources, which setuptools 82 took away: pip install 'setuptools<82'")
with _autoattack_alias(), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # timm and pkg_resources announce what will go away in their next releases
    import robustbench
    import robustbench.data
    from robustbench.model_zoo import architectures
    from robustbench.model_zoo.architectures.utils_architectures import normalize_model
    from robustbench.model_zoo.enums import BenchmarkDataset

__all__ = ["architectures", "benchmark", "check_own_files", "normalize_model", "robustbench"]


def benchmark(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    batch_size: int = 128,
    **options: Any,
) -> tuple[float, float]:
    """Return natural and AutoAttack accuracy in [0, 1] from `robustbench.eval.benchmark` on images of your own.

    RobustBench itself only knows how to download CIFAR-10, CIFAR-100 and ImageNet.

    Args:
        model: network that returns logits (N, K), K >= 10, for images in [0, 1].
        x: images (N, C, H, W) in [0, 1].
        y: class indices (N,).
        eps: l_inf radius.
        batch_size: samples per forward pass.
        **options: to_disk, model_name, aa_state_path and so on; see `robustbench.eval.benchmark`.
    """
    check_images(x)
    y = class_indices(y, len(x))
    loaders = robustbench.data._clean_dataset_loaders
    downloading = loaders[BenchmarkDataset.cifar_10]
    loaders[BenchmarkDataset.cifar_10] = lambda n, data_dir, transform: (x[:n], y[:n])
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    tracer = sys.gettrace()  # AutoAttack's check for dynamic defences switches tracing off
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())), eval_mode(model), gradients_kept(model):
            natural, robust = robustbench.benchmark(
                model, len(x), "cifar10", "Linf", eps=eps, batch_size=batch_size, device=device, **options
            )
        return natural, robust
    finally:
        loaders[BenchmarkDataset.cifar_10] = downloading
        sys.settrace(tracer)
