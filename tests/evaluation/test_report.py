"""Tables and lines, letter by letter."""

import numpy as np
import pandas as pd
import pytest

from part_plugin.evaluation import AttackResult
from part_plugin.evaluation.report import attack_lines, attack_table, class_table, markdown_table


@pytest.fixture
def half():
    """2 of 4: Wilson's interval is 15.00 % to 85.00 %."""
    return AttackResult("pgd20", np.array([1, 0, 1, 0], bool), 12.34, 8 / 255, 7 / 255, "", ["one", "two"])


def test_lines_of_an_attack(half):
    line = "  pgd20             50.00%   95 % interval  15.00% to  85.00%     12.3 s"
    warnings = ["    warning: one", "    warning: two"]
    assert attack_lines(half, True) == [line, *warnings]
    radius = "   radius 8/255 (0.03137) and 7/255 (0.02745)"
    assert attack_lines(half, False) == [line + radius, *warnings]


def test_table_of_attacks(half):
    natural = AttackResult("natural", np.array([1, 1, 1, 1], bool), 0.06)
    assert attack_table([natural, half]) == (
        "| attack | accuracy | 95 % interval | radius | seconds |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| natural | 100.00 | 51.01 to 100.00 | 0/255 (0) | 0.1 |\n"
        "| pgd20 | 50.00 | 15.00 to 85.00 | 8/255 (0.03137) and 7/255 (0.02745) | 12.3 |"
    )


def test_a_bar_in_a_cell_is_no_border():
    assert markdown_table(["a|b", "c"], [["d", "|"]]) == "| a\\|b | c |\n| --- | --- |\n| d | \\| |"


def test_table_of_classes():
    accuracies = pd.DataFrame({"natural": [1.0, 0.5], "pgd20": [0.25, 0.125]}, index=[0, 7])
    assert class_table(accuracies) == (
        "| class | natural | pgd20 |\n| --- | --- | --- |\n| 0 | 100.0 | 25.0 |\n| 7 | 50.0 | 12.5 |"
    )


def test_markdown_table():
    assert markdown_table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
