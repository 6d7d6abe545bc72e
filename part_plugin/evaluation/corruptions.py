"""Accuracy under the 19 common corruptions of Hendrycks & Dietterich 2019, as in PART's Appendix H.2."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..checks import check_choice, check_class_range, check_count, check_images, check_number, class_indices
from ..network.isolation import eval_mode
from ..network.view import logits_of

CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "speckle_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "spatter",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
    "saturate",
)
"""The corruptions of CIFAR-10-C in the order of the paper's table (Appendix H.2)."""

SEVERITIES = (1, 2, 3, 4, 5)
GENERATOR = "imagecorruptions-imaug"
CIFAR_10_C = "CIFAR-10-C"
PER_SEVERITY = 10_000
OWN_GENERATORS = ("impulse_noise", "glass_blur")  # these do not draw from NumPy's global state; they take a seed


@dataclass(eq=False)
class CorruptionResult:
    """How a model fared under corruptions.

    Attributes:
        table: accuracy in [0, 1]; a row per corruption, a column per severity.
        source: where the corrupted images came from.
        n: images per corruption and severity.
        reference: errors in (0, 1] of the model that `mce` compares with, averaged over severities.
    """

    table: pd.DataFrame
    source: str
    n: int
    reference: dict[str, float] | None = None

    @property
    def by_corruption(self) -> pd.Series:
        """Accuracy per corruption, averaged over severities, in [0, 1]: what Appendix H.2 reports."""
        return self.table.mean(axis=1).rename("accuracy")

    @property
    def mean(self) -> float:
        """Accuracy averaged over corruptions and severities, in [0, 1]."""
        return float(self.by_corruption.mean())

    @property
    def unnormalised(self) -> float:
        """Mean corruption error without a reference: 1 - `mean`."""
        return 1 - self.mean

    @property
    def mce(self) -> float | None:
        """Mean corruption error relative to `reference` (1 if equally good) as in RobustBench; None without one."""
        if self.reference is None:
            return None
        errors = 1 - self.by_corruption
        return float((errors / pd.Series(self.reference)[errors.index]).mean())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, ready for JSON."""
        return {
            "table": self.table.to_dict(orient="tight"),
            "source": self.source,
            "n": self.n,
            "reference": self.reference,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CorruptionResult:
        """Return the result that `to_dict` described.

        Raises:
            ValueError: an entry is missing or unknown.
        """
        entries = {"table", "source", "n", "reference"}
        if set(values) != entries:
            raise ValueError(f"values have the entries {sorted(values)}; {sorted(entries)} are needed")
        return cls(**(values | {"table": pd.DataFrame.from_dict(values["table"], orient="tight")}))

    def to_markdown(self) -> str:
        """Return the table of Appendix H.2 for this model, in percent, with the mean as its last row."""
        rows = [(_title(name), accuracy) for name, accuracy in self.by_corruption.items()] + [("Mean", self.mean)]
        return "\n".join(["| Corruption | Accuracy |", "|---|---:|"] + [f"| {a} | {100 * b:.2f} |" for a, b in rows])

    def __str__(self) -> str:
        percent = 100 * self.table.assign(mean=self.by_corruption)
        percent.index = [_title(name) for name in percent.index]
        relative = "" if self.mce is None else f", mCE {self.mce:.2%} of the reference's"
        return (
            f"accuracy in % by severity: {self.n} images, {self.source}\n"
            f"{percent.to_string(float_format='{:.2f}'.format)}\n"
            f"mean accuracy {self.mean:.2%}, mean corruption error {self.unnormalised:.2%}{relative}"
        )


def _title(corruption: str) -> str:
    return corruption.replace("_", " ").title().replace("Jpeg", "JPEG")


def corrupted(images: Tensor, corruption: str, severity: int, seed: int = 0) -> Tensor:
    """Return images under one of the common corruptions of Hendrycks & Dietterich 2019.

    They come from imagecorruptions-imaug, which has the parameters of ImageNet-C, meant for 224x224 pixels.
    On 32x32 these are harsher than CIFAR-10-C's, so accuracies on the two do not compare. The severities of
    glass_blur, frost and saturate are not ordered by how far they move the pixels.

    Args:
        images: (N, 3, H, W) in [0, 1], H and W at least 32; rounded to 8 bits first.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: together with an image's content it decides what is drawn for that image, whatever the batch;
            NumPy's global random state is left alone.

    Returns:
        Images of the same shape, type and device, in [0, 1].

    Raises:
        TypeError, ValueError: wrong images, corruption, severity or seed.
        ImportError: imagecorruptions-imaug is not installed.
    """
    check_pictures(images)
    check_choice("corruption", corruption, CORRUPTIONS)
    severity = int(check_choice("severity", severity, SEVERITIES))
    check_count("seed", seed, 0)
    corrupt, _ = _generator()
    pictures = (255 * images.detach().cpu().float()).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
    with _numpy_state_kept():
        results = [_corrupted_picture(corrupt, picture, corruption, severity, seed) for picture in pictures.numpy()]
    return (torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2).contiguous() / 255).to(images)


def _corrupted_picture(
    corrupt: Callable[..., np.ndarray], picture: np.ndarray, corruption: str, severity: int, seed: int
) -> np.ndarray:
    """Return a uint8 picture (H, W, 3) under a corruption; seeds NumPy's global state."""
    seeds = np.random.SeedSequence([zlib.crc32(picture.tobytes()), seed]).generate_state(4)
    np.random.seed(seeds)
    own_seed = {"seed": int(seeds[0])} if corruption in OWN_GENERATORS else {}
    try:
        with np.errstate(invalid="raise"):
            return corrupt(picture, severity=severity, corruption_name=corruption, **own_seed)
    except FloatingPointError:
        if corruption != "spatter":
            raise
        return picture  # no drop fell on it: the package divides 0 by 0 and would return a black picture


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


def _generator() -> tuple[Callable[..., np.ndarray], str]:
    """Return the function that corrupts a picture and the version of its package."""
    try:
        from imagecorruptions import corrupt

        # the older package imagecorruptions installs the same module, which fails with NumPy 2
        return corrupt, metadata.version(GENERATOR)
    except ImportError as error:
        raise ImportError(f"corruptions are generated by {GENERATOR} ({error}): pip install {GENERATOR}") from error


def check_pictures(images: Tensor) -> None:
    """Raise unless images are (N, 3, H, W) in [0, 1] with at least 32x32 pixels."""
    check_images(images)
    if images.shape[1] != 3 or min(images.shape[2:]) < 32:
        raise ValueError(f"images have shape {tuple(images.shape)}; (N, 3, H, W) with H and W >= 32 is needed")


Reference = CorruptionResult | pd.DataFrame | dict[str, float]
Batches = Callable[[str, int], Iterable[Tensor]]


def corruption_accuracy(
    model: nn.Module,
    x: Tensor | np.ndarray | None = None,
    y: Tensor | np.ndarray | None = None,
    *,
    data_dir: str | os.PathLike | None = None,
    n_examples: int | None = None,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int = 128,
    seed: int = 0,
    reference: Reference | None = None,
    verbose: bool = True,
) -> CorruptionResult:
    """Return a model's accuracy under common corruptions (Appendix H.2), on your images or on CIFAR-10-C's files.

    The paper's numbers are those on CIFAR-10-C's files; see `corrupted` for how generated images differ.

    Args:
        model: network that returns logits (N, K) for images in [0, 1]; evaluated on its own device
            in eval mode, and left as it was.
        x: clean images (N, 3, H, W) in [0, 1] to corrupt, H and W at least 32.
        y: their class indices (N,) or (N, 1), or one-hot (N, K).
        data_dir: folder that holds CIFAR-10-C/*.npy, instead of x and y; nothing is downloaded.
        n_examples: images per corruption and severity, the first ones; default: all.
        corruptions: some of `CORRUPTIONS`.
        severities: some of 1 to 5.
        batch_size: images per forward pass.
        seed: seed of the generated corruptions; the global random state is left alone.
        reference: what `CorruptionResult.mce` compares with: another result, its `table` of accuracies,
            or {corruption: error in (0, 1]}.
        verbose: show a progress bar.

    Raises:
        TypeError, ValueError: wrong arguments, or a file that is not CIFAR-10-C's.
        FileNotFoundError: `data_dir` lacks a file of CIFAR-10-C.
        ImportError: imagecorruptions-imaug (for x) or RobustBench (for data_dir) is not installed.
    """
    corruptions = _chosen("corruptions", corruptions, CORRUPTIONS)
    severities = _chosen("severities", severities, SEVERITIES)
    check_count("batch_size", batch_size)
    check_count("seed", seed, 0)
    reference = _reference_errors(reference, corruptions, severities)
    given = [name for name, value in (("x", x), ("y", y), ("data_dir", data_dir)) if value is not None]
    if given not in (["x", "y"], ["data_dir"]):
        raise ValueError(f"either x and y or data_dir is needed; given is {' and '.join(given) or 'none of them'}")
    if data_dir is None:
        batches, y, source = _generated(x, y, n_examples, batch_size, seed)
    else:
        batches, y, source = _from_files(Path(data_dir), corruptions, n_examples, batch_size)
    total = len(corruptions) * len(severities) * len(y)
    with eval_mode(model), torch.no_grad(), tqdm(total=total, unit="img", leave=False, disable=not verbose) as bar:
        accuracies = [
            [_accuracy(model, batches(name, severity), y, bar) for severity in severities] for name in corruptions
        ]
    index, columns = pd.Index(corruptions, name="corruption"), pd.Index(severities, name="severity")
    return CorruptionResult(pd.DataFrame(accuracies, index, columns), source, len(y), reference)


def _accuracy(model: nn.Module, batches: Iterable[Tensor], y: Tensor, bar: tqdm) -> float:
    """Return the share of images, given in batches, that the model assigns to their class."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    done = correct = 0
    for images in batches:
        logits = logits_of(model, images.to(device))
        check_class_range(y, logits.shape[1])
        correct += int((logits.argmax(1).cpu() == y[done : done + len(images)]).sum())
        done += len(images)
        bar.update(len(images))
    return correct / len(y)


def _generated(
    x: Tensor | np.ndarray, y: Tensor | np.ndarray, n_examples: int | None, batch_size: int, seed: int
) -> tuple[Batches, Tensor, str]:
    """Return corrupted batches of clean images, labels (N,) and a description."""
    x = torch.as_tensor(x)
    check_pictures(x)
    y = class_indices(y, len(x)).cpu()
    n = _how_many(n_examples, len(x))
    _, version = _generator()

    def batches(corruption: str, severity: int) -> Iterator[Tensor]:
        return (corrupted(images, corruption, severity, seed) for images in x[:n].split(batch_size))

    return batches, y[:n], f"generated by {GENERATOR} {version} with ImageNet-C's parameters"


def _from_files(
    data_dir: Path, corruptions: list[str], n_examples: int | None, batch_size: int
) -> tuple[Batches, Tensor, str]:
    """Return batches of CIFAR-10-C by RobustBench's loader, labels (N,) and a description."""
    n = _how_many(n_examples, PER_SEVERITY)
    labels = _array(data_dir, "labels", (5 * PER_SEVERITY,), np.integer)
    for corruption in corruptions:  # before the loader sees them: it would download what it does not find
        _array(data_dir, corruption, (5 * PER_SEVERITY, 32, 32, 3), np.uint8)
    try:
        from ..adapters.robustbench import robustbench
    except ImportError as error:
        raise ImportError(f"data_dir is read by RobustBench ({error}): pip install part_plugin[robustbench]") from error

    def batches(corruption: str, severity: int) -> Iterable[Tensor]:
        images, _ = robustbench.data.load_cifar10c(n, severity, data_dir, shuffle=False, corruptions=[corruption])
        return images.split(batch_size)

    return batches, torch.as_tensor(labels[:n].astype(np.int64)), f"{CIFAR_10_C} files"


def _array(data_dir: Path, name: str, shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Return an array of CIFAR-10-C, left on disk."""
    file = data_dir / CIFAR_10_C / f"{name}.npy"
    if not file.is_file():
        raise FileNotFoundError(
            f"data_dir={os.fspath(data_dir)!r} holds no {CIFAR_10_C}/{file.name}; "
            "unpack CIFAR-10-C.tar of https://zenodo.org/records/2535967 in it"
        )
    try:
        array = np.load(file, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{os.fspath(file)!r} is damaged or no array; unpack {CIFAR_10_C}.tar again") from error
    if not isinstance(array, np.ndarray) or array.shape != shape or not np.issubdtype(array.dtype, kind):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{os.fspath(file)!r} holds {found}; {CIFAR_10_C} has {kind.__name__} {shape} there")
    return array


def _how_many(n_examples: int | None, available: int) -> int:
    if n_examples is None:
        return available
    if check_count("n_examples", n_examples) > available:
        raise ValueError(f"n_examples={n_examples} is not allowed; there are {available} images")
    return n_examples


def _chosen(name: str, values: Sequence[Any], choices: Sequence[Any]) -> list[Any]:
    """Return values without repetition, each one of `choices`."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}={values!r} is a {type(values).__name__}; a list is needed")
    values = list(values)
    allowed = f"choose from {', '.join(map(repr, choices))}"
    if not values:
        raise ValueError(f"{name} is empty; {allowed}")
    for value in values:
        if value not in choices:
            raise ValueError(f"{name} holds {value!r}; {allowed}")
    return [choices[choices.index(value)] for value in dict.fromkeys(values)]


def _reference_errors(
    reference: Reference | None, corruptions: list[str], severities: list[int]
) -> dict[str, float] | None:
    """Return the reference's error per corruption, averaged over severities."""
    if reference is None:
        return None
    if isinstance(reference, CorruptionResult):
        reference = reference.table
    if isinstance(reference, pd.DataFrame):
        missing = [severity for severity in severities if severity not in reference.columns]
        if missing:
            raise ValueError(f"reference has no severity {missing[0]}; it needs every severity that is evaluated")
        reference = (1 - reference[severities].mean(axis=1)).to_dict()
    if not isinstance(reference, dict):
        raise TypeError(f"reference is a {type(reference).__name__}; a result, its table or a dictionary is needed")
    errors = {}
    for name in corruptions:
        if name not in reference:
            raise ValueError(f"reference has no {name!r}; it needs every corruption that is evaluated")
        errors[name] = check_number(f"reference[{name!r}]", reference[name], above=True)
        if errors[name] > 1:
            raise ValueError(f"reference[{name!r}]={errors[name]:g} is not allowed; an error rate is at most 1")
    return errors
