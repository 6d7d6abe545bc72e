"""What is drawn, number by number: the data of the artists, not their pixels."""

import re

import numpy as np
import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot

from part_plugin import PART, PixelBudget, class_activation_map
from part_plugin.evaluation import AttackResult, Evaluation
from part_plugin.plots import plot_budgets, plot_tradeoff

BUDGET = PixelBudget(0.1, 0.05)


def drawn(ax):
    """The picture in an axes and the range of its colours."""
    (picture,) = ax.images
    return np.asarray(picture.get_array()), picture.get_clim(), picture.get_cmap().name


def test_image_map_budget_and_perturbation_of_every_model(robust_net, digits_net, batch):
    images, labels = batch[0][:3], batch[1][:3]
    models = {"robust": robust_net, "plain": digits_net}
    before = [snapshot(model) for model in models.values()]
    figure = plot_budgets(models, images, labels, BUDGET)
    for model, state in zip(models.values(), before, strict=True):
        assert_untouched(model, state)
    axes = np.array(figure.axes[:21]).reshape(3, 7)
    titles = ["image"] + [f"{name}:\n{what}" for name in models for what in ("map", "budget", "perturbation")]
    assert [ax.get_title() for ax in axes[0]] == titles
    assert not any(ax.get_title() for ax in axes[1:].flatten())
    for row, ax in enumerate(axes[:, 0]):
        picture, limits, colours = drawn(ax)
        assert np.allclose(picture, images[row, 0])
        assert (limits, colours) == ((0, 1), "gray")
    for number, model in enumerate(models.values()):
        maps = class_activation_map(model, images)[:, 0]
        radii = BUDGET(model, images, labels)[:, 0]
        part = PART(budget=BUDGET, alpha=BUDGET.eps / 4, burn_in=0, seed=0)
        moves = (part.perturb(model, images, labels) - images).mean(1)
        assert len(radii.unique()) == 2
        for row in range(3):
            of_map, of_budget, of_move = (drawn(ax) for ax in axes[row, 1 + 3 * number : 4 + 3 * number])
            assert np.allclose(of_map[0], maps[row])
            assert of_map[1:] == ((0, 1), "inferno")
            assert np.allclose(of_budget[0], radii[row])
            assert of_budget[1:] == ((0, 0.1), "viridis")
            assert np.allclose(of_move[0], moves[row])
            assert of_move[1:] == ((-0.1, 0.1), "coolwarm")
    bars = [ax.get_xlabel() for ax in figure.axes[21:]]
    assert bars == ["perturbation (mean over channels)", "budget: largest |perturbation|"]
    assert not any(ax.axison for ax in axes.flatten())


def test_pictures_in_colour(photos):
    torch.manual_seed(0)
    net = SmallNet(3).eval()
    images = photos[:2]
    figure = plot_budgets({"net": net}, images, torch.tensor([1, 2]), BUDGET)
    assert np.allclose(drawn(figure.axes[0])[0], images[0].permute(1, 2, 0))
    assert np.allclose(drawn(figure.axes[4])[0], images[1].permute(1, 2, 0))
    moves = drawn(figure.axes[3])[0]
    assert moves.shape == (32, 32)
    assert 0 < np.abs(moves).max() <= 0.1 + 1e-6


def test_it_can_be_written(robust_net, batch, tmp_path):
    plot_budgets({"net": robust_net}, batch[0][:2], batch[1][:2], BUDGET).savefig(tmp_path / "budgets.png", dpi=50)
    assert (tmp_path / "budgets.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": {}}, ValueError, "models is empty; at least one is needed"),
        ({"images": torch.zeros(2, 2, 8, 8)}, ValueError, "images have 2 channels; 1 or 3 can be drawn"),
        ({"images": torch.full((2, 1, 8, 8), 2.0)}, ValueError, "images span [2, 2]; allowed is [0, 1]"),
        ({"labels": torch.zeros(3)}, ValueError, "labels have shape (3,); expected (2,), (2, 1) or (2, K)"),
    ],
)
def test_wrong_arguments(robust_net, change, error, message):
    options = {"models": {"net": robust_net}, "images": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2)} | change
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        plot_budgets(**options, budget=BUDGET)


def evaluation(name, natural, robust, settings="all of them"):
    def row(attack, right):
        return AttackResult(attack, np.arange(20) < right, 1.0, 0.1 * (attack != "natural"), 0.1, settings)

    results = [row("natural", natural), row("pgd20", robust)]
    return Evaluation(name, 0.1, 0, results, np.zeros(20, int))


@pytest.mark.parametrize("attack", ["worst case", "pgd20"])
def test_natural_against_robust_accuracy(attack):
    evaluations = [evaluation("AT", 18, 9), evaluation("PART", 19, 10)]
    figure = plot_tradeoff(evaluations, attack)
    (ax,) = figure.axes
    for container, result in zip(ax.containers, evaluations, strict=True):
        point, _, (across, up) = container.lines
        x, y = result["natural"], result[attack]
        assert np.allclose(point.get_xydata(), [[100 * x.accuracy, 100 * y.accuracy]])
        ends = [[100 * bound for bound in one.interval] for one in (x, y)]
        assert np.allclose(across.get_segments()[0][:, 0], ends[0])
        assert np.allclose(across.get_segments()[0][:, 1], 100 * y.accuracy)
        assert np.allclose(up.get_segments()[0][:, 1], ends[1])
        assert np.allclose(up.get_segments()[0][:, 0], 100 * x.accuracy)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["AT", "PART"]
    assert ax.get_xlabel() == "natural accuracy (%)"
    of = " of\nnatural, pgd20" if attack == "worst case" else ""
    assert ax.get_ylabel() == f"robust accuracy (%), {attack}{of}"
    assert ax.get_title() == "upper right is better; bars are 95 % intervals"


def test_worst_cases_of_different_attacks_are_not_named():
    other = evaluation("PART", 19, 10)
    other.results[1].name = "mma"
    ax = plot_tradeoff([evaluation("AT", 18, 9), other]).axes[0]
    assert ax.get_ylabel() == "robust accuracy (%), worst case"


def test_names_are_no_formulas():
    figure = plot_tradeoff([evaluation("$\\frac{", 18, 9), evaluation("$a_b$", 19, 10)])
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["\\$\\frac{", "\\$a_b\\$"]


def test_an_attack_that_is_missing():
    with pytest.raises(KeyError, match="'mma' was not evaluated; there are"):
        plot_tradeoff([evaluation("AT", 18, 9)], "mma")
    with pytest.raises(ValueError, match="^evaluations is empty; at least one is needed$"):
        plot_tradeoff([])
