"""A radius as people write it and as they read it."""

import re
import warnings

import pytest

from part_plugin.radius import check_eps_pair, parse_radius, radius_text, warn_of_unusual

NAN, INF = float("nan"), float("inf")


def refused(error, message, function, *args):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        function(*args)


def test_radii_as_text():
    for value, expected in (("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.03", 0.03), (0.5, 0.5), (0, 0), ("1", 1)):
        assert parse_radius("eps", value) == expected
    for value in ("8", "-1/255", "x", "1/0", "", NAN, INF, 1.5, "nan", "1e400", "1/2/3"):
        message = f"eps={value!r} is not a radius; it must be in [0, 1], as a number or as in '8/255'"
        refused(ValueError, message, parse_radius, "eps", value)
    for value, kind in ((None, "NoneType"), (True, "bool"), ([1], "list")):
        message = f"eps={value!r} is a {kind}; a number or text such as '8/255' is needed"
        refused(TypeError, message, parse_radius, "eps", value)


def test_radii_as_people_write_them():
    assert radius_text(8 / 255) == "8/255 (0.03137)"
    assert radius_text(8 / 255, 7 / 255) == "8/255 (0.03137) and 7/255 (0.02745)"
    assert radius_text(0.1, 0.1) == radius_text(0.1) == "25.5/255 (0.1)"
    assert radius_text(None) == "not l_inf"


def test_radii_that_are_8_255_but_for_their_rounding():
    def caller(eps):
        warn_of_unusual(eps)

    for eps in (0.031, 0.03, 0.033):
        message = f"eps={eps:g} is not the usual radius 8/255 = 0.03137; pass eps='8/255' if that is meant"
        with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as record:
            caller(eps)
        assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for eps in (8 / 255, 8 / 255 + 1e-7, 0.1, 4 / 255, 0.0293):
            caller(eps)


@pytest.mark.parametrize(
    ("value", "radius"),
    [
        ("8/255", 8 / 255),
        (" 8 / 255 ", 8 / 255),
        ("0.03", 0.03),
        ("1e-2", 0.01),
        (0.1, 0.1),
        (0, 0.0),
        (1, 1.0),
        ("0", 0.0),
    ],
)
def test_parse_radius(value, radius):
    parsed = parse_radius("eps", value)
    assert parsed == radius
    assert type(parsed) is float


@pytest.mark.parametrize(
    "value",
    ["x", "", "1/0", "8/", "8/255/2", "-1/255", -0.1, "nan", float("nan"), "inf", "1e999", 8, "__import__('os')"],
)
def test_parse_radius_refuses(value):
    message = f"eps_low={value!r} is not a radius; it must be in [0, 1], as a number or as in '8/255'"
    refused(ValueError, message, parse_radius, "eps_low", value)


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (True, "bool"), ([0.1], "list")])
def test_parse_radius_refuses_other_types(value, kind):
    message = f"eps={value!r} is a {kind}; a number or text such as '8/255' is needed"
    refused(TypeError, message, parse_radius, "eps", value)


def test_pairs_of_radii():
    for pair in ((0.2, 0.1), (0.2, 0.2), (0, 0), (0.2, None)):
        check_eps_pair(*pair)
    refused(ValueError, "eps_low=0.3 is larger than eps=0.2; it must be <= eps", check_eps_pair, 0.2, 0.3)
    refused(ValueError, "eps=-1 is not allowed; it must be >= 0", check_eps_pair, -1, None)
    refused(ValueError, "eps_low=-1 is not allowed; it must be >= 0", check_eps_pair, 1, -1)
