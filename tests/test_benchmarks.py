"""The harness of the tables: budgets to compare with, cells that are run once, paired differences."""

import argparse
import dataclasses
import json
import re

import ablation
import harness
import numpy as np
import pandas as pd
import pytest
import report
import reproduce
import step
import torch
from budgets import BUDGETS, make_budget
from matplotlib import colormaps

from part_plugin import PixelBudget, class_activation_map
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

SETTINGS = preset("digits", epochs=2, burn_in=1, steps=2, milestones=[1])
TINY = harness.Scale(
    {"digits": SETTINGS},
    samples=64,
    test=40,
    watched=20,
    eps=0.2,
    attacks=("natural", "pgd20"),
    thorough=("natural", "pgd20"),
    seeds=(0, 1),
)


@pytest.fixture(scope="module")
def masks(cifar_net, photos):
    return PixelBudget(0.2, 0.1).weights(cifar_net, photos)[0]


def radii(name, net, images):
    settings = dataclasses.replace(SETTINGS, eps=0.2, eps_low=0.1)
    return make_budget(name, settings, images.shape[2:])(net, images)


def test_every_budget_has_the_radii_it_says(cifar_net, photos, masks):
    aligned = torch.where(masks, 0.2, 0.1)
    mean = radii("mean", cifar_net, photos)
    assert torch.allclose(mean.mean((1, 2, 3)), aligned.mean((1, 2, 3)))
    assert torch.equal(mean.amax((1, 2, 3)), mean.amin((1, 2, 3)))
    assert torch.allclose(radii("inverted", cifar_net, photos), 0.3 - aligned)
    assert torch.equal(radii("misaligned", cifar_net, photos)[1:], aligned[:-1])
    assert torch.equal(radii("misaligned", cifar_net, photos)[0], aligned[-1])
    random = radii("random", cifar_net, photos)
    assert torch.equal((random > 0.15).sum((1, 2, 3)), masks.sum((1, 2, 3)))
    assert not torch.equal(random, aligned)
    lowered = radii("top-right lowered", cifar_net, photos)
    assert torch.allclose(lowered[:, :, :16, 16:], torch.tensor(0.1))
    assert lowered.sum() == pytest.approx(8 * 1024 * (0.25 * 0.1 + 0.75 * 0.2), rel=1e-5)


def test_the_published_rule_pixel_by_pixel(cifar_net, photos):
    """One image at a time through matplotlib's colour map, standardised over pixels and colours at once."""
    maps = class_activation_map(cifar_net, photos)
    found = radii("published", cifar_net, photos)
    for image, radius in zip(maps[:, 0].double().numpy(), found, strict=True):
        picture = colormaps["jet"](image**2)[:, :, :3]
        weights = (picture - picture.mean()) / picture.std()
        clear = np.abs(weights - 1) > 1e-4
        assert np.array_equal((weights > 1)[clear], (radius.permute(1, 2, 0) > 0.15).numpy()[clear])
    assert torch.equal(radii("published misaligned", cifar_net, photos), found.roll(1, 0))


def test_budgets_leave_their_name_in_the_checkpoint_and_train(tmp_path):
    """Another budget under the same settings gives other weights, and cannot be resumed as if it were the same."""
    x, y = harness._tensors("digits", "", "train", 64)
    samples = list(zip(x, y.tolist(), strict=True))
    last = {}
    for name in BUDGETS:
        budget = make_budget(name, SETTINGS, (8, 8))
        path = tmp_path / f"{name}.pt"
        model = train(SETTINGS, samples, path, verbose=False, budget=budget, watch=lambda m: {"mode": m.training})
        lines = (tmp_path / f"{name}.pt.jsonl").read_text().splitlines()
        assert [json.loads(line)["mode"] for line in lines] == [False, False]
        last[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
    names = list(last)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(last[one], last[other]), (one, other)


def options(tmp_path, **changes):
    made = harness.parser("").parse_args(["--out", str(tmp_path)])
    return argparse.Namespace(**(vars(made) | {"threads": 1, "commit": "none"} | changes))


def test_a_cell_is_run_once(tmp_path, capsys):
    cells = harness.over_seeds(TINY, [harness.cell(TINY, "digits", "AT"), harness.cell(TINY, "digits", "PART")])
    harness.run_grid([*cells, cells[0]], options(tmp_path))
    assert "4 cells, 4 left" in capsys.readouterr().out
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 4
    record = harness.read(tmp_path)[cells[0].id]
    assert record["method"] == "AT"
    assert record["settings"]["eps_low"] == record["settings"]["eps"] == 0.2
    assert set(record["accuracy"]) == {"natural", "pgd20"}
    assert record["test"] == 40
    assert {"natural", "pgd10"} <= set(record["epochs"][-1])
    frame = report.rows(cells, harness.read(tmp_path), TINY)
    assert list(frame["row"]) == ["AT", "PART"] * 2
    table = report.accuracy_table(frame).splitlines()
    assert table[0] == "| method | seeds | natural | PGD-20 | the paper's |"
    assert re.fullmatch(r"\| AT \| 2 \| [\d.]+ ± [\d.]+ \| [\d.]+ ± [\d.]+ \| 82.58 / 43.69 \|", table[2])
    assert "| PART - AT, paper | +0.84 | -0.04 |" in report.gains(frame)
    points = report.draw_tradeoff(frame, 40).axes[0].get_legend_handles_labels()[1]
    assert points == ["AT", "PART"]
    assert len(report.draw_epochs(cells, harness.read(tmp_path)).axes[0].lines) == 2
    harness.run_grid(cells, options(tmp_path))
    assert "4 cells, 0 left" in capsys.readouterr().out
    more = [dataclasses.replace(cells[0], attacks=(*cells[0].attacks, "mma"))]
    trained = (tmp_path / "cells" / f"{cells[0].id}.pt").read_bytes()
    harness.run(more[0], options(tmp_path))
    assert (tmp_path / "cells" / f"{cells[0].id}.pt").read_bytes() == trained
    assert "mma" in harness.read(tmp_path)[cells[0].id]["accuracy"]
    assert harness.missing(more, tmp_path) == []


def test_scripts_share_their_cells():
    """AT and PART of a scale are the same cells in both grids; no two different trainings have one name."""
    for name, scale in reproduce.SCALES.items():
        ids = {one.id for one in reproduce.grid(scale, list(scale.settings)[:1], reproduce.CHOSEN[name])}
        shared = [one for one in ablation.grid(scale) if one.budget == "aligned"]
        assert {one.id for one in shared} <= ids
        everything = reproduce.grid(scale, list(scale.settings)[:1], list(reproduce.TABLES)) + ablation.grid(scale)
        seen = {}
        for one in everything:
            assert seen.setdefault(one.id, (one.settings, one.budget)) == (one.settings, one.budget)


def test_paired_differences_by_hand():
    rng = np.random.default_rng(0)
    rows = [
        {"seed": seed, "budget": budget, "natural": 50 + 5 * seed + rng.normal(), "pgd20": 30.0}
        for seed in range(4)
        for budget in ("AT", *ablation.COMPARED)
    ]
    frame = pd.DataFrame(rows)
    found = ablation.differences(frame, "AT").loc["mean"]
    by = frame.set_index(["seed", "budget"])["natural"].unstack()
    each = by["mean"] - by["AT"]
    half = 3.182446 * each.std(ddof=1) / 2  # the 97.5 % point of t with 3 degrees of freedom
    assert found["natural"] == pytest.approx(each.mean())
    assert found["natural low"] == pytest.approx(each.mean() - half, rel=1e-5)
    assert found["natural high"] == pytest.approx(each.mean() + half, rel=1e-5)
    assert "| mean |" in ablation.markdown(frame)


def test_rows_say_what_is_not_the_scales_own():
    scale = reproduce.SCALES["cpu"]
    cells = [one for make in reproduce.TABLES.values() for one in make(scale, "cifar10")]
    named = {one.id: report.label(one, scale) for one in cells}
    assert len(set(named.values())) == len(named)
    assert {*harness.METHODS, "PART, s = 10", "PART, xgradcam", "PART, 20 steps", "AT, MMA"} <= set(named.values())
    assert "PART, eps 12/255, eps_low 10/255" in named.values()
    assert "PART, top-left lowered, eps 12/255, eps_low 6/255" in named.values()


def test_the_report_fills_its_marks():
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\n<!-- begin y -->\n<!-- end y -->\n"
    filled = report.fill(report.fill(text, "x", "| new |"), "y", "| other |")
    assert filled == "a\n<!-- begin x -->\n| new |\n<!-- end x -->\n<!-- begin y -->\n| other |\n<!-- end y -->\n"
    assert report.fill(filled, "x", "| new |") == filled


def test_steps_are_timed_side_by_side(tmp_path, monkeypatch, capsys):
    """Two variants, two turns each: every ratio of theirs with its floor, and memory."""
    path = tmp_path / "step.json"
    options = "--width 4 --batch-size 8 --threads 1 --repeats 2 --only AT PART --json"
    monkeypatch.setattr("sys.argv", ["step.py", *options.split(), str(path)])
    step.main()
    found = json.loads(path.read_text())
    ours, theirs = (found["seconds"][name] for name in ("PART", "AT"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    assert set(found["ratios"]) == set(found["memory"]) == {"PART/AT"}
    assert found["ratios"]["PART/AT"]["median"] == pytest.approx(sum(ratios) / 2)
    assert found["ratios"]["PART/AT"]["floor"] == pytest.approx(24 / 23)
    assert 50 < found["memory_mb"]["PART"] < 10_000
    assert "| PART/AT |" in capsys.readouterr().out
