"""When there are masks, and which."""

import re

import pytest

from part_plugin.schedule import Schedule


@pytest.mark.parametrize(
    ("burn_in", "mask_every", "renewals"),
    [
        (2, 1, [None, None, 0, 1, 2, 3, 4, 5]),
        (1, 3, [None, 0, 0, 0, 1, 1, 1, 2]),
        (0, 2, [0, 0, 1, 1, 2, 2, 3, 3]),
        (8, 4, [None] * 8),
    ],
)
def test_epochs(burn_in, mask_every, renewals):
    schedule = Schedule(burn_in, mask_every)
    for epoch, renewal in enumerate(renewals):
        schedule.set_epoch(epoch)
        assert schedule.burning_in == (renewal is None)
        assert schedule.renewal == renewal


def test_epochs_that_nobody_counts():
    assert not Schedule(0, 1).burning_in
    for schedule in (Schedule(1, 1), Schedule(0, 2)):
        message = (
            f"burn_in={schedule.burn_in} and mask_every={schedule.mask_every} count epochs: call set_epoch(epoch) at "
            "the start of each, or pass burn_in=0 and mask_every=1"
        )
        with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
            _ = schedule.burning_in
        with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
            _ = schedule.renewal


def test_wrong_counts():
    for arguments, error, message in (
        ((-1, 1), ValueError, "burn_in=-1 is not allowed; it must be >= 0"),
        ((1.5, 1), TypeError, "burn_in=1.5 is a float; an integer is needed"),
        ((0, 0), ValueError, "mask_every=0 is not allowed; it must be >= 1"),
    ):
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            Schedule(*arguments)
    with pytest.raises(ValueError, match="^epoch=-1 is not allowed; it must be >= 0$"):
        Schedule(0, 1).set_epoch(-1)
