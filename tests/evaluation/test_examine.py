"""Models that no accuracy is true of, and the card of what was evaluated."""

from importlib import metadata

import numpy as np
import pytest
import torch
from evaluation.conftest import EPS
from torch import nn

from part_plugin import evaluate
from part_plugin.evaluation.attack_result import AttackResult
from part_plugin.evaluation.common import digest, fingerprint
from part_plugin.evaluation.examine import card_of, examine, guessing


class Wrapped(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net = net
        self.change = change

    def forward(self, x):
        return self.change(self.net(x))


PROBABILITIES = "the model's output is a probability distribution; attacks need the logits"
RANDOM = "the model's logits change from call to call, as in a randomised defence"
BATCH = "the model's logits of an image depend on the other images of the batch"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z.softmax(1), PROBABILITIES),
        (lambda z: z + torch.randn_like(z), RANDOM),
        (lambda z: z + 0.1 * torch.rand(()) * (torch.arange(len(z)) == 7)[:, None] * z.abs().max(), RANDOM),
        (lambda z: z - z.mean(0), BATCH),
        (lambda z: z + 0.1 * z.abs().max() * (len(z) == 1), BATCH),
    ],
)
def test_models_that_no_accuracy_is_true_of_are_refused(narrow_net, held_out, change, message):
    torch.manual_seed(0)
    net = Wrapped(narrow_net, change)
    with pytest.raises(ValueError, match=rf"^{message} \(strict=False evaluates it all the same\)$"):
        evaluate(net, *held_out, attacks=["natural"], verbose=False)
    lenient = evaluate(net, *held_out, attacks=["natural"], verbose=False, strict=False)
    assert lenient.warnings == [message]
    assert f"warning: {message}" in str(lenient)
    assert f"Warning: {message}" in lenient.markdown()


def test_everything_that_is_wrong_is_told(narrow_net, held_out):
    net = Wrapped(narrow_net, lambda z: (z + torch.randn_like(z)).softmax(1))
    lenient = evaluate(net, *held_out, attacks=["natural"], verbose=False, strict=False)
    assert lenient.warnings == [RANDOM, PROBABILITIES]
    with pytest.raises(ValueError, match=f"^{RANDOM}"):
        evaluate(net, *held_out, attacks=["natural"], verbose=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda z: z,
        lambda z: z.relu(),  # none is negative, and their sum is not 1
        lambda z: z.log_softmax(1),
        lambda z: z - z.sum(1, keepdim=True) / 10 + 0.1,  # their sum is 1, and some are negative
        lambda z: z + 1e-4 * torch.rand_like(z),  # as between kernels of a GPU
    ],
)
def test_other_models_are_not(narrow_net, held_out, change):
    assert examine(Wrapped(narrow_net, change), held_out[0][:8], held_out[1], True) == []


@pytest.mark.parametrize("change", [lambda z: z / 0, lambda z: z.index_fill(1, torch.tensor(3), torch.inf)])
def test_logits_that_are_not_finite_are_refused(narrow_net, held_out, change):
    with pytest.raises(ValueError, match=r"^the model's logits are not finite on the first images$"):
        evaluate(Wrapped(narrow_net, change), *held_out, attacks=["natural"], verbose=False, strict=False)


def test_labels_without_a_logit(narrow_net, held_out):
    with pytest.raises(ValueError, match=r"^labels contain class 10; allowed is 0 to 9$"):
        examine(narrow_net, held_out[0][:8], held_out[1].clamp(max=10).index_fill(0, torch.tensor(63), 10), False)


def test_the_card_tells_what_was_evaluated(narrow_net, held_out):
    x, y = held_out
    card = card_of(narrow_net, x, y, ["natural", "pgd20"], EPS, 3, 50)
    assert {name: value for name, value in card.items() if name != "versions"} == {
        "weights": fingerprint(narrow_net),
        "data": digest([x, y]),
        "n": 64,
        "eps": EPS,
        "norm": "Linf",
        "seed": 3,
        "batch_size": 50,
        "attacks": ["natural", "pgd20"],
    }
    names = ["part_plugin", "torch", "pyautoattack", "torchattacks", "adversarial-robustness-toolbox"]
    assert list(card["versions"]) == names
    assert card["versions"]["torch"] == metadata.version("torch")
    assert card["versions"]["torchattacks"] == metadata.version("torchattacks")


def test_a_package_that_is_missing_has_no_version(narrow_net, held_out, monkeypatch):
    def version(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", version)
    assert set(card_of(narrow_net, *held_out, [], EPS, 0, 1)["versions"].values()) == {None}


class Never(nn.Module):
    def forward(self, x):
        raise AssertionError("no need to look")


def of(right, n):
    return AttackResult("natural", np.arange(n) < right, 0.0)


@pytest.mark.parametrize(("classes", "right", "n", "warned"), [
    (10, 10, 100, True), (10, 15, 100, True), (10, 20, 100, False), (10, 0, 100, True), (10, 3, 3, False),
    (2, 50, 100, True), (2, 59, 100, True), (2, 61, 100, False), (1000, 2, 1000, True), (1000, 20, 1000, False),
])  # fmt: skip
def test_accuracies_that_guesses_have_are_told(classes, right, n, warned):
    """Where one of so many classes is not below the interval of 95 %."""
    natural = of(right, n)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, classes))
    said = guessing(model, torch.rand(2, 3, 1, 1), natural)
    assert bool(said) == warned == (natural.interval[0] <= 1 / classes)
    if warned:
        [sentence] = said
        assert sentence.startswith(f"the natural accuracy of {right / n:.1%} on {n} images is not told from guessing ")
        assert f"among {classes} classes" in sentence


def test_a_network_that_is_right_is_not_asked_again():
    assert guessing(Never(), torch.rand(2, 3, 1, 1), None) == []
    assert guessing(Never(), torch.rand(2, 3, 1, 1), of(95, 100)) == []


def test_an_evaluation_warns_of_guesses(narrow_net, held_out):
    x, y = held_out
    wrong = evaluate(narrow_net, x, (y + 1) % 10, EPS, ["natural"], verbose=False)
    assert [one.startswith("the natural accuracy of") for one in wrong.warnings] == [True]
    assert evaluate(narrow_net, x, y, EPS, ["natural"], verbose=False).warnings == []
