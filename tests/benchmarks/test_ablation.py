"""Differences between budgets, seed by seed."""

import ablation
import numpy as np
import pandas as pd
import pytest


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
