"""Whether flags differ by more than chance."""

from __future__ import annotations

from scipy.stats import binomtest

from .attack_result import Flags


def is_better(flags: Flags, share: float) -> bool:
    """Return whether more of `flags` are set than a `share` by chance: a one-sided binomial test at the 5 % level."""
    return bool(binomtest(int(flags.sum()), len(flags), share, alternative="greater").pvalue < 0.05)


def fools_more(one: Flags, other: Flags) -> bool:
    """Return whether an attack fools more samples than another: a one-sided sign test at the 5 % level.

    `one` and `other` tell which samples survive the first and the second, (N,).
    """
    better, worse = int((~one & other).sum()), int((one & ~other).sum())
    return better > worse and bool(binomtest(better, better + worse, alternative="greater").pvalue < 0.05)
