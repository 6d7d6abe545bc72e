"""AutoAttack: the flags of pyautoattack and RobustBench, interrupted, with few classes, and what it warns of."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
from conftest import assert_untouched, snapshot
from evaluation.conftest import EPS, narrow
from pyautoattack import AutoAttack as Reference
from torch import nn

from part_plugin import evaluate
from part_plugin.adapters.robustbench import benchmark
from part_plugin.evaluation import autoattack
from part_plugin.evaluation.common import progress
from part_plugin.evaluation.pieces import Alone, Pieces
from part_plugin.evaluation.state import State

ATTACKS = ["natural", "pgd20", "mma", "autoattack"]
OPTIONS = {"batch_size": 8, "seed": 0, "verbose": False}


@pytest.fixture(scope="module")
def few(_narrow_net, held_out):
    """Twelve samples, of which PGD fools six, so that those left fit one batch and no attack takes two."""
    survives = evaluate(_narrow_net, *held_out, EPS, ["pgd20"], verbose=False).results[0].correct
    rows = np.stack([np.flatnonzero(survives)[:6], np.flatnonzero(~survives)[:6]], 1).flatten()
    return held_out[0][rows], held_out[1][rows]


@pytest.fixture(scope="module")
def whole_state(tmp_path_factory):
    return tmp_path_factory.mktemp("state") / "whole.json"


@pytest.fixture(scope="module")
def whole(_narrow_net, few, whole_state):
    """Every attack on twelve samples, in one go."""
    return evaluate(_narrow_net, *few, EPS, ATTACKS, state=whole_state, **OPTIONS)


@pytest.fixture
def used_net(narrow_net, few):
    """The same network in the middle of a training loop: training, one layer frozen, gradients accumulated."""
    narrow_net.train()
    narrow_net[1].eval()
    narrow_net[0].weight.requires_grad_(False)
    nn.functional.cross_entropy(narrow_net(few[0]), few[1]).backward()
    return narrow_net


def test_autoattack_is_autoattack_and_robustbenchs(used_net, few, whole):
    """The same flags, sample by sample, as pyautoattack called directly, and the accuracies of RobustBench.

    RobustBench's run leaves nothing behind on the model, nor in the global random state, logging or tracing.
    """
    x, y = few
    before, state, numpy_state = snapshot(used_net), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    logger = logging.getLogger("auto-attack")
    settings = logger.level, logger.propagate, list(logger.handlers)
    old = sys.gettrace()
    sys.settrace(tracer)
    try:
        accuracies = benchmark(used_net, x, y, EPS, batch_size=8)
        kept = sys.gettrace()
    finally:
        sys.settrace(old)
    assert kept is tracer
    assert_untouched(used_net, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert (logger.level, logger.propagate, logger.handlers) == settings
    used_net.eval()
    direct = Reference(used_net, norm="Linf", eps=EPS, seed=0, version="standard", device="cpu")
    with torch.random.fork_rng():
        adv, _ = direct.run_standard_evaluation(x, y, batch_size=8)
    flags = (used_net(adv).argmax(1) == y).numpy()
    assert np.array_equal(whole["autoattack"].correct, flags)
    natural, pgd, mma, aa = (r.accuracy for r in whole.results)
    assert 0 < aa <= mma <= pgd < natural
    assert mma - aa <= 0.1  # one sample
    assert whole["worst case"].accuracy == aa
    assert accuracies == (pytest.approx(natural), pytest.approx(aa))


def tracer(*event):
    return None


def test_an_interrupted_autoattack_goes_on_and_leaves_nothing_behind(
    used_net, few, whole, whole_state, tmp_path, monkeypatch
):
    """Killed after some batches, it ends with the same flags and computes none of these batches again.

    The two attacks in the middle, which take longest, are taken from the whole run, as if the second run had been
    killed after them.
    """
    made = []
    piece = autoattack.AutoAttack.piece

    def dying(self, model, images, labels, attack):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(attack)
        return piece(self, model, images, labels, attack)

    before, rng, numpy_state = snapshot(used_net), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    logger = logging.getLogger("auto-attack")
    settings = logger.level, logger.propagate, list(logger.handlers)
    monkeypatch.setattr(autoattack.AutoAttack, "piece", dying)
    state = tmp_path / "state.json"
    old = sys.gettrace()
    sys.settrace(tracer)
    try:
        with pytest.raises(KeyboardInterrupt):
            evaluate(used_net, *few, EPS, ATTACKS, state=state, **OPTIONS)
        assert (logger.level, logger.propagate, logger.handlers) == settings
        assert made == ["apgd-ce", "apgd-ce"]
        content, kept_pieces = json.loads(state.read_text()), json.loads(whole_state.read_text())["pieces"]
        names = [f"autoattack/{attack}" for attack in ("apgd-ce/0", "apgd-ce/8", "apgd-t/0", "fab-t/0", "square/0")]
        assert [key for key in kept_pieces if key.startswith("autoattack/")] == names
        assert [content["pieces"][key]["correct"] for key in names[:2]] == [
            kept_pieces[key]["correct"] for key in names[:2]
        ]
        content["pieces"] |= {key: kept_pieces[key] for key in names[2:4]}
        del content["sha256"]  # as in the files of earlier versions
        state.write_text(json.dumps(content))
        made.clear()
        monkeypatch.setattr(autoattack.AutoAttack, "piece", lambda *a: made.append(a[-1]) or piece(*a))
        resumed = evaluate(used_net, *few, EPS, ATTACKS, state=state, **OPTIONS)
        kept = sys.gettrace()
    finally:
        sys.settrace(old)
    assert kept is tracer
    assert_untouched(used_net, before)
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert (logger.level, logger.propagate, logger.handlers) == settings
    assert resumed["autoattack"].accuracy > 0  # so that none of its attacks was left out
    for name in ATTACKS:
        assert np.array_equal(resumed[name].correct, whole[name].correct)
    assert made == ["square"]
    assert list(json.loads(state.read_text())["pieces"]) == [*kept_pieces]
    finished = evaluate(used_net, *few, EPS, ATTACKS, state=state, **OPTIONS)["autoattack"]
    assert len(made) == 1
    assert finished.to_dict() == resumed["autoattack"].to_dict()
    assert finished.settings == whole["autoattack"].settings
    assert finished.warnings == whole["autoattack"].warnings


def test_two_processes_find_what_one_does(narrow_net, few, whole, whole_state, tmp_path):
    """Of the two batches of its first attack each process gets one; the others are taken from the state of one."""
    state, content = tmp_path / "state.json", json.loads(whole_state.read_text())
    first = {key: content["pieces"].pop(key) for key in ("autoattack/apgd-ce/0", "autoattack/apgd-ce/8")}
    del content["sha256"]
    state.write_text(json.dumps(content))
    shared = evaluate(narrow_net, *few, EPS, ATTACKS, state=state, jobs=2, **OPTIONS)["autoattack"]
    assert shared.to_dict() | {"seconds": 0} == whole["autoattack"].to_dict() | {"seconds": 0}
    made = json.loads(state.read_text())["pieces"]
    assert all(made[key] | {"seconds": 0} == piece | {"seconds": 0} for key, piece in first.items())
    assert all(made[key]["seconds"] != piece["seconds"] for key, piece in first.items())


def test_a_batch_that_memory_is_too_small_for_goes_in_parts_and_says_so(narrow_net, few):
    class Small(nn.Module):
        def forward(self, x):
            if len(x) > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return narrow_net(x)

    attack, (x, y) = autoattack.AutoAttack(EPS, 0), (given[:6] for given in few)
    whole, parts = attack.piece(narrow_net, x, y, "apgd-ce"), attack.piece(Small(), x, y, "apgd-ce")
    assert whole["warnings"] == []
    assert parts["warnings"] == ["memory ran out for 6 images at once; the random draws of a part are its own"]
    halves = [attack.piece(narrow_net, x[rows], y[rows], "apgd-ce")["correct"] for rows in (slice(3), slice(3, 6))]
    assert parts["correct"] == "".join(halves)


def test_it_says_what_is_left(whole):
    result = whole["autoattack"]
    assert (result.name, result.eps, result.eps_low) == ("autoattack", EPS, EPS)
    assert result.settings.startswith(f"standard, left after clean: {whole['natural'].accuracy:.2%}, apgd-ce: ")
    assert result.settings.endswith(f", square: {result.accuracy:.2%}")
    assert 1 < result.seconds < 600
    assert result.warnings == []


def test_warnings_of_autoattack_are_part_of_the_result(digits, caplog):
    """Of a network that gives no gradient, where only Square gets through."""
    torch.manual_seed(0)
    net, x = narrow(4).eval(), digits[0][:8]
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)  # so that no class is its favourite

    class Coarse(nn.Module):
        def forward(self, x):
            return net((15 * x).round() / 15)

    with torch.no_grad():
        y = Coarse()(x).argmax(1)
    result = evaluate(Coarse(), x, y, 0.3, ["autoattack"], verbose=False)["autoattack"]
    assert any("points with zero gradient" in warning for warning in result.warnings)
    assert any("Square Attack has decreased the robust accuracy" in warning for warning in result.warnings)
    assert len(set(result.warnings)) == len(result.warnings)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("num_classes", "attacks", "targets"),
    [
        (2, "apgd-ce, fab-t, square", 1),
        (3, "apgd-ce, apgd-dlr, fab-t, square", 2),
        (4, "apgd-ce, apgd-t, fab-t, square", 3),
    ],
)
def test_few_classes(digits, num_classes, attacks, targets):
    """Attacks whose loss needs more classes are left out, and the result says so."""
    torch.manual_seed(0)
    net = narrow(num_classes).eval()
    x = digits[0][:1]
    with torch.no_grad():
        y = net(x).argmax(1)
    result = evaluate(net, x, y, 0.001, ["autoattack"], verbose=False)["autoattack"]
    version, _, left = result.settings.partition(", left after ")
    assert [part.split(":")[0] for part in left.split(", ")] == ["clean", *attacks.split(", ")]
    assert version == ("standard" if num_classes == 4 else "reduced")
    reduced = [f"reduced AutoAttack ({attacks}), as the model has {num_classes} classes"] if num_classes < 4 else []
    assert [warning for warning in result.warnings if "gradient" not in warning] == reduced
    assert result.accuracy == 1  # so that all of them ran
    adversary = autoattack.AutoAttack(EPS, 0)._adversary(net, num_classes, torch.device("cpu"))
    assert adversary.fab.n_target_classes == adversary.apgd_targeted.n_target_classes == targets


@pytest.mark.parametrize(("num_classes", "targets"), [(8, 7), (10, 9), (11, 9), (1000, 9)])
def test_many_classes(narrow_net, num_classes, targets):
    assert autoattack.attacks_for(num_classes) == ("apgd-ce", "apgd-t", "fab-t", "square")
    adversary = autoattack.AutoAttack(EPS, 5)._adversary(narrow_net, num_classes, torch.device("cpu"))
    assert adversary.fab.n_target_classes == adversary.apgd_targeted.n_target_classes == targets
    assert (adversary.epsilon, adversary.norm, adversary.seed) == (EPS, "Linf", 5)


def test_one_class_is_refused(digits):
    with pytest.raises(ValueError, match=r"^autoattack needs at least 2 classes; the model has 1$"):
        evaluate(narrow(1).eval(), digits[0][:4], torch.zeros(4), 0.01, ["autoattack"], verbose=False)


def test_images_that_are_classified_otherwise_the_second_time(few):
    """A network that sees through the order of its batch, as AutoAttack's own bookkeeping would not."""

    class Ordered(nn.Module):
        def forward(self, x):
            return torch.eye(10)[torch.arange(len(x)) % 10] + 0 * x.sum()

    x, y = few[0], torch.arange(12) % 10
    hands = Alone()
    hands.start(Ordered(), x, {"n": 12, "batch_size": 12})
    with (
        progress(False, 12, "img") as bar,
        pytest.raises(
            RuntimeError,
            match=r"^autoattack's images are classified otherwise when they are looked at again: the model's logits "
            "depend on the batch or on chance$",
        ),
    ):
        autoattack.AutoAttack(EPS, 0).results(Ordered(), x, y, 12, Pieces(State(None, {}), hands), bar)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"^attacks holds 'autoattack', which is not installed: pip install pyautoattack$"
    ):
        autoattack.AutoAttack(EPS, 0)
