"""When there are masks, and which."""

import re

import pytest

from part_plugin.schedule import Schedule, at_first


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


def test_radii_of_an_epoch():
    schedule = Schedule(0, 1, eps=lambda epoch: 0.1 * epoch, eps_low=0.05)
    assert schedule.set_epoch(3) == {"eps": pytest.approx(0.3)}
    assert Schedule(0, 1, eps=0.1, eps_low=None).set_epoch(0) == {}
    assert (at_first(0.1), at_first(None), at_first(lambda epoch: epoch + 2.5)) == (0.1, None, 2.5)


@pytest.mark.parametrize("wrong", ["text", None, -0.1, float("nan")])
def test_radii_that_are_none(wrong):
    schedule = Schedule(0, 1, eps=lambda epoch: wrong, eps_low=lambda epoch: 0.0)
    with pytest.raises((TypeError, ValueError), match="^eps="):
        schedule.set_epoch(0)
    assert schedule.epoch is None
