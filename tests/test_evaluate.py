import logging
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torchattacks
from conftest import SmallNet, assert_untouched, snapshot
from pyautoattack import AutoAttack
from torch import nn

from part_plugin import evaluate

EPS = 0.1


@pytest.fixture
def held_out(digits):
    return digits[0][1400:1464], digits[1][1400:1464]


def accuracy(model, x, y):
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def test_natural_and_pgd_agree_with_torchattacks(digits_net, digits):
    x, y = digits[0][1400:], digits[1][1400:]
    result = evaluate(digits_net, x, y, eps=0.05, attacks=("natural", "pgd20"), verbose=False)
    assert result["natural"].accuracy == pytest.approx(accuracy(digits_net, x, y))
    torch.manual_seed(0)
    adv = torchattacks.PGD(digits_net, eps=0.05, alpha=0.05 / 4, steps=20)(x, y)
    assert result["pgd20"].accuracy == pytest.approx(accuracy(digits_net, adv, y), abs=0.02)
    assert 0.1 < result["pgd20"].accuracy < result["natural"].accuracy - 0.1


def test_autoattack_is_autoattack(digits_net, held_out):
    """The same flags, sample by sample, as pyautoattack called directly with the same seed."""
    x, y = held_out
    result = evaluate(digits_net, x, y, eps=0.03, attacks=("natural", "pgd20", "autoattack"), seed=3, verbose=False)
    direct = AutoAttack(digits_net, norm="Linf", eps=0.03, seed=3, version="standard", device="cpu")
    with torch.random.fork_rng():
        adv, _ = direct.run_standard_evaluation(x, y, batch_size=128)
    flags = (digits_net(adv).argmax(1) == y).numpy()
    assert np.array_equal(result["autoattack"].correct, flags)
    natural, pgd, autoattack = (r.accuracy for r in result.results)
    assert 0 < autoattack <= pgd < natural


def test_intervals_are_wilsons(digits_net, held_out):
    result = evaluate(digits_net, *held_out, attacks=["natural"], verbose=False)["natural"]
    n, p, z = 64, result.accuracy, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert result.interval == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_the_result_can_be_read_and_tabled(digits_net, held_out):
    result = evaluate(digits_net, *held_out, eps=8 / 255, attacks=("natural", "pgd3"), name="mine", verbose=False)
    text = str(result)
    assert "mine: 64 samples, l_inf eps = 0.031373 (8/255), seed 0" in text
    assert "pgd3" in text
    assert "95 % interval" in text
    table = pd.DataFrame([result.row(), result.row()])
    assert {"model", "eps", "n", "natural", "natural_low", "pgd3_high", "pgd3_seconds"} <= set(table.columns)
    with pytest.raises(KeyError, match="'autoattack' was not evaluated"):
        result["autoattack"]


def test_input_formats(digits_net, held_out):
    x, y = held_out
    expected = evaluate(digits_net, x, y, attacks=["pgd2"], verbose=False)["pgd2"].correct
    for labels in (y.numpy(), y[:, None], nn.functional.one_hot(y, 10)):
        again = evaluate(digits_net, x.numpy(), labels, attacks=["pgd2"], batch_size=64, verbose=False)["pgd2"]
        assert np.array_equal(again.correct, expected)


def test_nothing_is_left_behind(lived_in, held_out):
    """Neither on the model nor in the global random state, logging or tracing."""
    before, state, numpy_state = snapshot(lived_in), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    logger = logging.getLogger("auto-attack")
    settings = logger.level, logger.propagate, list(logger.handlers)
    traced = []

    def tracer(*event):
        traced.append(event[1])

    old = sys.gettrace()
    sys.settrace(tracer)
    try:
        evaluate(lived_in, held_out[0][:4], held_out[1][:4], eps=EPS, verbose=False)
        kept = sys.gettrace()
    finally:
        sys.settrace(old)
    assert kept is tracer
    assert_untouched(lived_in, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert (logger.level, logger.propagate, logger.handlers) == settings


def test_inference_mode(digits_net, held_out):
    expected = evaluate(digits_net, *held_out, attacks=["pgd3"], verbose=False)["pgd3"].correct
    with torch.inference_mode():
        x, y = held_out[0] * 1, held_out[1] * 1
        assert np.array_equal(evaluate(digits_net, x, y, attacks=["pgd3"], verbose=False)["pgd3"].correct, expected)


def test_warnings_of_autoattack_are_part_of_the_result(digits_net, held_out):
    class Softmax(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x).softmax(1)

    result = evaluate(Softmax(digits_net), held_out[0][:4], held_out[1][:4], attacks=["autoattack"], verbose=False)
    assert any("probability distribution" in warning for warning in result["autoattack"].warnings)
    assert "warning: it seems that the output is a probability distribution" in str(result)


def test_fewer_classes_than_autoattack_aims_at(held_out):
    torch.manual_seed(0)
    net = SmallNet(num_classes=5).eval()
    x, y = held_out[0][:3], torch.tensor([0, 1, 2])
    result = evaluate(net, x, y, attacks=["autoattack"], verbose=False)["autoattack"]
    assert result.accuracy <= accuracy(net, x, y)
    with pytest.raises(ValueError, match="autoattack needs at least 4 classes for its DLR loss; the model has 3"):
        evaluate(SmallNet(num_classes=3), x, y, attacks=["autoattack"], verbose=False)


def test_eps_zero_changes_nothing(digits_net, held_out):
    result = evaluate(digits_net, *held_out, eps=0, attacks=("natural", "pgd3"), verbose=False)
    assert result["pgd3"].accuracy == result["natural"].accuracy


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attacks": ("pgd",)}, ValueError, "attacks holds 'pgd'; choose from 'natural', 'pgd' with a number of steps"),
        ({"attacks": ("pixelpgd20",)}, ValueError, "attacks holds 'pixelpgd20'"),
        ({"attacks": ()}, ValueError, "attacks is empty"),
        ({"eps": -1}, ValueError, "eps=-1 is not allowed; it must be >= 0"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed; it must be >= 1"),
        ({"x": lambda x: 255 * x}, ValueError, r"images span \[0, 255\]; allowed is \[0, 1\]"),
        ({"x": lambda x: (255 * x).byte()}, TypeError, "images are torch.uint8"),
        ({"x": lambda x: x[:0]}, ValueError, r"images have shape \(0, 1, 8, 8\)"),
        ({"y": lambda y: y[:3]}, ValueError, r"labels have shape \(3,\); expected \(64,\)"),
        ({"y": lambda y: y + 5}, ValueError, r"labels contain class 1\d; allowed is 0 to 9"),
    ],
)
def test_wrong_arguments(digits_net, held_out, options, error, message):
    x = options.pop("x", lambda x: x)(held_out[0])
    y = options.pop("y", lambda y: y)(held_out[1])
    with pytest.raises(error, match=message):
        evaluate(digits_net, x, y, **({"verbose": False} | options))
