"""The examples run, stay short, and show what they claim: two changed lines."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
README = Path(__file__).parents[1] / "README.md"


def run(*arguments, cwd):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["torchattacks_loop", "art_trainer", "own_loop"])
def test_example_runs(name, tmp_path):
    script = EXAMPLES / f"{name}.py"
    assert len(script.read_text().splitlines()) < 60
    printed = run(script, cwd=tmp_path)
    natural = float(re.search(r"natural accuracy (\d+\.\d)%", printed)[1])
    assert natural > 80


@pytest.mark.parametrize("name", ["torchattacks_loop", "art_trainer"])
def test_two_lines_away_from_the_toolkit_alone(name, tmp_path):
    """With every changed line as it was, the script runs without part_plugin."""
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    changed = [line for line in lines if "# was: " in line]
    assert 0 < len(changed) <= 2
    before = [re.sub(r"^(\s*).*# was: ", r"\1", line) for line in lines]
    assert not any("part_plugin" in line for line in before)
    (tmp_path / "before.py").write_text("\n".join(before))
    assert "natural accuracy" in run("before.py", cwd=tmp_path)


def test_the_demo_writes_what_it_says(tmp_path):
    script = (EXAMPLES / "demo.py").read_text()
    short = script.replace("7 / 8, 20, 0", "7 / 8, 4, 0")
    short = short.replace("test_size=400, train_size=900", "test_size=20, train_size=200")
    assert short.count("test_size=20") == 1
    assert "7 / 8, 4, 0" in short
    (tmp_path / "demo.py").write_text(short)
    printed = run("demo.py", cwd=tmp_path)
    assert "PART - AT" in printed
    names = sorted(path.name for path in (tmp_path / "demo-results").iterdir())
    assert names == ["AT.pt", "PART.pt", "budgets.png", "table.csv"]


def test_the_code_in_the_readme_runs(tmp_path):
    """All Python blocks of the README, one after the other, as one script."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    assert len(blocks) >= 4
    (tmp_path / "readme.py").write_text("\n".join(blocks))
    printed = run("readme.py", cwd=tmp_path)
    assert "natural" in printed
