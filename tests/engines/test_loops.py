"""The loops of examples/engines: short, four lines away from the engine alone, and they train on two ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LOOPS = Path(__file__).parents[2] / "examples" / "engines"


@pytest.mark.parametrize(
    "engine", ["ddp", *(pytest.param(one, marks=pytest.mark.slow) for one in ("accelerate", "fabric"))]
)
def test_two_ranks_train(engine, tmp_path):
    torchrun = [] if engine == "fabric" else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *torchrun, LOOPS / f"{engine}_loop.py"]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=os.environ | paths)
    assert done.returncode == 0, done.stderr
    natural = re.findall(r"natural accuracy (\d+\.\d)%, 2 processes", done.stdout)
    assert len(natural) == 1  # one of them says it
    assert float(natural[0]) > 80


@pytest.mark.parametrize("engine", ["ddp", "accelerate", "fabric"])
def test_four_lines_away_from_the_engine_alone(engine):
    source = (LOOPS / f"{engine}_loop.py").read_text()
    lines = source.splitlines()
    assert len(lines) < 60
    assert sum(line.endswith("  # new") or "  # was: " in line for line in lines) == 4
    before = [re.sub(r"^(\s*).*# was: ", r"\1", line) for line in lines[1:] if not line.endswith("# new")]
    assert not any("part" in line for line in before)
    compile("\n".join(before), engine, "exec")
