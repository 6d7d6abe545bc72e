import json
import logging
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import torchattacks
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from conftest import SmallNet, assert_untouched, snapshot
from pyautoattack import AutoAttack
from torch import nn

from part_plugin import MMA, PixelBudget, PixelPGD, evaluate
from part_plugin.adapters.robustbench import benchmark
from part_plugin.evaluation import SUITES, Evaluation, autoattack, compare
from part_plugin.plots import plot_tradeoff

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


def test_autoattack_is_autoattack_and_robustbenchs(robust_net, held_out):
    """The same flags, sample by sample, as pyautoattack called directly, and the accuracies of RobustBench."""
    x, y = held_out[0][:40], held_out[1][:40]
    result = evaluate(
        robust_net, x, y, EPS, ("natural", "pgd20", "mma", "autoattack"), batch_size=24, seed=0, verbose=False
    )
    direct = AutoAttack(robust_net, norm="Linf", eps=EPS, seed=0, version="standard", device="cpu")
    with torch.random.fork_rng():
        adv, _ = direct.run_standard_evaluation(x, y, batch_size=24)
    flags = (robust_net(adv).argmax(1) == y).numpy()
    assert np.array_equal(result["autoattack"].correct, flags)
    natural, pgd, mma, aa = (r.accuracy for r in result.results)
    assert 0 < aa <= mma <= pgd < natural
    assert mma - aa <= 0.05
    assert result["worst case"].accuracy == aa
    assert benchmark(robust_net, x, y, EPS, batch_size=24) == (pytest.approx(natural), pytest.approx(aa))


def test_intervals_are_wilsons(digits_net, held_out):
    result = evaluate(digits_net, *held_out, attacks=["natural"], verbose=False)["natural"]
    n, p, z = 64, result.accuracy, 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert result.interval == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_the_result_can_be_read_and_tabled(digits_net, held_out):
    result = evaluate(digits_net, *held_out, eps=8 / 255, attacks=("natural", "pgd3"), name="mine", verbose=False)
    text = str(result)
    assert "mine: 64 samples, l_inf eps = 8/255 (0.03137), seed 0" in text
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
        result = evaluate(lived_in, held_out[0][:4], held_out[1][:4], eps=0.01, verbose=False)
        benchmark(lived_in, held_out[0][:4], held_out[1][:4], eps=0.01)
        kept = sys.gettrace()
    finally:
        sys.settrace(old)
    assert kept is tracer
    assert result["autoattack"].accuracy > 0  # so that none of its attacks was left out
    assert_untouched(lived_in, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert (logger.level, logger.propagate, logger.handlers) == settings


def test_inference_mode(digits_net, held_out):
    expected = evaluate(digits_net, *held_out, attacks=["pgd3"], verbose=False)["pgd3"].correct
    with torch.inference_mode():
        x, y = held_out[0] * 1, held_out[1] * 1
        assert np.array_equal(evaluate(digits_net, x, y, attacks=["pgd3"], verbose=False)["pgd3"].correct, expected)


class Wrapped(nn.Module):
    def __init__(self, net, change):
        super().__init__()
        self.net = net
        self.change = change

    def forward(self, x):
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z.softmax(1), "the model's output is a probability distribution; attacks need the logits"),
        (lambda z: z + torch.randn_like(z), "the model's logits change from call to call, as in a randomised defence"),
        (lambda z: z - z.mean(0), "the model's logits of an image depend on the other images of the batch"),
    ],
)
def test_models_that_no_accuracy_is_true_of_are_refused(digits_net, held_out, change, message):
    net = Wrapped(digits_net, change)
    with pytest.raises(ValueError, match=message):
        evaluate(net, *held_out, attacks=["natural"], verbose=False)
    lenient = evaluate(net, *held_out, attacks=["natural"], verbose=False, strict=False)
    assert lenient.warnings == [message]
    assert f"warning: {message}" in str(lenient)
    assert f"Warning: {message}" in lenient.markdown()


def test_logits_that_are_not_finite_are_refused(digits_net, held_out):
    with pytest.raises(ValueError, match="the model's logits are not finite"):
        evaluate(Wrapped(digits_net, lambda z: z / 0), *held_out, attacks=["natural"], verbose=False, strict=False)


def test_warnings_of_autoattack_are_part_of_the_result(digits_net, held_out):
    """Of a network that gives no gradient, where only Square gets through."""

    class Coarse(nn.Module):
        def forward(self, x):
            return digits_net((15 * x).round() / 15)

    result = evaluate(Coarse(), held_out[0][:24], held_out[1][:24], EPS, ["autoattack"], verbose=False)["autoattack"]
    assert any("points with zero gradient" in warning for warning in result.warnings)
    assert any("Square Attack has decreased the robust accuracy" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("num_classes", "attacks"),
    [
        (2, "apgd-ce, fab-t, square"),
        (3, "apgd-ce, apgd-dlr, fab-t, square"),
        (4, "apgd-ce, apgd-t, fab-t, square"),
        (8, "apgd-ce, apgd-t, fab-t, square"),
    ],
)
def test_few_classes(digits, num_classes, attacks):
    """Attacks whose loss needs more classes are left out, and the result says so."""
    torch.manual_seed(0)
    net = SmallNet(num_classes=num_classes).eval()
    x = digits[0][:6]
    with torch.no_grad():
        y = net(x).argmax(1)
    result = evaluate(net, x, y, 0.01, ["autoattack"], verbose=False)["autoattack"]
    assert [part.split(":")[0] for part in result.settings.split("left after ")[1].split(", ")] == [
        "clean",
        *attacks.split(", "),
    ]
    reduced = [f"reduced AutoAttack ({attacks}), as the model has {num_classes} classes"] if num_classes < 4 else []
    assert [warning for warning in result.warnings if "gradient" not in warning] == reduced
    assert 0 <= result.accuracy <= 1


def test_one_class_is_refused(digits):
    with pytest.raises(ValueError, match="autoattack needs at least 2 classes; the model has 1"):
        evaluate(SmallNet(num_classes=1).eval(), digits[0][:4], torch.zeros(4), 0.01, ["autoattack"], verbose=False)


def test_an_interrupted_autoattack_goes_on(robust_net, held_out, tmp_path, monkeypatch):
    """Killed after some batches, it ends with the same flags and computes none of these batches again."""
    x, y = held_out[0][:20], held_out[1][:20]
    options = {"attacks": ["natural", "pgd5", "autoattack"], "batch_size": 10, "verbose": False}
    whole = evaluate(robust_net, x, y, EPS, **options)
    made = []
    piece = autoattack.AutoAttack._piece

    def dying(self, adversary, *arguments):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(adversary.attacks_to_run)
        return piece(self, adversary, *arguments)

    monkeypatch.setattr(autoattack.AutoAttack, "_piece", dying)
    state = tmp_path / "state.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(robust_net, x, y, EPS, state=state, **options)
    first = len(made)
    monkeypatch.setattr(autoattack.AutoAttack, "_piece", lambda *a: made.append(0) or piece(*a))
    resumed = evaluate(robust_net, x, y, EPS, state=state, **options)
    for name in ("natural", "pgd5", "autoattack"):
        assert np.array_equal(resumed[name].correct, whole[name].correct)
    pieces = [key for key in json.loads(state.read_text())["pieces"] if key.startswith("autoattack/")]
    assert first == 3
    assert len(made) == len(pieces) > 3
    again = evaluate(robust_net, x, y, EPS, state=state, **options)
    assert len(made) == len(pieces)
    assert np.array_equal(again["autoattack"].correct, whole["autoattack"].correct)


def test_a_state_is_bound_to_what_it_is_true_of(robust_net, digits_net, held_out, tmp_path):
    x, y = held_out
    path = tmp_path / "state.json"
    options = {"attacks": ["natural"], "verbose": False, "state": path}
    evaluate(robust_net, x, y, EPS, **options)
    kept = path.read_bytes()
    for what, call in {
        "weights": lambda: evaluate(digits_net, x, y, EPS, **options),
        "eps": lambda: evaluate(robust_net, x, y, 0.05, **options),
        "data": lambda: evaluate(robust_net, x[:32], y[:32], EPS, **options),
        "seed": lambda: evaluate(robust_net, x, y, EPS, seed=1, **options),
        "batch_size": lambda: evaluate(robust_net, x, y, EPS, batch_size=7, **options),
    }.items():
        with pytest.raises(ValueError, match=f"belongs to another evaluation: its {what} is"):
            call()
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged or not one of part_plugin's; delete it"):
        evaluate(robust_net, x, y, EPS, **options)
    path.write_bytes(kept.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(ValueError, match="has format 9; this version of part_plugin has 1"):
        evaluate(robust_net, x, y, EPS, **options)


def test_steps_share_a_run(robust_net, held_out):
    """Several numbers of steps in one run are those of as many runs."""
    names = [f"{kind}{steps}" for kind in ("pgd", "mma", "adaptive_pgd", "adaptive_mma") for steps in (2, 5, 9)]
    together = evaluate(robust_net, *held_out, EPS, names, verbose=False)
    for name in names:
        alone = evaluate(robust_net, *held_out, EPS, [name], verbose=False)[name]
        assert np.array_equal(together[name].correct, alone.correct), name
    assert [result.name for result in together.results] == names
    assert together["pgd9"].seconds > together["pgd2"].seconds


def test_the_adaptive_attack_has_the_larger_budget(robust_net, held_out):
    result = evaluate(robust_net, *held_out, EPS, ["pgd20", "adaptive_pgd20", "mma", "adaptive_mma"], verbose=False)
    assert result["adaptive_pgd20"].accuracy < result["pgd20"].accuracy
    assert result["adaptive_mma"].accuracy <= result["adaptive_pgd20"].accuracy
    assert (result["adaptive_pgd20"].eps, result["adaptive_pgd20"].eps_low) == (pytest.approx(0.15), EPS)
    assert not result.is_headline(result["adaptive_pgd20"])
    own = PixelBudget(0.3, 0.2)
    wider = evaluate(robust_net, *held_out, EPS, ["adaptive_pgd20"], adaptive=own, verbose=False)["adaptive_pgd20"]
    assert (wider.eps, wider.eps_low) == (0.3, 0.2)
    assert wider.accuracy < result["adaptive_pgd20"].accuracy


def test_nothing_depends_on_batches_order_or_shards(robust_net, held_out):
    x, y = held_out
    names = ["natural", "pgd4", "mma4", "adaptive_pgd3"]
    whole = evaluate(robust_net, x, y, EPS, names, verbose=False)
    small = evaluate(robust_net, x, y, EPS, names, batch_size=7, verbose=False)
    shards = [evaluate(robust_net, x[a:b], y[a:b], EPS, names, verbose=False) for a, b in ((0, 23), (23, 64))]
    merged = Evaluation.merged(shards)
    back = evaluate(robust_net, x.flip(0), y.flip(0), EPS, names, verbose=False)
    for name in names:
        assert np.array_equal(small[name].correct, whole[name].correct)
        assert np.array_equal(merged[name].correct, whole[name].correct)
        assert np.array_equal(back[name].correct[::-1], whole[name].correct)
    assert merged.n == 64
    with pytest.raises(ValueError, match="shards hold the same samples twice"):
        Evaluation.merged([shards[0], shards[0]])
    with pytest.raises(ValueError, match=r"shards differ in eps: 0\.1 and 0\.05"):
        Evaluation.merged([shards[0], evaluate(robust_net, x[:9], y[:9], 0.05, names, verbose=False)])


def test_a_seed_is_another_start(robust_net, held_out):
    x = held_out[0]
    zero = torch.zeros_like(x)
    starts = [autoattack_start(zero, seed) for seed in (0, 0, 1)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def autoattack_start(images, seed):
    from part_plugin.evaluation.common import random_start

    return random_start(images, torch.full_like(images, 0.5), seed)


def test_attacks_of_the_toolkits(robust_net, held_out):
    x, y = held_out
    classifier = PyTorchClassifier(robust_net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1))
    entries = [
        "pgd7",
        torchattacks.PGD(robust_net, eps=EPS, alpha=EPS / 4, steps=7),
        torchattacks.PGDL2(robust_net, eps=1.0),
        ProjectedGradientDescent(classifier, eps=EPS, eps_step=EPS / 4, max_iter=7, num_random_init=1, verbose=False),
        FastGradientMethod(classifier, eps=EPS),
        MMA(robust_net, eps=EPS, alpha=EPS / 4, steps=7),
        PixelPGD(robust_net, eps=EPS, eps_low=EPS / 2, alpha=EPS / 4),
        torchattacks.PGD(robust_net, eps=EPS, alpha=EPS / 4, steps=1),
    ]
    before = snapshot(robust_net)
    result = evaluate(robust_net, x, y, EPS, entries, verbose=False)
    assert_untouched(robust_net, before)
    names = ["pgd7", "PGD", "PGDL2", "ProjectedGradientDescent", "FastGradientMethod", "MMA", "PixelPGD"]
    assert [r.name for r in result.results[:7]] == names
    assert result.results[7].name.startswith("PGD ")
    assert result["PGD"].accuracy == pytest.approx(result["pgd7"].accuracy, abs=0.04)
    assert result["ProjectedGradientDescent"].accuracy == pytest.approx(result["pgd7"].accuracy, abs=0.04)
    assert result["MMA"].accuracy <= result["pgd7"].accuracy
    headline = {r.name: result.is_headline(r) for r in result.results[:7]}
    assert headline == dict.fromkeys(names, True) | {"PGDL2": False, "PixelPGD": False}
    adv = torchattacks.FGSM(robust_net, eps=EPS)(x, y)
    assert result["FastGradientMethod"].accuracy == pytest.approx(accuracy(robust_net, adv, y))
    counted = np.logical_and.reduce([r.correct for r in result.results if result.is_headline(r)])
    assert np.array_equal(result["worst case"].correct, counted)


def test_an_art_attack_in_other_units(robust_net, held_out):
    x, y = held_out
    net = nn.Sequential(Scale(), robust_net)
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 255))
    attack = FastGradientMethod(classifier, eps=255 * EPS)
    result = evaluate(robust_net, x, y, EPS, [attack], verbose=False)["FastGradientMethod"]
    adv = torchattacks.FGSM(robust_net, eps=EPS)(x, y)
    assert result.eps == pytest.approx(EPS)
    assert result.accuracy == pytest.approx(accuracy(robust_net, adv, y), abs=0.02)


class Scale(nn.Module):
    def forward(self, x):
        return x / 255


def test_an_attack_on_another_network_is_a_transfer(robust_net, digits_net, held_out):
    digits_net.train()
    before = snapshot(digits_net)
    attack = torchattacks.PGD(digits_net, eps=EPS, alpha=EPS / 4, steps=10)
    result = evaluate(robust_net, *held_out, EPS, ["pgd10", attack], verbose=False)
    assert result["PGD"].accuracy > result["pgd10"].accuracy
    assert_untouched(digits_net, before)


def test_pixel_ag_is_never_the_only_evidence(robust_net, held_out):
    weak = PixelPGD(robust_net, eps=EPS, eps_low=EPS / 2)
    for attacks in ([weak], ["natural", weak]):
        with pytest.raises(ValueError, match=r"holds PixelPGD with eps_low < eps=0\.1 as the only evidence"):
            evaluate(robust_net, *held_out, EPS, attacks, verbose=False)
    result = evaluate(robust_net, *held_out, EPS, ["pgd10", weak], verbose=False)
    assert result["worst case"].accuracy == pytest.approx((result["pgd10"].correct & True).mean())


def test_a_batch_that_does_not_fit_is_halved(robust_net, held_out):
    class Small(nn.Module):
        largest = 0

        def __init__(self):
            super().__init__()
            self.net = robust_net

        def forward(self, x):
            if len(x) > 20:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            Small.largest = max(Small.largest, len(x))
            return self.net(x)

    names = ["natural", "pgd3", "mma3"]
    expected = evaluate(robust_net, *held_out, EPS, names, verbose=False)
    result = evaluate(Small(), *held_out, EPS, names, batch_size=64, verbose=False)
    assert all(np.array_equal(result[name].correct, expected[name].correct) for name in names)
    assert 8 <= Small.largest <= 20


def test_saved_and_loaded(robust_net, held_out, tmp_path):
    result = evaluate(robust_net, *held_out, EPS, ["natural", "pgd3", "gradients"], name="mine", verbose=False)
    result.save(tmp_path / "results" / "mine")
    loaded = Evaluation.load(tmp_path / "results" / "mine.json")
    assert str(loaded) == str(result)
    assert loaded.markdown() == result.markdown()
    table = pd.read_csv(tmp_path / "results" / "mine.csv")
    assert list(table["attack"]) == ["natural", "pgd3", "worst case"]
    assert table["accuracy"].tolist() == pytest.approx([r.accuracy for r in [*result.results, result.worst_case]])
    text = (tmp_path / "results" / "mine.md").read_text()
    assert "| pgd3 | " in text
    assert "Verdict: " in text
    assert result.card["weights"] in text
    per_class = result.per_class()
    y = held_out[1].numpy()
    for label in range(10):
        assert per_class["pgd3"][label] == pytest.approx(result["pgd3"].correct[y == label].mean())
    result.save(tmp_path / "results" / "mine")  # the same again
    other = evaluate(robust_net, *held_out, 0.05, ["natural"], verbose=False)
    before = (tmp_path / "results" / "mine.json").read_bytes()
    with pytest.raises(FileExistsError, match="holds another evaluation"):
        other.save(tmp_path / "results" / "mine")
    assert (tmp_path / "results" / "mine.json").read_bytes() == before


def test_result_files_that_are_none(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Evaluation.load(path)
    for text, message in (
        ("{", "damaged or not one of part_plugin's"),
        ("[]", "damaged or not one of part_plugin's"),
        ('{"format": 7}', "has format 7; this version of part_plugin reads 1"),
        ('{"format": 1}', "is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            Evaluation.load(path)


def test_compared(robust_net, digits_net, held_out):
    results = [
        evaluate(net, *held_out, EPS, attacks, name=name, verbose=False)
        for name, net, attacks in (
            ("robust", robust_net, ["natural", "pgd5"]),
            ("plain", digits_net, ["natural", "mma5"]),
        )
    ]
    table = compare(results)
    assert list(table.columns) == ["natural", "pgd5", "mma5", "worst case"]
    assert table.loc["robust", "pgd5"] == results[0]["pgd5"].accuracy
    assert np.isnan(table.loc["plain", "pgd5"])
    ax = plot_tradeoff(results).axes[0]
    points = [container.lines[0].get_xydata()[0] for container in ax.containers]
    expected = [(100 * r["natural"].accuracy, 100 * r["worst case"].accuracy) for r in results]
    assert np.allclose(points, expected)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["robust", "plain"]


def test_a_fraction_as_radius(digits_net, held_out):
    assert evaluate(digits_net, *held_out, "8/255", ["natural"], verbose=False).eps == 8 / 255
    with pytest.warns(UserWarning, match=r"eps=0\.031 is not the usual radius 8/255 = 0\.03137") as caught:
        evaluate(digits_net, *held_out, 0.031, ["natural"], verbose=False)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(digits_net, *held_out, 0.1, ["natural"], verbose=False)


def test_the_papers_suite_names_all_its_numbers():
    suite = SUITES["paper"]
    assert len(set(suite)) == len(suite)
    steps = (20, 40, 60, 80, 100)
    assert {f"adaptive_{kind}{n}" for kind in ("pgd", "mma") for n in steps} <= set(suite)
    assert {"natural", "pgd20", "mma", "autoattack", "gradients", "corruptions"} <= set(suite)
    assert {f"pgd{n}" for n in (10, 40, 60, 80, 100)} <= set(suite)


def test_eps_zero_changes_nothing(digits_net, held_out):
    result = evaluate(digits_net, *held_out, eps=0, attacks=("natural", "pgd3"), verbose=False)
    assert result["pgd3"].accuracy == result["natural"].accuracy


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"attacks": ("pgd",)}, ValueError, "attacks holds 'pgd'; choose from 'natural', 'pgd20', 'mma'"),
        ({"attacks": ("pgd0",)}, ValueError, "attacks holds 'pgd0'"),
        ({"attacks": ("pgd5", "pgd5")}, ValueError, "attacks holds 'pgd5' twice"),
        ({"attacks": (3,)}, TypeError, "attacks holds a int; choose from"),
        ({"suite": "all"}, ValueError, "suite='all' is not known; choose from 'quick', 'standard', 'paper'"),
        ({"suite": "paper"}, ValueError, r"images have shape \(64, 1, 8, 8\); \(N, 3, H, W\) with H and W >= 32"),
        ({"attacks": ("pixelpgd20",)}, ValueError, "attacks holds 'pixelpgd20'"),
        ({"attacks": ()}, ValueError, "attacks is empty"),
        ({"eps": -1}, ValueError, r"eps=-1 is not a radius; it must be in \[0, 1\], as a number or as in '8/255'"),
        ({"eps": 8}, ValueError, r"eps=8 is not a radius; it must be in \[0, 1\]"),
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
