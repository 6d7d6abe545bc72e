"""A table and a figure of several results, as files."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from part_plugin.evaluation import Evaluation
from part_plugin.evaluation.results import AttackResult
from part_plugin.files import locked
from part_plugin.recipes.reports import check_figure, reserved_results, write_comparison, write_figure


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
        "| --- | --- | --- | --- |\n"
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


def test_a_figure_is_tried(tmp_path):
    for name in ("a.png", "a.PDF", "new/a"):
        check_figure(tmp_path / name)
    with pytest.raises(ValueError, match=r"a.txt' ends in .txt; choose from .*pdf, .*png, .*$"):
        check_figure(tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []


PLAN = [("a", "a", 0), ("b", "b", 0)]


@pytest.mark.parametrize("name", ["a.json", "b.md", "a.csv", "b.state.json", "comparison.md", "comparison.png"])
def test_every_file_of_an_evaluation_is_tried(tmp_path, name):
    (tmp_path / name).mkdir()
    with (
        pytest.raises(OSError, match=f"{name}' is a directory; a file is needed$"),
        reserved_results(PLAN, tmp_path, {}, True),
    ):
        pytest.fail("it began")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_results_are_kept_from_others(tmp_path):
    out = tmp_path / "new"
    with reserved_results(PLAN, out, {}, False), ThreadPoolExecutor(1) as pool:
        for name in ("a", "b"):
            said = pool.submit(lambda name=name: locked("result file", out / f"{name}.json").__enter__()).exception()
            assert isinstance(said, BlockingIOError)
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_there_must_be_of_the_same_evaluation(tmp_path):
    result = evaluation("a", natural=7)
    result.card |= {"eps": 0.1, "seed": 0}
    result.save(tmp_path / "a")
    with (
        pytest.raises(FileExistsError, match=r"a.json' exists; pass --overwrite or another --out$"),
        reserved_results(PLAN[:1], tmp_path, {"eps": 0.1}, False),
    ):
        pytest.fail("it began")
    (tmp_path / "a.state.json").write_text("{}")
    with reserved_results(PLAN[:1], tmp_path, {"eps": 0.1}, False):
        pass
    for plan, card, what in ((PLAN[:1], {"eps": 0.2}, "eps=0.1, not 0.2"), ([("a", "a", 1)], {}, "seed=0, not 1")):
        with (
            pytest.raises(FileExistsError, match=f"with {what}; overwrite it"),
            reserved_results(plan, tmp_path, card, False),
        ):
            pytest.fail("it began")
        with reserved_results(plan, tmp_path, card, True):
            pass
