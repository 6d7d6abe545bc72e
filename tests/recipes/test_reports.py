"""A table and a figure of several results, as files."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from part_plugin.evaluation import Evaluation
from part_plugin.evaluation.results import AttackResult
from part_plugin.recipes.reports import write_comparison, write_figure


def evaluation(name, **correct):
    results = [
        AttackResult(attack, np.arange(8) < right, 1.0, 0.0 if attack == "natural" else 0.1, 0.1)
        for attack, right in correct.items()
    ]
    return Evaluation(name, 0.1, 0, results, np.zeros(8, int))


RESULTS = [evaluation("at", natural=7, pgd20=3), evaluation("part.v2", natural=8, pgd20=2)]


def test_a_comparison_is_a_table_in_three_forms(tmp_path):
    """A dot in the name is no ending to be cut off."""
    table = write_comparison(RESULTS, tmp_path / "new" / "eps0.1", "pgd20")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["eps0.1.csv", "eps0.1.md", "eps0.1.png"]
    assert table.to_dict("index") == {
        "at": {"natural": 87.5, "pgd20": 37.5, "worst case": 37.5},
        "part.v2": {"natural": 100.0, "pgd20": 25.0, "worst case": 25.0},
    }
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "eps0.1.csv", index_col="model"), table)
    assert (tmp_path / "new" / "eps0.1.md").read_text() == (
        "Accuracy in %.\n\n"
        "| model | natural | pgd20 | worst case |\n"
        "|---|---|---|---|\n"
        "| at | 87.50 | 37.50 | 37.50 |\n"
        "| part.v2 | 100.00 | 25.00 | 25.00 |\n"
    )
    with Image.open(tmp_path / "new" / "eps0.1.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == (900, 675)


def test_values_are_rounded_to_hundredths(tmp_path):
    third = Evaluation("a", 0.1, 0, [AttackResult("natural", np.arange(3) < 1, 1.0)], np.zeros(3, int))
    assert write_comparison([third], tmp_path / "c", "natural").loc["a", "natural"] == 33.33
    assert "| a | 33.33 | 33.33 |\n" in (tmp_path / "c.md").read_text()


def test_an_attack_that_was_not_evaluated_writes_nothing(tmp_path):
    with pytest.raises(KeyError, match="'mma' was not evaluated; there are"):
        write_comparison(RESULTS, tmp_path / "c", "mma")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a", b"\x89PNG")])
def test_the_ending_says_the_format_of_a_figure(tmp_path, name, start):
    write_figure(tmp_path / name, Figure())
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_an_ending_that_matplotlib_does_not_know(tmp_path):
    with pytest.raises(ValueError, match=r"^Format 'txt' is not supported \(supported formats: [^\n]+\)$"):
        write_figure(tmp_path / "a.txt", Figure())
    assert list(tmp_path.iterdir()) == []
