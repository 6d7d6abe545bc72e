"""One call, one model: what goes in, what comes out, what is left behind, what is refused."""

import inspect
import os
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import assert_untouched, snapshot
from evaluation.conftest import EPS
from torch import nn

from part_plugin import PixelBudget, evaluate
from part_plugin.evaluation import SUITES, Evaluation, corruption_accuracy, gradient_checks, merged
from part_plugin.evaluation.attacks import KNOWN
from part_plugin.evaluation.evaluate import ATTACKS


def test_the_result_can_be_read_and_tabled(narrow_net, held_out):
    result = evaluate(narrow_net, *held_out, eps=8 / 255, attacks=("natural", "pgd3"), name="mine", verbose=False)
    text = str(result)
    assert "mine: 64 samples, l_inf eps = 8/255 (0.03137), seed 0" in text
    assert "pgd3" in text
    assert "95 % interval" in text
    assert {"model", "eps", "n", "natural", "natural_low", "pgd3_high", "pgd3_seconds"} <= set(result.row().index)
    with pytest.raises(KeyError, match="'autoattack' was not evaluated"):
        result["autoattack"]
    assert evaluate(narrow_net, *held_out, attacks=["natural"], verbose=False).model == "Sequential"


def test_saved_and_loaded(narrow_net, held_out, tmp_path):
    result = evaluate(narrow_net, *held_out, EPS, ["natural", "pgd3"], seed=2, name="mine", verbose=False)
    result.save(tmp_path / "mine")
    loaded = Evaluation.load(tmp_path / "mine.json")
    assert str(loaded) == str(result)
    assert loaded.markdown() == result.markdown()
    assert loaded.card == result.card
    assert (loaded.seed, loaded.labels.tolist()) == (2, held_out[1].tolist())
    y = held_out[1].numpy()
    for label in range(10):
        assert loaded.per_class()["pgd3"][label] == pytest.approx(result["pgd3"].correct[y == label].mean())
    result.save(tmp_path / "mine")  # the same again
    other = evaluate(narrow_net, *held_out, 0.05, ["natural"], verbose=False)
    with pytest.raises(FileExistsError, match="holds another evaluation"):
        other.save(tmp_path / "mine")


def test_input_formats(narrow_net, held_out):
    x, y = held_out
    expected = evaluate(narrow_net, x, y, attacks=["pgd2"], verbose=False)["pgd2"].correct
    for labels in (y.numpy(), y[:, None], nn.functional.one_hot(y, 10)):
        other = evaluate(narrow_net, x.numpy(), labels, attacks=["pgd2"], batch_size=64, verbose=False)["pgd2"]
        assert np.array_equal(other.correct, expected)


def test_nothing_is_left_behind(lived_in, held_out):
    """Neither on the model nor in the images or the global random state."""
    x, y = held_out[0].clone().requires_grad_(), held_out[1].clone()
    before, state, numpy_state = snapshot(lived_in), torch.random.get_rng_state(), np.random.get_state()[1].copy()
    evaluate(lived_in, x, y, EPS, ["natural", "pgd2", "mma2", "adaptive_pgd2"], verbose=False)
    assert_untouched(lived_in, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(x, held_out[0])
    assert x.grad is None
    assert torch.equal(y, held_out[1])


def test_inference_mode(narrow_net, held_out):
    expected = evaluate(narrow_net, *held_out, attacks=["pgd3"], verbose=False)["pgd3"].correct
    with torch.inference_mode():
        x, y = held_out[0] * 1, held_out[1] * 1
        assert np.array_equal(evaluate(narrow_net, x, y, attacks=["pgd3"], verbose=False)["pgd3"].correct, expected)


def test_nothing_is_printed_where_there_is_no_terminal(narrow_net, held_out, capsys):
    evaluate(narrow_net, *held_out, EPS, ["natural", "pgd2", "mma2"])
    assert capsys.readouterr() == ("", "")


def test_a_state_is_bound_to_what_it_is_true_of(narrow_net, other_net, held_out, tmp_path):
    x, y = held_out
    path = tmp_path / "state.json"
    options = {"attacks": ["natural"], "verbose": False, "state": path}
    evaluate(narrow_net, x, y, EPS, **options)
    kept = path.read_bytes()
    for what, call in {
        "weights": lambda: evaluate(other_net, x, y, EPS, **options),
        "eps": lambda: evaluate(narrow_net, x, y, 0.05, **options),
        "data": lambda: evaluate(narrow_net, x[:32], y[:32], EPS, **options),
        "seed": lambda: evaluate(narrow_net, x, y, EPS, seed=1, **options),
        "batch_size": lambda: evaluate(narrow_net, x, y, EPS, batch_size=7, **options),
    }.items():
        with pytest.raises(ValueError, match=f"belongs to another evaluation: its {what} is"):
            call()
    assert path.read_bytes() == kept
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged or not one of part_plugin's; delete it"):
        evaluate(narrow_net, x, y, EPS, **options)
    path.write_bytes(kept.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(ValueError, match="has format 9; this version of part_plugin reads 1"):
        evaluate(narrow_net, x, y, EPS, **options)


def test_an_interrupted_run_goes_on(narrow_net, held_out, tmp_path):
    """Killed in the middle, it ends with the same flags, and the network sees no finished batch again."""
    x, y = held_out
    options = {"attacks": ["natural", "pgd3", "mma3", "adaptive_pgd2"], "batch_size": 25, "verbose": False}
    whole = evaluate(narrow_net, x, y, EPS, **options)
    options["state"] = tmp_path / "state.json"
    calls = []

    def die(module, inputs):
        calls.append(len(inputs[0]))
        if len(calls) == 20:
            raise KeyboardInterrupt

    handle = narrow_net.register_forward_pre_hook(die)
    with pytest.raises(KeyboardInterrupt):
        evaluate(narrow_net, x, y, EPS, **options)
    handle.remove()
    resumed = evaluate(narrow_net, x, y, EPS, **options)
    assert all(np.array_equal(a.correct, b.correct) for a, b in zip(resumed.results, whole.results, strict=True))
    calls = []
    narrow_net.register_forward_pre_hook(lambda module, inputs: calls.append(len(inputs[0])))
    finished = evaluate(narrow_net, x, y, EPS, **options)
    assert calls == [1, 8, 8, 1]  # the looks at the model
    assert [row.to_dict() for row in finished.results] == [row.to_dict() for row in resumed.results]


def test_nothing_depends_on_batches_order_or_shards(narrow_net, held_out):
    x, y = held_out
    names = ["natural", "pgd4", "mma4", "adaptive_pgd3"]
    whole = evaluate(narrow_net, x, y, EPS, names, verbose=False)
    small = evaluate(narrow_net, x, y, EPS, names, batch_size=7, verbose=False)
    shards = [evaluate(narrow_net, x[a:b], y[a:b], EPS, names, verbose=False) for a, b in ((0, 23), (23, 64))]
    together = merged(shards)
    back = evaluate(narrow_net, x.flip(0), y.flip(0), EPS, names, verbose=False)
    for name in names:
        assert np.array_equal(small[name].correct, whole[name].correct)
        assert np.array_equal(together[name].correct, whole[name].correct)
        assert np.array_equal(back[name].correct[::-1], whole[name].correct)
    assert together.labels.tolist() == y.tolist()
    assert together.n == 64
    with pytest.raises(ValueError, match="shards hold the same samples twice"):
        merged([shards[0], shards[0]])
    with pytest.raises(ValueError, match=r"shards differ in eps: 0\.1 and 0\.05"):
        merged([shards[0], evaluate(narrow_net, x[:9], y[:9], 0.05, names, verbose=False)])


def test_a_seed_is_another_start(narrow_net, held_out):
    flags = [evaluate(narrow_net, *held_out, 0.3, ["pgd1"], seed=s, verbose=False)["pgd1"].correct for s in (0, 0, 1)]
    assert np.array_equal(flags[0], flags[1])
    assert not np.array_equal(flags[0], flags[2])


def test_a_fraction_as_radius(narrow_net, held_out):
    assert evaluate(narrow_net, *held_out, "8/255", ["natural"], verbose=False).eps == 8 / 255
    with pytest.warns(UserWarning, match=r"eps=0\.031 is not the usual radius 8/255 = 0\.03137") as caught:
        evaluate(narrow_net, *held_out, 0.031, ["natural"], verbose=False)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(narrow_net, *held_out, 0.1, ["natural"], verbose=False)


def test_defaults():
    parameters = inspect.signature(evaluate).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    assert defaults == {
        "y": None,
        "eps": 8 / 255,
        "attacks": ("natural", "pgd20", "autoattack"),
        "batch_size": 128,
        "seed": 0,
        "name": None,
        "verbose": True,
        "suite": None,
        "state": None,
        "adaptive": None,
        "surrogate": None,
        "corruptions_dir": None,
        "strict": True,
        "jobs": 1,
        "devices": 1,
        "ranks": False,
    }


def test_suites():
    assert SUITES["quick"] == ("natural", "pgd20")
    assert SUITES["standard"] == ("natural", "pgd20", "mma", "autoattack")
    suite = SUITES["paper"]
    assert len(set(suite)) == len(suite)
    steps = (20, 40, 60, 80, 100)
    assert {f"adaptive_{kind}{n}" for kind in ("pgd", "mma") for n in steps} <= set(suite)
    assert {"natural", "pgd20", "mma", "autoattack", "gradients", "corruptions"} <= set(suite)
    assert {f"pgd{n}" for n in (10, 40, 60, 80, 100)} <= set(suite)
    assert len(suite) == 21


def test_a_suite_is_its_attacks(narrow_net, held_out):
    quick = evaluate(narrow_net, *held_out, EPS, suite="quick", verbose=False)
    assert [row.name for row in quick.results] == ["natural", "pgd20"]
    assert quick.card["attacks"] == ["natural", "pgd20"]


def test_gradient_checks_are_a_part_of_it(narrow_net, other_net, held_out, tmp_path):
    x, y = held_out[0][:16], held_out[1][:16]
    options = {"batch_size": 9, "seed": 3, "verbose": False}
    state = tmp_path / "state.json"
    for surrogate in (other_net, narrow_net):  # one state, which knows which surrogate was given
        expected = gradient_checks(narrow_net, x, y, EPS, surrogate=surrogate, **options)
        for _ in range(2):
            result = evaluate(
                narrow_net, x, y, EPS, ["gradients", "natural"], surrogate=surrogate, state=state, **options
            )
            assert result.gradients == expected
            assert [row.name for row in result.results] == ["natural"]
            assert result.card["attacks"] == ["natural", "gradients"]
            assert str(expected) in str(result)
            assert result.corruptions is None
    assert evaluate(narrow_net, x, y, EPS, ["natural"], verbose=False).gradients is None


def test_corruptions_are_a_part_of_it(cifar_net, photos, tmp_path, monkeypatch):
    module = sys.modules["part_plugin.evaluation.evaluate"]
    few = {"corruptions": ["fog", "contrast"], "severities": [3]}
    monkeypatch.setattr(module, "corruption_accuracy", lambda *a, **k: corruption_accuracy(*a, **k, **few))
    y = torch.arange(8)
    options = {"batch_size": 3, "seed": 2, "verbose": False}
    expected = corruption_accuracy(cifar_net, photos, y, **options, **few)
    state = tmp_path / "state.json"
    for _ in range(2):
        result = evaluate(cifar_net, photos, y, EPS, ["natural", "corruptions"], state=state, **options)
        assert result.corruptions.to_dict() == expected.to_dict()
        assert [row.name for row in result.results] == ["natural"]
        assert result.card["attacks"] == ["natural", "corruptions"]
        assert str(expected) in str(result)
    with pytest.raises(FileNotFoundError, match="holds no CIFAR-10-C/labels.npy"):  # not what the state has
        evaluate(cifar_net, photos, y, EPS, ["corruptions"], corruptions_dir=tmp_path, state=state, **options)


class Untouchable(nn.Module):
    """A wrong argument is noticed before the model is called."""

    def forward(self, images):
        raise AssertionError("called")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model is a str; a torch.nn.Module is needed"),
        ({"surrogate": "net"}, TypeError, "surrogate is a str; a torch.nn.Module is needed"),
        ({"attacks": ("pgd",)}, ValueError, f"attacks holds 'pgd'; choose from {KNOWN}"),
        ({"attacks": ("pgd0",)}, ValueError, f"attacks holds 'pgd0'; choose from {KNOWN}"),
        ({"attacks": ("pgd5", "pgd5")}, ValueError, "attacks holds 'pgd5' twice"),
        ({"attacks": ("gradients", "gradients")}, ValueError, "attacks holds 'gradients' twice"),
        ({"attacks": (3,)}, TypeError, f"attacks holds a int; choose from {KNOWN}"),
        ({"attacks": ("pixelpgd20",)}, ValueError, f"attacks holds 'pixelpgd20'; choose from {KNOWN}"),
        ({"attacks": ()}, ValueError, f"attacks is empty; choose from {KNOWN}"),
        (
            {"attacks": "natural"},
            TypeError,
            "attacks='natural' is a str; a list is needed, such as ['natural', 'pgd20']",
        ),
        ({"attacks": 20}, TypeError, "attacks=20 is a int; a list is needed, such as ['natural', 'pgd20']"),
        (
            {"suite": "all", "attacks": ATTACKS},
            ValueError,
            "suite='all' is not known; choose from 'quick', 'standard', 'paper'",
        ),
        (
            {"suite": "", "attacks": ATTACKS},
            ValueError,
            "suite='' is not known; choose from 'quick', 'standard', 'paper'",
        ),
        (
            {"suite": "paper", "attacks": ATTACKS},
            ValueError,
            "images have shape (64, 1, 8, 8); (N, 3, H, W) with H and W >= 32 is needed",
        ),
        ({"adaptive": 0.2}, TypeError, "adaptive=0.2 is a float; a Budget such as PixelBudget is needed"),
        ({"eps": -1}, ValueError, "eps=-1 is not a radius; it must be in [0, 1], as a number or as in '8/255'"),
        ({"eps": 8}, ValueError, "eps=8 is not a radius; it must be in [0, 1], as a number or as in '8/255'"),
        ({"eps": 0, "attacks": ["gradients"]}, ValueError, "eps=0.0 is not allowed; it must be > 0"),
        ({"batch_size": 0}, ValueError, "batch_size=0 is not allowed; it must be >= 1"),
        ({"batch_size": 1.5}, TypeError, "batch_size=1.5 is a float; an integer is needed"),
        ({"seed": -1}, ValueError, "seed=-1 is not allowed; it must be >= 0"),
        ({"x": lambda x: 255 * x}, ValueError, "images span [0, 255]; allowed is [0, 1]; divide them by 255"),
        (
            {"x": lambda x: (255 * x).byte()},
            TypeError,
            "images are torch.uint8; a floating-point tensor is needed (uint8 / 255 for pictures)",
        ),
        ({"x": lambda x: x[:0]}, ValueError, "images have shape (0, 1, 8, 8); (N, C, H, W) with N >= 1 is needed"),
        ({"y": lambda y: y[:3]}, ValueError, "labels have shape (3,); expected (64,), (64, 1) or (64, K)"),
    ],
)
def test_wrong_arguments(held_out, tmp_path, options, error, message):
    options = {"attacks": ["natural", "pgd1"], "state": tmp_path / "state.json", "verbose": False} | options
    x, y = (options.pop(name, lambda given: given)(given) for name, given in zip("xy", held_out, strict=True))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        evaluate(options.pop("model", Untouchable()), x, y, **options)
    assert list(tmp_path.iterdir()) == []


def test_labels_out_of_range(narrow_net, held_out):
    with pytest.raises(ValueError, match=r"^labels contain class 14; allowed is 0 to 9$"):
        evaluate(narrow_net, held_out[0], held_out[1] + 5, verbose=False)


def test_no_work_is_lost_to_a_state_that_cannot_be_written(narrow_net, held_out, tmp_path):
    (tmp_path / "file").touch()
    calls = []
    narrow_net.register_forward_pre_hook(lambda *inputs: calls.append(1))
    with pytest.raises(NotADirectoryError, match="^state '.*' cannot be written: '.*/file' is not a directory$"):
        evaluate(narrow_net, *held_out, EPS, ["pgd5"], state=tmp_path / "file" / "state.json", verbose=False)
    assert calls == []
    budget = PixelBudget(0.2, 0.1)
    assert evaluate(narrow_net, *held_out, EPS, ["adaptive_pgd1"], adaptive=budget, verbose=False).results[0].eps == 0.2


def test_the_callers_network_is_never_touched(narrow_net, held_out):
    """Not even meanwhile: every forward pass is of a replica, also through DataParallel and an attack of a toolkit."""
    import torchattacks

    seen = []
    narrow_net.register_forward_pre_hook(lambda module, inputs: seen.append(module))
    narrow_net.train()
    attacks = ["natural", "pgd1", "adaptive_pgd1", torchattacks.PGD(narrow_net, EPS, EPS / 2, 1)]
    for model in (narrow_net, nn.DataParallel(narrow_net)):
        evaluate(model, *held_out, EPS, attacks, verbose=False)
    assert len(seen) > 10
    assert not any(module is narrow_net for module in seen)
    assert all(module.training for module in narrow_net.modules())


def test_an_equal_evaluation_at_once_is_refused(narrow_net, held_out, tmp_path):
    options = {"attacks": ["natural", "pgd2"], "state": tmp_path / "state.json", "verbose": False}
    said = []

    def again(module, inputs):
        if not said:
            with ThreadPoolExecutor(1) as pool:
                said.append(pool.submit(evaluate, narrow_net, *held_out, EPS, **options).exception())

    handle = narrow_net.register_forward_pre_hook(again)
    evaluate(narrow_net, *held_out, EPS, **options)
    handle.remove()
    assert type(said[0]) is BlockingIOError
    assert str(said[0]).startswith(f"state '{tmp_path}/state.json' is being written by process {os.getpid()} on ")
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def test_whoever_stops_it_is_told_where(narrow_net, held_out, tmp_path):
    def stop(module, inputs):
        if inputs[0].requires_grad:  # of an attack
            raise KeyboardInterrupt

    for state, onwards in ((tmp_path / "a.json", "evaluate again with the same arguments"), (None, "nothing is kept")):
        handle = narrow_net.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt, match=f"^stopped in pgd2 of mine; {onwards}"):
            evaluate(narrow_net, *held_out, EPS, ["natural", "pgd2"], name="mine", state=state, verbose=False)
        handle.remove()
