"""The tables of compatibility: what was written is what the rows are, and every row still gives it."""

import json
import re

import pytest
import results
import rows
import tables
from rows import Row

WRITTEN = results.read(results.RESULTS)
AT_LEAST = {"networks": 150, "sources": 25, "attacks": 70, "recipes": 15}


@pytest.mark.slow
@pytest.mark.parametrize(("table", "name"), [(table, name) for table, found in WRITTEN.items() for name in found])
def test_no_row_got_worse(table, name):
    tables.check_installed()
    _, found, _ = tables.run_row((table, name))
    assert results.worse(WRITTEN, {table: {name: found}}) == []


@pytest.mark.parametrize("table", tables.TABLES)
def test_the_results_are_those_of_the_rows(table):
    """None is missing, none is left over, none is wrong; and there are many."""
    written = set(WRITTEN.get(table, {}))
    assert written == set(tables.rows_of(table)), f"make compatibility ARGUMENTS='--table {table}'"
    assert [name for name, row in WRITTEN[table].items() if row["status"] == "wrong"] == []
    assert len(WRITTEN[table]) >= AT_LEAST[table]


@pytest.mark.parametrize("table", tables.TABLES)
def test_results(table):
    """A refusal is a sentence, which another machine or run would say in the same way."""
    arguments = {name: row.arguments for name, row in tables.rows_of(table).items()}
    for name, row in WRITTEN.get(table, {}).items():
        assert row["arguments"] == arguments[name]
        assert row["status"] in rows.STATUSES
        assert set(row) == {"status", "arguments", "note" if row["status"] in rows.STATUSES[:2] else "sentence"}
        said = row.get("note", row.get("sentence"))
        assert "\n" not in said
        assert "sentence" not in row or len(said) > 20, name
        assert not re.search(r"0x[0-9a-f]{4}|/tmp/|/home/|/root/|site-packages|No module named", said), name


def test_the_page_is_that_of_the_results():
    assert results.PAGE.read_text(encoding="utf-8") == results.page(WRITTEN), "make compatibility"


def fine():
    return "all of it"


def silently_wrong():
    assert 1 + 1 == 3, "a pixel left its budget"


def refused():
    raise ValueError(
        "attack=CW cannot be given a budget | per pixel\nand more in <object at 0x7f0a12> of /usr/lib/a.py"
    )


@pytest.fixture
def tiny(monkeypatch):
    """A table of three rows that can be changed."""
    table = [Row("works", fine), Row("needs", fine, "cam="), Row("refuses", refused)]
    monkeypatch.setattr(tables, "rows_of", lambda name: {row.name: row for row in table})
    monkeypatch.setitem(results.TITLES, "tiny", "A tiny table")
    return table


def run(folder, *arguments):
    paths = "--json", str(folder / "results.json"), "--page", str(folder / "page.md")
    return tables.main([*paths, *arguments], ("tiny",))


def test_what_is_written(tiny, tmp_path):
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == {
        "tiny": {
            "works": {"status": "works", "arguments": "", "note": "all of it"},
            "needs": {"status": "with arguments", "arguments": "cam=", "note": "all of it"},
            "refuses": {
                "status": "refused",
                "arguments": "",
                "sentence": "attack=CW cannot be given a budget | per pixel",
            },
        }
    }
    page = (tmp_path / "page.md").read_text()
    assert "| [tiny](#tiny) | 3 | 1 | 1 | 1 | 0 |\n" in page
    assert page.endswith(
        "## A tiny table\n\n"
        "| | result | |\n|---|---|---|\n"
        "| needs | with arguments | `cam=`; all of it |\n"
        "| refuses | refused | attack=CW cannot be given a budget \\| per pixel |\n"
        "| works | works by itself | all of it |\n"
    )


def test_a_row_that_is_silently_wrong(tiny, tmp_path, capsys):
    tiny.append(Row("breaks", silently_wrong))
    assert run(tmp_path) == 1
    assert "| breaks | **wrong** | a pixel left its budget |" in (tmp_path / "page.md").read_text()
    assert "wrong" in capsys.readouterr().out
    assert run(tmp_path, "--check") == 0  # it is no worse than it was
    (tmp_path / "results.json").unlink()
    assert run(tmp_path, "--check", "--only", "breaks") == 1  # nor was it there before


@pytest.mark.parametrize(
    ("name", "row", "sentence"),
    [
        ("works", Row("works", fine, "cam="), "was 'works' and is 'with arguments': `cam=`; all of it"),
        (
            "works",
            Row("works", refused),
            "was 'works' and is 'refused': attack=CW cannot be given a budget | per pixel",
        ),
        ("works", Row("works", silently_wrong), "was 'works' and is 'wrong': a pixel left its budget"),
        ("needs", Row("needs", refused), "was 'with arguments' and is 'refused': attack=CW cannot be given a budget"),
        ("refuses", Row("refuses", silently_wrong), "was 'refused' and is 'wrong': a pixel left its budget"),
    ],
)
def test_a_row_that_gets_worse(tiny, tmp_path, capsys, name, row, sentence):
    assert run(tmp_path) == 0
    before = (tmp_path / "results.json").read_text()
    tiny[[each.name for each in tiny].index(name)] = row
    assert run(tmp_path, "--check") == 1
    assert f"\ntiny: {name} {sentence}" in capsys.readouterr().out
    assert (tmp_path / "results.json").read_text() == before


def test_rows_that_get_better_or_come_anew(tiny, tmp_path, capsys):
    assert run(tmp_path) == 0
    tiny[1:] = [Row("needs", fine), Row("refuses", fine), Row("new", refused)]
    assert run(tmp_path, "--check") == 0
    assert capsys.readouterr().out.endswith("no row got worse\n")


def test_one_row_alone(tiny, tmp_path):
    """The others stay as they were written; a whole table loses what is no row any more."""
    assert run(tmp_path) == 0
    tiny[:] = [Row("works", refused), Row("other", fine)]
    assert run(tmp_path, "--only", "works") == 0
    written = results.read(tmp_path / "results.json")["tiny"]
    assert {name: row["status"] for name, row in written.items()} == {
        "works": "refused", "needs": "with arguments", "refuses": "refused",
    }  # fmt: skip
    assert run(tmp_path) == 0
    assert set(results.read(tmp_path / "results.json")["tiny"]) == {"works", "other"}
    with pytest.raises(ValueError, match=r"^no row is named 'nothing'; the tables are tiny$"):
        run(tmp_path, "--only", "nothing")


def test_processes_give_what_one_gives(tmp_path, monkeypatch):
    """Each row is seeded by itself, on one thread, whatever ran before."""
    lines = [
        "import random, numpy, torch",
        "from rows import Row",
        "def run():",
        "    return f'{random.random()} {numpy.random.rand()} {float(torch.rand(1))} {torch.get_num_threads()}'",
        "def rows():",
        "    return [Row('one', run), Row('two', run)]",
    ]
    (tmp_path / "seeded_rows.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    tasks = [("seeded_rows", "one"), ("seeded_rows", "two")]
    alone, together = (sorted((task, row["note"]) for task, row, _ in tables.run_rows(tasks, jobs)) for jobs in (1, 2))
    assert alone == together
    assert alone[0][1] == alone[1][1]
    assert alone[0][1].endswith(" 1")


def test_two_rows_of_one_name():
    with pytest.raises(ValueError, match=r"^rows of the same name: one$"):
        rows.check_names([Row("one", fine), Row("two", fine), Row("one", refused)])
    rows.check_names([Row("one", fine), Row("two", fine)])


def test_what_differs_from_machine_to_machine_is_left_out():
    error = ValueError("\n<Net object at 0x7f0a12> of /usr/lib/python3/net.py and a/b\nmore")
    assert rows.first_line(error) == "<Net object at 0x...> of net.py and a/b"
    assert rows.first_line(KeyError()) == "KeyError"
