"""Tables and figures of what was run."""

import argparse
import dataclasses
import re
import shutil

import ablation
import cells
import figures
import pytest
import report
import reproduce

MARKS = re.compile(r"<!-- begin (\S+) (\S+) -->\n(.*?)\n<!-- end \1 \2 -->", re.DOTALL)


def a_grid():
    """AT and PART with two seeds, and what they might have found."""
    scale = dataclasses.replace(reproduce.SCALES["cpu"], seeds=(0, 1))
    grid = cells.over_seeds(scale, [cells.cell(scale, "cifar10", method) for method in ("AT", "PART")])
    epochs = [{"epoch": epoch, "natural": 0.1 * epoch, "pgd10": 0.05 * epoch} for epoch in (1, 2)]
    found = ((0.80, 0.40), (0.82, 0.41), (0.81, 0.42), (0.84, 0.40))  # AT and PART of seed 0, then of seed 1
    records = {
        one.id: {"accuracy": {"natural": natural, "pgd20": pgd}, "epochs": epochs}
        for one, (natural, pgd) in zip(grid, found, strict=True)
    }
    return grid, records


def test_tables_by_hand():
    grid, records = a_grid()
    frame = report.rows([*grid, grid[0]], records)
    assert list(frame["row"]) == ["AT", "PART"] * 2
    table = report.accuracy_table(frame).splitlines()
    assert table[0] == "| method | seeds | natural | PGD-20 | the paper's |"
    assert table[2] == "| AT | 2 | 80.50 ± 0.71 | 41.00 ± 1.41 | 82.58 / 43.69 |"
    assert table[3] == "| PART | 2 | 83.00 ± 1.41 | 40.50 ± 0.71 | 83.42 / 43.65 |"
    assert "| PART - AT, here | +2.50 | -0.50 |" in report.gains(frame)
    assert "| PART - AT, paper | +0.84 | -0.04 |" in report.gains(frame)
    assert "paper" not in report.accuracy_table(frame, {}) + report.gains(frame, {})
    assert report.rows(grid[:1], records).shape == (1, 5)
    assert report.rows(grid, {}).empty


def test_figures_show_what_the_tables_do():
    grid, records = a_grid()
    frame = report.rows(grid, records)
    ax = figures.draw_tradeoff(frame, 40).axes[0]
    assert ax.get_legend_handles_labels()[1] == ["AT", "PART"]
    natural, robust = figures.draw_epochs(grid, records).axes
    assert len(natural.lines) == 2
    assert list(natural.lines[0].get_xdata()) == [1, 2]
    assert list(natural.lines[0].get_ydata()) == pytest.approx([10, 20])
    assert list(robust.lines[1].get_ydata()) == pytest.approx([5, 10])
    assert robust.get_ylabel() == "PGD-10 accuracy (%), 250 images"
    bars = figures.draw_bars(frame, 1000).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["PART", "AT"]
    assert list(bars.lines[0].get_xdata()) == pytest.approx([83, 80.5])
    low, high = bars.collections[0].get_segments()[1][:, 0]
    assert (low + high) / 2 == pytest.approx(80.5)
    assert (high - low) / 2 == pytest.approx(1.96 * (80.5 * 19.5 / 1000) ** 0.5)


@pytest.mark.parametrize("name", list(reproduce.SCALES))
def test_no_two_trainings_share_a_row(name):
    scale = reproduce.SCALES[name]
    dataset = next(iter(scale.settings))
    made = [one for make in reproduce.TABLES.values() for one in make(scale, dataset)] + ablation.grid(scale)
    named = {
        dataclasses.replace(one, settings=dataclasses.replace(one.settings, seed=0)).id: report.label(one)
        for one in made
    }
    assert len(set(named.values())) == len(named)
    assert {*cells.METHODS, "PART, s = 10", "PART, xgradcam", "PART, 20 steps", "AT, MMA"} <= set(named.values())


def test_rows_say_what_is_not_the_scales_own():
    def named(scale, table):
        scale = reproduce.SCALES[scale]
        return [report.label(one) for one in reproduce.TABLES[table](scale, next(iter(scale.settings)))]

    assert "PART, eps 12/255, eps_low 10/255" in named("cpu", "radii")
    assert "AT, eps 12/255" in named("cpu", "radii")
    assert "PART, top-left lowered, eps 12/255, eps_low 6/255" in named("cpu", "quadrants")
    assert set(report.PAPER) <= {label for table in reproduce.TABLES for label in named("paper", table)}
    assert named("tuned", "few_steps") == ["AT", "AT, alpha 3/255, 5 steps"]
    assert named("cpu", "few_steps") == ["AT, alpha 4/255, 2 steps", "AT"]
    assert named("digits", "few_steps") == ["AT, alpha 0.1, 2 steps", "AT, alpha 0.075, 5 steps"]
    assert named("tuned", "frontier") == [
        "AT, eps 6/255",
        "AT, eps 7/255",
        "PART, eps 8/255, eps_low 5/255",
        "PART, mean",
    ]


def test_every_setting_alone_changes_the_row():
    scale = reproduce.SCALES["paper"]
    changes = {
        "alpha": 1 / 255, "eps": 6 / 255, "steps": 20, "cam": "layercam", "attack": "mma", "mask_every": 10,
        "burn_in": 5, "epochs": 90, "lr": 0.1, "beta": 5.0, "batch_size": 64, "fast": ("fold",),
        "arguments": {"width": 8},
    }  # fmt: skip
    for method in ("AT", "PART"):
        labels = {
            report.label(cells.cell(scale, "cifar10", method, **{name: value})) for name, value in changes.items()
        }
        assert len(labels | {method}) == len(changes) + 1
    same = cells.cell(scale, "cifar10", "PART", "mean", eps_low=scale.eps)
    assert report.label(same) == "PART, mean, eps 8/255, eps_low 8/255"


@pytest.mark.parametrize(("scale", "budgets"), [("cpu", "aligned mean random"), ("digits", "")])
def test_the_tables_in_the_page_are_those_of_the_lines_kept_beside_it(tmp_path, scale, budgets):
    shutil.copy(report.FOLDER / "results" / f"{scale}.jsonl", tmp_path / "results.jsonl")
    text = (report.FOLDER / "RESULTS.md").read_text(encoding="utf-8")
    shown = {table: content.rsplit("\n\n", 1)[0] for of, table, content in MARKS.findall(text) if of == scale}
    assert {"ablation"} < set(shown)
    for table, content in shown.items():
        seeds = [] if (scale, table) == ("digits", "ablation") else [0, 1, 2]
        options = argparse.Namespace(
            scale=scale, out=str(tmp_path), tables=[table], seeds=seeds, samples=None, width=None,
            budgets=tuple(budgets.split()) or ablation.COMPARED,
        )  # fmt: skip
        found, _ = report.tables_and_figures(reproduce.adapted(reproduce.SCALES[scale], options), options)
        made, said = found[table].rsplit("\n\n", 1)
        assert made == content, table
        assert said.startswith(
            f"`python benchmarks/tables/{'ablation' if table == 'ablation' else 'reproduce'}.py {scale}"
        )


def test_the_report_fills_its_marks():
    text = "a\n<!-- begin x -->\nold\n<!-- end x -->\n<!-- begin y -->\n<!-- end y -->\n"
    filled = report.fill(report.fill(text, "x", "| new |"), "y", "| other |")
    assert filled == "a\n<!-- begin x -->\n| new |\n<!-- end x -->\n<!-- begin y -->\n| other |\n<!-- end y -->\n"
    assert report.fill(filled, "x", "| new |") == filled
