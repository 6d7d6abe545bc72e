"""A radius as people write it: "8/255" as text, its usual value, how it is shown, and which two go together."""

from __future__ import annotations

import math
import numbers
import warnings
from fractions import Fraction

from .checks import check_number, shown


def parse_radius(name: str, value: float | str) -> float:
    """Return a radius for images in [0, 1], given as a number or as text such as "8/255" or "0.03".

    Args:
        name: what a message calls it.
        value: number or text.

    Raises:
        TypeError: neither a number nor text.
        ValueError: text that is neither a number nor a fraction, NaN, or a radius outside [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, (numbers.Real, str)):
        kind = type(value).__name__
        raise TypeError(f"{name}={shown(value)} is a {kind}; a number or text such as '8/255' is needed")
    try:
        radius = float(Fraction("/".join(map(str.strip, value.split("/")))) if isinstance(value, str) else value)
    except (ValueError, ZeroDivisionError, OverflowError):
        radius = math.nan
    if not 0 <= radius <= 1:
        raise ValueError(f"{name}={value!r} is not a radius; it must be in [0, 1], as a number or as in '8/255'")
    return radius


def check_eps_pair(eps: float, eps_low: float | None) -> None:
    """Raise unless 0 <= eps_low <= eps; an eps_low of None follows eps.

    Raises:
        TypeError: a radius that is no number.
        ValueError: a negative or non-finite radius, eps_low > eps.
    """
    check_number("eps", eps)
    if eps_low is None:
        return
    check_number("eps_low", eps_low)
    if eps_low > eps:
        raise ValueError(f"eps_low={eps_low:g} is larger than eps={eps:g}; it must be <= eps")


def warn_of_unusual(eps: float) -> None:
    """Warn the caller's caller of an `eps` that is 8/255 but for its rounding; such changes rank models otherwise."""
    if 1e-6 < abs(eps - 8 / 255) < 2e-3:
        message = f"eps={eps:g} is not the usual radius 8/255 = 0.03137; pass eps='8/255' if that is meant"
        warnings.warn(message, stacklevel=3)


def radius_text(eps: float | None, eps_low: float | None = None) -> str:
    """Return `eps` as people write and as computers read it, "8/255 (0.03137)", and `eps_low` if it differs."""
    if eps is None:
        return "not l_inf"
    text = f"{255 * eps:.4g}/255 ({eps:.4g})"
    return text if eps_low in (None, eps) else f"{text} and {radius_text(eps_low)}"
