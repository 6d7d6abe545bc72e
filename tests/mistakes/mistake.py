"""A mistake that people make, and the one sentence that the package answers it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest


class Mistake(NamedTuple):
    """One row of the table of mistakes, and the test of it."""

    what: str
    """What somebody does wrong, in a few plain words."""
    make: Callable[[], Any]
    """Does it."""
    error: type[BaseException]
    """What is raised."""
    says: str
    """The whole sentence."""

    def check(self) -> None:
        """Make the mistake, and compare the sentence with what is raised."""
        with pytest.raises(self.error) as raised:
            self.make()
        assert type(raised.value) is self.error
        assert str(raised.value) == self.says


def each(mistakes: list[Mistake]) -> pytest.MarkDecorator:
    """Run a test for each of the `mistakes`."""
    return pytest.mark.parametrize("mistake", mistakes, ids=[mistake.what for mistake in mistakes])
