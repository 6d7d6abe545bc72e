"""The page of mistakes is that of the tests, and can be read by people."""

import re

import pytest
from mistakes import table


def test_the_page_is_up_to_date():
    written = table.PAGE.read_text(encoding="utf-8")
    assert written == table.page(), "python tests/mistakes/table.py > docs/MISTAKES.md"


@pytest.mark.parametrize("module", list(table.modules()), ids=lambda module: module.__name__)
def test_rows(module):
    """One line each, nothing that another machine or Python would say otherwise, no mistake twice."""
    names = [mistake.what for mistake in module.MISTAKES]
    assert len(set(names)) == len(names)
    for mistake in module.MISTAKES:
        for text in (mistake.what, mistake.says):
            assert text == text.strip() != ""
            assert "\n" not in text
            assert "`" not in text
        assert not re.search(r" at 0x|[A-Z]:\\\\|/tmp/|/home/|/root/|site-packages|__init__\(\)", mistake.says)


def test_there_are_many():
    assert sum(len(module.MISTAKES) for module in table.modules()) >= 120
