"""What makes weights of maps."""

import re

import pytest
import torch

from part_plugin import Soft, Threshold, TopShare
from part_plugin.rules import check_rule, weights_of, without_signal

MAPS = torch.rand(5, 1, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 1.0, 1.5])
def test_threshold_is_that_of_the_paper(threshold):
    """(L - mean) / std > threshold, pixel by pixel, with the standard deviation of all pixels."""
    found = Threshold(threshold)(MAPS)
    assert found.dtype == torch.bool
    for image, weights in zip(MAPS.flatten(1).tolist(), found.flatten(1).tolist(), strict=True):
        mean = sum(image) / len(image)
        deviation = (sum((value - mean) ** 2 for value in image) / len(image)) ** 0.5
        assert weights == [(value - mean) / deviation > threshold for value in image]
    assert torch.equal(Threshold()(MAPS), Threshold(1.0)(MAPS))


def test_a_pixel_at_the_threshold_is_not_above_it():
    """Half zeros and half ones: mean and deviation 1/2, so that w = 1 where the map is 1."""
    maps = torch.tensor([0.0, 1.0, 1.0, 0.0]).reshape(1, 1, 2, 2)
    assert not Threshold(1.0)(maps).any()
    assert torch.equal(Threshold(0.99)(maps), maps == 1)


@pytest.mark.parametrize(("share", "count"), [(0.25, 10), (0.01, 1), (1e-6, 1), (1, 42), (0.5, 21)])
def test_top_share_takes_as_many_pixels_of_every_image(share, count):
    found = TopShare(share)(MAPS)
    assert found.dtype == torch.bool
    assert found.shape == MAPS.shape
    for image, weights in zip(MAPS.flatten(1), found.flatten(1), strict=True):
        assert weights.nonzero().flatten().tolist() == sorted(sorted(range(42), key=lambda i: -image[i])[:count])


def test_soft_is_the_map():
    assert torch.equal(Soft()(MAPS), MAPS)


def test_reprs():
    assert [repr(rule) for rule in (Threshold(1.0), Threshold(-0.25), TopShare(0.2), Soft())] == [
        "Threshold(1)",
        "Threshold(-0.25)",
        "TopShare(0.2)",
        "Soft()",
    ]


def test_maps_without_signal_weigh_one_whatever_the_rule_makes_of_them():
    maps = MAPS.clone()
    maps[1] = 0
    assert without_signal(maps).flatten().tolist() == [False, True, False, False, False]

    def standardised(maps):
        return ((maps - maps.mean((1, 2, 3), keepdim=True)) / maps.std((1, 2, 3), keepdim=True)).sigmoid()

    for rule in (
        Threshold(),
        TopShare(0.1),
        Soft(),
        standardised,
        lambda maps: torch.full_like(maps, 0.5),
    ):
        weights, silent = weights_of(rule, maps)
        assert silent.flatten().tolist() == [False, True, False, False, False]
        assert (weights[1] == 1).all()
        rows = [0, 2, 3, 4]
        assert torch.equal(weights[rows], rule(maps)[rows])


def test_weights_may_be_the_same_everywhere():
    weights, silent = weights_of(lambda maps: torch.full_like(maps, 0.5), MAPS)
    assert (weights == 0.5).all()
    assert not silent.any()


def test_an_image_without_an_important_pixel_keeps_eps():
    """On a map of as many ones as zeros no pixel is more than a standard deviation above the mean."""
    maps = MAPS.clone()
    maps[2] = 0
    maps[2, :, :3] = 1
    weights, silent = weights_of(Threshold(), maps)
    assert not Threshold()(maps)[2].any()
    assert silent.flatten().tolist() == [False, False, True, False, False]
    assert weights.dtype == torch.bool
    assert weights[2].all()
    assert torch.equal(weights[[0, 1, 3, 4]], Threshold()(maps)[[0, 1, 3, 4]])
    weights, silent = weights_of(lambda maps: 0 * maps, MAPS)
    assert silent.all()
    assert (weights == 1).all()


def test_weights_of_our_own_rules_are_not_looked_at(monkeypatch):
    """A GPU would have to be waited for."""

    def forbidden(*args, **kwargs):
        raise AssertionError("looked at the weights")

    monkeypatch.setattr(torch, "aminmax", forbidden)
    for rule in (Threshold(), TopShare(0.2), Soft()):
        weights_of(rule, MAPS)
    with pytest.raises(AssertionError, match="looked"):
        weights_of(lambda maps: maps, MAPS)


def test_weights_of_a_rule_with_a_gradient_are_detached():
    scale = torch.ones((), requires_grad=True, dtype=torch.float64)
    assert not weights_of(lambda maps: scale * maps, MAPS)[0].requires_grad


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (
            lambda maps: maps + 1,
            f"returned weights from {1 + float(MAPS.min()):g} to {1 + float(MAPS.max()):g}; they must be in [0, 1]",
        ),
        (
            lambda maps: maps - maps.max(),
            f"returned weights from {float((MAPS - MAPS.max()).min()):g} to 0; they must be in [0, 1]",
        ),
        (lambda maps: maps * torch.nan, "returned weights from nan to nan; they must be in [0, 1]"),
        (lambda maps: maps[:, 0], "returned (5, 6, 7); weights of shape (5, 1, 6, 7) are needed"),
        (lambda maps: maps.numpy(), "returned ndarray; weights of shape (5, 1, 6, 7) are needed"),
    ],
)
def test_weights_that_are_none(returns, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'rule=<<lambda>> {message}')}$"):
        weights_of(returns, MAPS)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Threshold(float("nan")), ValueError, "threshold=nan is not allowed; it must be finite"),
        (lambda: Threshold(float("inf")), ValueError, "threshold=inf is not allowed; it must be finite"),
        (lambda: Threshold("1"), TypeError, "threshold='1' is a str; a number is needed"),
        (lambda: TopShare(0), ValueError, "share=0 is not allowed; it must be > 0 and <= 1"),
        (lambda: TopShare(1.5), ValueError, "share=1.5 is not allowed; it must be > 0 and <= 1"),
        (
            lambda: check_rule(0.5),
            TypeError,
            "rule=0.5 is a float; a function of maps is needed, such as Threshold(1.0)",
        ),
        (
            lambda: check_rule(Threshold),
            TypeError,
            f"rule={Threshold!r} is a type; a function of maps is needed, such as Threshold(1.0)",
        ),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make()
