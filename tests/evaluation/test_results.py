"""What follows from the flags of an evaluation, how it is written down, to files and back."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from evaluation.conftest import CARD, EPS, result

from part_plugin.evaluation import Evaluation

ROWS = ["natural", "pgd5", "pgd9", "adaptive_pgd9", "PixelPGD", "PGDL2", "autoattack", "worst case"]


def test_results_have_names(by_hand):
    assert [by_hand[name].name for name in ROWS] == ROWS
    assert [row.name for row in by_hand.rows] == ROWS
    message = f"'mma' was not evaluated; there are {ROWS[:-1]}"
    with pytest.raises(KeyError, match=f"^{re.escape(repr(message))}$"):
        by_hand["mma"]
    assert by_hand.n == 6


def test_an_accuracy_may_be_quoted_if_every_pixel_may_move_by_eps_and_no_further(by_hand):
    headline = [row.name for row in by_hand.rows if by_hand.is_headline(row)]
    assert headline == ["natural", "pgd5", "pgd9", "autoattack", "worst case"]
    assert by_hand.is_headline(result("PGD", "111111", EPS * (1 + 1e-7)))
    for eps in (EPS * 0.999, EPS * 1.001, 0.0):
        assert not by_hand.is_headline(result("PGD", "111111", eps)), eps
    tiny = Evaluation("tiny", 1e-9, 0, [], np.array([0]))
    assert not tiny.is_headline(result("PGD", "1", 2e-9))


def test_the_worst_case_counts_what_may_be_quoted(by_hand):
    """Samples 1 and 3 survive natural, pgd5, pgd9 and autoattack; PixelPGD and the rest would have fooled them."""
    worst = by_hand.worst_case
    assert worst.correct.tolist() == [False, True, False, True, False, False]
    assert (worst.eps, worst.eps_low) == (EPS, EPS)
    assert worst.settings == "natural, pgd5, pgd9, autoattack"
    assert worst.seconds == 0.25 + 3.0 + 2.5  # pgd5 is a part of the run that pgd9 is
    assert by_hand["worst case"].correct.tolist() == worst.correct.tolist()
    nothing = Evaluation("none", EPS, 0, [result("PixelPGD", "000", EPS, 0.05)], np.array([0, 0, 0])).worst_case
    assert nothing.correct.tolist() == [True] * 3
    assert nothing.seconds == 0


def test_accuracy_per_class(by_hand):
    table = by_hand.per_class()
    assert list(table.columns) == ROWS[:-1]
    assert table.index.tolist() == [0, 1, 4]
    assert table["natural"].tolist() == pytest.approx([1, 0, 1])
    assert table["pgd5"].tolist() == pytest.approx([1, 0, 2 / 3])
    assert table["pgd9"].tolist() == pytest.approx([1 / 2, 0, 2 / 3])
    assert table["autoattack"].tolist() == pytest.approx([1, 0, 1 / 3])


def test_as_a_row(by_hand):
    row = by_hand.row()
    names = [f"{name}{end}" for name in ROWS[:-1] for end in ("", "_low", "_high", "_seconds")]
    assert list(row.index) == ["model", "eps", "n", *names]
    assert (row["model"], row["eps"], row["n"]) == ("mine", EPS, 6)
    assert row["pgd9"] == 0.5
    assert (row["pgd9_low"], row["pgd9_high"]) == by_hand["pgd9"].interval
    assert row["pgd9_low"] < 0.5 < row["pgd9_high"]
    assert row["pgd9_seconds"] == 3
    assert pd.DataFrame([row, row])["pgd5"].tolist() == [4 / 6, 4 / 6]


def test_as_a_frame(by_hand):
    frame = by_hand.frame()
    columns = "model attack accuracy low high n eps eps_low headline seconds settings"
    assert list(frame.columns) == columns.split()
    assert frame["attack"].tolist() == ROWS
    for line, row in zip(frame.to_dict("records"), by_hand.rows, strict=True):
        assert (line["model"], line["n"]) == ("mine", 6)
        assert (line["accuracy"], line["seconds"], line["settings"]) == (row.accuracy, row.seconds, row.settings)
        assert (line["low"], line["high"]) == row.interval
        assert line["headline"] == by_hand.is_headline(row)
        assert (line["eps"], line["eps_low"]) == (row.eps, row.eps_low) or row.name == "PGDL2"


def test_as_text(by_hand):
    lines = str(by_hand).splitlines()
    assert lines[:2] == ["mine: 6 samples, l_inf eps = 25.5/255 (0.1), seed 3", "  warning: its logits change"]
    assert lines[2] == "  natural           83.33%   95 % interval  43.65% to  96.99%      0.2 s"
    assert lines[5].endswith("      5.0 s   radius 38.25/255 (0.15) and 25.5/255 (0.1)")
    assert lines[7].endswith("      9.0 s   radius not l_inf")
    assert lines[8:10] == [
        "  autoattack        50.00%   95 % interval  18.76% to  81.24%      2.5 s",
        "    warning: zero gradient",
    ]
    assert lines[10].startswith("  worst case        33.33% ")
    parts = f"{by_hand.gradients}\n{by_hand.corruptions}".splitlines()
    assert lines[11:] == parts
    by_hand.gradients = by_hand.corruptions = None
    assert str(by_hand).splitlines() == lines[:11]


def test_as_markdown(by_hand):
    text = by_hand.markdown()
    paragraphs = text.split("\n\n")
    assert paragraphs[:4] == [
        "# mine",
        "Accuracy in % on 6 samples; threat model l_inf, eps = 25.5/255 (0.1); seed 3.",
        "Warning: its logits change",
        "Warning: zero gradient",
    ]
    table = paragraphs[4].splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in ROWS]
    assert table[8] == "| autoattack | 50.00 | 18.76 to 81.24 | 25.5/255 (0.1) | 2.5 |"
    assert paragraphs[5] == "## Per class"
    classes = paragraphs[6].splitlines()
    assert classes[0] == f"| class | {' | '.join(ROWS[:-1])} |"
    assert classes[2:] == [
        "| 0 | 100.0 | 100.0 | 50.0 | 0.0 | 0.0 | 0.0 | 100.0 |",
        "| 1 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 |",
        "| 4 | 100.0 | 66.7 | 66.7 | 0.0 | 0.0 | 0.0 | 33.3 |",
    ]
    assert f"## Obfuscated gradients\n\n{by_hand.gradients.markdown()}\n\n" in text
    assert f"## Common corruptions\n\n{by_hand.corruptions.markdown()}\n\n" in text
    assert text.endswith(
        "## What was evaluated\n\n- weights: w\n- eps: 0.1\n- seed: 3\n- norm: Linf\n- attacks: ['natural']\n"
        "- data: d\n- n: 6\n"
    )
    by_hand.gradients = by_hand.corruptions = None
    assert [line for line in by_hand.markdown().splitlines() if line.startswith("#")] == [
        "# mine",
        "## Per class",
        "## What was evaluated",
    ]


def test_saved_and_loaded(by_hand, tmp_path):
    by_hand.save(tmp_path / "results" / "v1.0")  # no suffix, though it looks like one
    assert sorted(file.name for file in (tmp_path / "results").iterdir()) == ["v1.0.csv", "v1.0.json", "v1.0.md"]
    loaded = Evaluation.load(tmp_path / "results" / "v1.0.json")
    assert str(loaded) == str(by_hand)
    assert loaded.markdown() == by_hand.markdown() == (tmp_path / "results" / "v1.0.md").read_text()
    assert (loaded.model, loaded.eps, loaded.seed, loaded.card) == ("mine", EPS, 3, CARD)
    assert loaded.labels.tolist() == by_hand.labels.tolist()
    assert loaded.to_dict() == by_hand.to_dict()
    table = pd.read_csv(tmp_path / "results" / "v1.0.csv")
    pd.testing.assert_frame_equal(table, by_hand.frame(), check_dtype=False)


def test_the_file_can_be_read_without_the_package(by_hand, tmp_path):
    by_hand.save(tmp_path / "mine")
    text = (tmp_path / "mine.json").read_text()
    assert text.startswith('{\n "format": 1,\n "model": "mine",\n')
    content = json.loads(text)
    assert content["eps_text"] == "25.5/255 (0.1)"
    assert content["results"][2]["correct"] == "011100"
    assert content["accuracies"] == {row.name: row.accuracy for row in by_hand.rows}
    assert content["labels"] == [0, 0, 4, 4, 4, 1]


def test_without_gradients_and_corruptions(by_hand, tmp_path):
    by_hand.gradients = by_hand.corruptions = None
    by_hand.save(tmp_path / "mine")
    loaded = Evaluation.load(tmp_path / "mine.json")
    assert loaded.gradients is None
    assert loaded.corruptions is None


def test_results_of_something_else_are_not_replaced(by_hand, tmp_path):
    target = tmp_path / "mine"
    by_hand.save(target)
    by_hand.results[0].seconds = 9.0
    by_hand.save(target)  # the same again
    assert Evaluation.load(tmp_path / "mine.json")["natural"].seconds == 9
    kept = [(tmp_path / f"mine.{end}").read_bytes() for end in ("json", "md", "csv")]
    by_hand.card["eps"] = 0.2
    with pytest.raises(
        FileExistsError,
        match=rf"^result file '{target}\.json' holds another evaluation \(mine\), with eps=0.1, not 0.2; overwrite it "
        "or choose another name$",
    ):
        by_hand.save(target)
    assert [(tmp_path / f"mine.{end}").read_bytes() for end in ("json", "md", "csv")] == kept
    by_hand.save(target, overwrite=True)
    assert Evaluation.load(tmp_path / "mine.json").card["eps"] == 0.2
    (tmp_path / "mine.json").write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json' is damaged or not one of part_plugin's$"):
        by_hand.save(target)
    by_hand.save(target, overwrite=True)
    assert str(Evaluation.load(tmp_path / "mine.json")) == str(by_hand)


@pytest.mark.parametrize(("end", "kind"), [("json", "result file"), ("md", "report"), ("csv", "table")])
def test_files_that_cannot_be_written_are_told(by_hand, tmp_path, end, kind):
    (tmp_path / f"mine.{end}").mkdir()
    message = f"{kind} '{tmp_path}/mine.{end}' is a directory; a file is needed"
    with pytest.raises(IsADirectoryError, match=f"^{re.escape(message)}$"):
        by_hand.save(tmp_path / "mine")
    assert [file.name for file in tmp_path.iterdir()] == [f"mine.{end}"]  # none of the others was written


def test_a_file_whose_folder_is_none(by_hand, tmp_path):
    (tmp_path / "file").touch()
    message = f"result file '{tmp_path}/file/mine.json' cannot be written: '{tmp_path}/file' is not a directory"
    with pytest.raises(NotADirectoryError, match=f"^{re.escape(message)}$"):
        by_hand.save(tmp_path / "file" / "mine")


def test_result_files_that_are_none(by_hand, tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match=rf"^result file '{path}' does not exist$"):
        Evaluation.load(path)
    with pytest.raises(IsADirectoryError, match=rf"^result file '{tmp_path}' is a directory; a file is needed$"):
        Evaluation.load(tmp_path)
    whole = json.loads(json.dumps(by_hand.to_dict()))
    for content, message in (
        ("{", "is damaged or not one of part_plugin's"),
        ("[]", "is not one of part_plugin's"),
        (json.dumps({"format": 7}), "has format 7; this version of part_plugin reads 1"),
        (json.dumps({"format": 1}), "is damaged or of another kind: 'model' is missing"),
        (json.dumps(whole | {"labels": "0"}), "is damaged or of another kind: 'labels' is a str; list is needed"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"^{re.escape(f'result file {str(path)!r} {message}')}"):
            Evaluation.load(path)


WRONG = {  # what is put where, and the sentence
    "model of lines": (["model"], "a\nb", "model='a\\nb' is not a line of text"),
    "model empty": (["model"], "", "model='' is not a line of text"),
    "eps negative": (["eps"], -0.1, "eps=-0.1 is not a number >= 0"),
    "eps infinite": (["eps"], float("inf"), "eps=inf is not a number >= 0"),
    "seed negative": (["seed"], -1, "seed=-1 is not a whole number >= 0"),
    "warnings": (["warnings"], [1], "warnings=[1] is not a list of texts"),
    "labels empty": (["labels"], [], "labels=[] is not a list of classes"),
    "labels text": (["labels", 0], "0", "labels=['0', 0, 4, 4, 4, 1] is not a list of classes"),
    "labels large": (["labels"], [2**63], "labels=[9223372036854775808] is not a list of classes"),
    "labels fewer": (["labels"], [0, 0, 4], "'natural' has 6 samples, and there are 3 labels"),
    "row a list": (["results", 0], [], "[] is where entries are needed"),
    "row more": (["results", 0, "more"], 1, "entry 'more' is not known"),
    "row less": (["results", 0, "seconds"], None, "entry 'seconds' is missing"),
    "name": (["results", 0, "name"], 5, "name=5 is not a line of text"),
    "name twice": (["results", 0, "name"], "pgd5", "'pgd5' is there twice"),
    "name worst": (["results", 0, "name"], "worst case", "'worst case' is there twice"),
    "flags": (["results", 0, "correct"], "11x110", "correct='11x110' is not a text of 0s and 1s"),
    "flags fewer": (["results", 1, "correct"], "11", "'pgd5' has 2 samples, and there are 6 labels"),
    "flags others": (["results", 1, "correct"], "011100", "its accuracies are not those of its samples"),
    "seconds": (["results", 0, "seconds"], -1, "seconds=-1 is not a number >= 0"),
    "radius": (["results", 0, "eps"], "0.1", "eps='0.1' is not a number >= 0 or null"),
    "wall time": (["wall_seconds"], -1, "wall_seconds=-1 is not a number >= 0 or null"),
    "accuracies": (["accuracies", "natural"], 1.0, "its accuracies are not those of its samples"),
    "check": (["gradients", "checks", 0, "passed"], "yes", "passed='yes' is not true or false"),
    "checks": (["gradients", "checks"], {}, "checks={} is not a list"),
    "no gradient": (["gradients", "zero_gradients"], 2, "zero_gradients=2 is not a number from 0 to 1"),
    "table": (["corruptions", "table", "data"], [[0.9]], "table={'index': ['fog', 'jpeg_compression'], "),
    "table twice": (["corruptions", "table", "index"], ["fog", "fog"], "table={'index': ['fog', 'fog'], "),
    "table share": (["corruptions", "table", "data", 0, 0], 1.5, "table={'index': ['fog', 'jpeg_compression'], "),
    "table names": (["corruptions", "table", "index_names"], ["x"], "table={'index': ['fog', 'jpeg_compression'], "),
    "images": (["corruptions", "n"], 1.5, "n=1.5 is not a whole number >= 0"),
    "reference": (["corruptions", "reference"], {"fog": 0}, "reference={'fog': 0} is not null or errors by corruption"),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_part_of_a_result_file_is_checked(by_hand, tmp_path, name):
    (*keys, last), value, message = WRONG[name]
    part = whole = json.loads(json.dumps(by_hand.to_dict()))
    for key in keys:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=f"^{re.escape(f'result file {str(path)!r} is damaged: {message}')}") as caught:
        Evaluation.load(path)
    assert str(caught.value).isprintable()


def test_the_time_of_many_processes_is_told_beside_their_sum(by_hand, tmp_path):
    assert "summed" not in str(by_hand)
    by_hand.wall_seconds = 1.25
    by_hand.save(tmp_path / "mine")
    lines = str(Evaluation.load(tmp_path / "mine.json")).splitlines()
    assert "  all in 1.2 s; seconds of an attack are summed over its processes" in lines
    content = json.loads((tmp_path / "mine.json").read_text())
    del content["wall_seconds"]  # as in the files of earlier releases
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert Evaluation.load(tmp_path / "mine.json").wall_seconds is None


@pytest.mark.parametrize("path", ["", ".", "/", ".."])
def test_a_path_without_a_name(by_hand, path):
    with pytest.raises(ValueError, match=f"^path='{re.escape(path)}' has no name for result files; give one, as in"):
        by_hand.save(path)


@pytest.mark.parametrize("name", ["...", "x/../y", "a b", "é", ".hidden"])
def test_results_are_where_their_path_says(by_hand, tmp_path, name):
    (tmp_path / "x").mkdir()
    by_hand.save(tmp_path / name)
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {tmp_path / f"{name.removeprefix('x/../')}.{end}" for end in ("json", "md", "csv")}
