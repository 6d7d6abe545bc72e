"""Cells are run once, whichever script asks for them, and found again."""

import argparse
import dataclasses
import json
from pathlib import Path

import ablation
import cells
import harness
import reproduce

from part_plugin.recipes.presets import preset

RESULTS = Path(cells.__file__).parents[1] / "results"
TINY = cells.Scale(
    {"digits": preset("digits", epochs=2, burn_in=1, steps=2, milestones=[1])},
    samples=64,
    test=40,
    validation=20,
    eps=0.2,
    attacks=("natural", "pgd20"),
    thorough=("natural", "pgd20"),
    seeds=(0,),
)


def options(tmp_path, **changes):
    made = harness.parser("").parse_args(["--out", str(tmp_path)])
    return argparse.Namespace(**(vars(made) | {"threads": 1, "commit": "none"} | changes))


def test_a_cell_is_run_once(tmp_path, capsys):
    grid = cells.over_seeds(TINY, [cells.cell(TINY, "digits", "AT"), cells.cell(TINY, "digits", "PART")])
    harness.run_grid([*grid, grid[0]], options(tmp_path))
    assert "2 cells, 2 left" in capsys.readouterr().out
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 2
    record = harness.read(tmp_path)[grid[0].id]
    assert record["method"] == "AT"
    assert record["settings"]["eps_low"] == record["settings"]["eps"] == 0.2
    assert set(record["accuracy"]) == {"natural", "pgd20"}
    assert record["test"] == 40
    assert {"natural", "pgd10"} <= set(record["epochs"][-1])
    assert all((20 * epoch[name]).is_integer() for epoch in record["epochs"] for name in ("natural", "pgd10"))
    harness.run_grid(grid, options(tmp_path))
    assert "2 cells, 0 left" in capsys.readouterr().out
    more = [dataclasses.replace(grid[0], attacks=(*grid[0].attacks, "mma"))]
    trained = (tmp_path / "cells" / f"{grid[0].id}.pt").read_bytes()
    harness.run(more[0], options(tmp_path))
    assert (tmp_path / "cells" / f"{grid[0].id}.pt").read_bytes() == trained
    assert "mma" in harness.read(tmp_path)[grid[0].id]["accuracy"]
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


def test_results_that_were_collected_are_still_found():
    """The id of a cell is made of values, so that neither names nor defaults of this code may change it."""
    assert cells.cell(reproduce.SCALES["cpu"], "cifar10", "PART").id == "91a5f533e7aa"
    assert cells.cell(TINY, "digits", "TRADES", "mean", seed=3, alpha=0.1).id == "7bb136bdc18a"
    scale = dataclasses.replace(reproduce.SCALES["cpu"], seeds=(0, 1, 2))
    grid = reproduce.grid(scale, ["cifar10"], list(reproduce.TABLES)) + ablation.grid(scale)
    found = {json.loads(line)["id"] for line in (RESULTS / "cpu.jsonl").read_text().splitlines()}
    assert len(found) == 20
    assert found <= {one.id for one in grid}
