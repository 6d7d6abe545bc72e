"""Figures: what a model looks at and how far its pixels may move for it; accuracy against robustness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .cam import class_activation_map
from .checks import check_images, class_indices
from .part import PART
from .pixel_budget import PixelBudget

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from .evaluation import Evaluation


def plot_budgets(models: dict[str, nn.Module], images: Tensor, labels: Tensor, budget: PixelBudget) -> Figure:
    """Return a figure with image, map, budget and Pixel-AG perturbation, for each model side by side.

    Args:
        models: networks on images in [0, 1], by the name to print.
        images: (N, C, H, W) in [0, 1], one row each; C is 1 or 3.
        labels: (N,).
        budget: the budget whose maps are shown.

    Raises:
        TypeError: images that are no floating-point tensor.
        ValueError: no model, images that are no pictures in [0, 1], labels of another shape.
    """
    if not models:
        raise ValueError("models is empty; at least one is needed")
    check_images(images)
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images have {images.shape[1]} channels; 1 or 3 can be drawn")
    labels = class_indices(labels, len(images))
    from matplotlib.figure import Figure  # without pyplot, which would keep the figure and ask for a display

    columns = 1 + 3 * len(models)
    figure = Figure(figsize=(1.2 * columns, 1.2 * len(images) + 1.4), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    _column(axes[:, 0], "image", _pictures(images), vmin=0, vmax=1, cmap="gray")
    for number, (name, model) in enumerate(models.items()):
        maps = class_activation_map(model, images, None, budget.cam, budget.target_layers, budget.reshape_transform)
        radii = budget(model, images, labels)
        part = PART(budget=budget, alpha=budget.eps / 4, burn_in=0, seed=0)
        moved = (part.perturb(model, images, labels) - images).mean(1)
        at = axes[:, 1 + 3 * number : 4 + 3 * number].T
        _column(at[0], f"{_plain(name)}:\nmap", maps[:, 0], vmin=0, vmax=1, cmap="inferno")
        far = _column(at[1], f"{_plain(name)}:\nbudget", radii[:, 0], vmin=0, vmax=budget.eps, cmap="viridis")
        change = _column(
            at[2], f"{_plain(name)}:\nperturbation", moved, vmin=-budget.eps, vmax=budget.eps, cmap="coolwarm"
        )
    for shown, label in ((change, "perturbation (mean over channels)"), (far, "budget: largest |perturbation|")):
        figure.colorbar(shown, ax=axes, location="bottom", shrink=0.6, aspect=50, label=label)
    return figure


def plot_tradeoff(evaluations: Sequence[Evaluation], attack: str = "worst case") -> Figure:
    """Return a figure of natural against robust accuracy, a point with its 95 % intervals for each evaluation.

    Args:
        evaluations: results that hold "natural" and `attack`.
        attack: which robust accuracy to show.

    Raises:
        ValueError: there is no evaluation.
        KeyError: one lacks the attack.
    """
    if not evaluations:
        raise ValueError("evaluations is empty; at least one is needed")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    ax = figure.subplots()
    for evaluation in evaluations:
        x, y = evaluation["natural"], evaluation[attack]
        errors = [
            [[100 * (one.accuracy - one.interval[0])], [100 * (one.interval[1] - one.accuracy)]] for one in (x, y)
        ]
        ax.errorbar(
            100 * x.accuracy, 100 * y.accuracy, errors[1], errors[0], fmt="o", capsize=3, label=_plain(evaluation.model)
        )
    names = sorted({evaluation[attack].settings for evaluation in evaluations}) if attack == "worst case" else []
    ax.set_xlabel("natural accuracy (%)")
    ax.set_ylabel(f"robust accuracy (%), {_plain(attack)}" + (f" of\n{_plain(names[0])}" if len(names) == 1 else ""))
    ax.set_title("upper right is better; bars are 95 % intervals", fontsize=9)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def plot_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Return a figure of a training: its loss, and accuracies, over its epochs.

    Args:
        history: a record of each epoch, "epoch", "loss", "adv_accuracy" and, of samples held out, "val_natural" and
            "val_pgd10".
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(0.06, 0.14, 0.98, 0.91, 0.14)  # a layout that is computed would take as long as to draw
    epochs = [record["epoch"] for record in history]
    left.plot(epochs, [record["loss"] for record in history], ".-", color="black")
    left.set(title="loss", xlabel="epoch")
    names = {
        "adv_accuracy": "adversarial, training",
        "val_natural": "natural, held out",
        "val_pgd10": "PGD-10, held out",
    }
    for name, label in names.items():
        if name in history[0]:
            right.plot(epochs, [100 * record[name] for record in history], ".-", label=label)
    right.set(title="accuracy in %", xlabel="epoch", ylim=(0, 100))
    right.legend()
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    return figure


def _plain(text: str) -> str:
    """Return a text that matplotlib prints as `text`, and takes for no formula."""
    return text.replace("$", r"\$")


def _pictures(images: Tensor) -> Tensor:
    return images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)


def _column(axes: NDArray[Any], title: str, pictures: Tensor, **options: Any) -> AxesImage:
    """Draw a picture into each of `axes`, the title above the first, and return the last."""
    axes[0].set_title(title, fontsize=9)
    for ax, picture in zip(axes, pictures.detach().cpu().to(torch.float32), strict=True):
        shown: AxesImage = ax.imshow(picture.numpy(), **options)
        ax.set_axis_off()
    return shown
