"""Radii as people write them."""

import pytest

from part_plugin.checks import parse_radius


def message(error, call, *args, **kwargs):
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is error
    return str(caught.value)


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
    assert message(ValueError, parse_radius, "eps_low", value) == (
        f"eps_low={value!r} is not a radius; it must be in [0, 1], as a number or as in '8/255'"
    )


@pytest.mark.parametrize(("value", "kind"), [(None, "NoneType"), (True, "bool"), ([0.1], "list")])
def test_parse_radius_refuses_other_types(value, kind):
    assert message(TypeError, parse_radius, "eps", value) == (
        f"eps={value!r} is a {kind}; a number or text such as '8/255' is needed"
    )
