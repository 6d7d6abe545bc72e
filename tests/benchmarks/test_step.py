"""The scripts that time: variants side by side, and what is made of their seconds."""

import json
from pathlib import Path

import pytest
import scaling
import speedups
import step
import timing
import torch

RESULTS = Path(step.__file__).parents[1] / "results"


def main(module, options, path, monkeypatch):
    """What a script writes."""
    monkeypatch.setattr("sys.argv", [module.__name__, "--threads", "1", *options.split(), "--json", str(path)])
    module.main()
    return json.loads(path.read_text())


def test_steps_are_timed_side_by_side(tmp_path, monkeypatch, capsys):
    """Variants with two turns each: every ratio of theirs with its floor, memory, and the share of the machine's rate.

    The operations are those that can be counted by hand: a step of AT is 23 passes and one of PART 24.
    """
    options = "--width 4 --batch-size 8 --repeats 2 --rate --precision bfloat16 --channels-last"
    found = main(step, f"{options} --only AT PART maps", tmp_path / "step.json", monkeypatch)
    ours, theirs = (found["seconds"][name] for name in ("PART", "AT"))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    assert set(found["ratios"]) == set(found["memory"]) == {"PART/AT"}
    assert found["ratios"]["PART/AT"]["median"] == pytest.approx(sum(ratios) / 2)
    assert found["ratios"]["PART/AT"]["floor"] == pytest.approx(24 / 23)
    assert 50 < found["memory_mb"]["PART"] < 10_000
    assert found["memory"]["PART/AT"] == found["memory_mb"]["PART"] / found["memory_mb"]["AT"]
    assert found["settings"]["precision"] == "bfloat16"
    rates = found["rates"]
    assert list(rates) == ["matrix product", "AT", "PART", "maps"]
    assert rates["PART"]["operations"] / rates["AT"]["operations"] == pytest.approx(24 / 23, rel=1e-3)
    assert rates["maps"]["operations"] == pytest.approx(rates["AT"]["operations"] / 23, rel=0.02)
    for name in ("AT", "PART", "maps"):
        assert rates[name]["rate"] == pytest.approx(rates[name]["operations"] / (sum(found["seconds"][name]) / 2))
        assert 0 < rates[name]["rate"] < rates["matrix product"]["rate"]
    printed = capsys.readouterr().out
    assert "| PART/AT |" in printed
    assert "; bfloat16, channels-last\n" in printed
    assert "| matrix product | 0 | " in printed


def test_the_whole_step_is_in_that_precision():
    """And the network lies so, as do the images; without the options nothing is so."""
    for words, dtype, lies in (
        ([], torch.float32, False),
        (["--precision", "bfloat16", "--channels-last"], torch.bfloat16, True),
    ):
        seen = []
        bench = step.Bench(step.options_of(["--width", "4", "--batch-size", "4", "--threads", "1", *words]))
        bench.model.linear.register_forward_hook(lambda layer, taken, given, seen=seen: seen.append(given.dtype))
        bench.step("at")
        assert set(seen) == {dtype}  # in the attack as well, whose replica has the hook
        for each in (bench.x, bench.model.layer1[0].conv1.weight):
            assert each.is_contiguous(memory_format=torch.channels_last) == lies


@pytest.mark.parametrize("name", ["step-w16-b128", "step-w64-b32"])
def test_numbers_that_were_collected_can_still_be_read(name):
    kept = json.loads((RESULTS / f"{name}.json").read_text())
    compared = step.compared(kept["seconds"])
    for ratio, found in compared.items():
        assert found.pop("floor") == kept["ratios"][ratio].pop("floor")
        assert found == pytest.approx(kept["ratios"][ratio], rel=1e-3)  # of seconds that are rounded in the file
    assert set(compared) == set(kept["ratios"]) == set(step.RATIOS)
    assert set(kept["seconds"]) == set(step.VARIANTS)
    lines = step.markdown(json.loads((RESULTS / f"{name}.json").read_text())).splitlines()
    assert len(lines) == 3 + len(step.VARIANTS) + 3 + len(step.RATIOS) + 1
    if name == "step-w16-b128":
        assert "| PART/AT | 0.948 | 0.809 | 1.130 | 1.043 | 1.020 |" in lines


def test_speed_ups_are_compared_with_the_plain_gradient(tmp_path, monkeypatch, capsys):
    options = "--width 4 --batch-size 4 --repeats 2 --only frozen fold"
    found = main(speedups, options, tmp_path / "speedups.json", monkeypatch)["variants"]
    assert list(found) == ["plain", "frozen", "fold", "maps, whole graph", "maps"]
    assert found["plain"]["ratios"] == [1, 1]
    assert found["fold"]["ratios"] == timing.ratios(found["fold"]["seconds"], found["plain"]["seconds"])
    assert found["maps"]["ratios"] == timing.ratios(found["maps"]["seconds"], found["maps, whole graph"]["seconds"])
    assert found["frozen"]["distance"] == [0, 0]
    assert 0 < found["fold"]["distance"][0] < 1e-5
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in found)


def test_growth_is_a_power(tmp_path, monkeypatch, capsys):
    assert scaling.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    monkeypatch.setattr(scaling, "RANGES", {"batch size": (1, 8), "target layers": (1, 2)})
    monkeypatch.setattr(scaling, "BASE", scaling.BASE | {"batch size": 2, "width": 2, "image side": 16})
    found = main(scaling, f"--repeats 1 --figure {tmp_path / 'scaling.png'}", tmp_path / "scaling.json", monkeypatch)
    assert set(found) == {"base", "threads", "device", "table"}
    for row in found["table"].values():
        for name in ("AT step", "PART step", "maps"):
            assert row["exponents"][name] == pytest.approx(scaling.exponent(row["values"], row["seconds"][name]))
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert "| batch size | 1, 8 |" in capsys.readouterr().out
