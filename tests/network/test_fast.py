"""What makes an attack cheaper and its gradients approximate."""

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, snapshot
from network.gradients import distance, gradient, layout, plain_gradient
from torch import nn
from torch._dynamo.utils import counters

from part_plugin import PART
from part_plugin.network import fast
from part_plugin.network.fast import accelerated, check_fast
from part_plugin.network.fold import foldable_pairs
from part_plugin.network.isolation import eval_mode, frozen
from part_plugin.network.view import ModelView


def test_on_a_trained_resnet(cifar_net, photos):
    """Float32 gradients jump at ReLU kinks; on the whole they agree, and most are equal to rounding."""
    with torch.no_grad():
        labels = cifar_net(photos).argmax(1)
    expected = plain_gradient(cifar_net, photos, labels)
    for options in ((), ("fold",)):
        found = gradient(cifar_net, photos, labels, *options)
        each = [distance(a, b) for a, b in zip(found, expected, strict=True)]
        assert sorted(each)[len(each) // 2] < 1e-3
        assert float((found.sign() != expected.sign()).float().mean()) < 0.01
    assert len(foldable_pairs(cifar_net, photos)) == 20
    rough = gradient(cifar_net, photos, labels, "bfloat16")
    assert rough.dtype == torch.float32
    assert float((rough.sign() == expected.sign()).float().mean()) > 0.8


def test_a_compiled_copy_follows_the_weights_and_takes_short_batches(lived_in, batch, caplog):
    """One compilation serves all batches, whatever is done to the network or left out of the batch in between.

    A machine without a C++ compiler runs the same without it.
    """
    images, labels = batch
    assert distance(gradient(lived_in, images, labels, "fold", "compile"), plain_gradient(lived_in, *batch)) < 1e-4
    graphs = dict(counters["stats"])
    with torch.no_grad():
        lived_in.features[0].weight.mul_(1.2)
        lived_in.features[1].running_mean.add_(0.3)
    before = snapshot(lived_in)
    for rows in (16, 5, 1, 16):
        expected = plain_gradient(lived_in, images[:rows], labels[:rows])
        found = gradient(lived_in, images[:rows], labels[:rows], "fold", "compile")
        assert found.shape == expected.shape
        assert distance(found, expected) < 1e-4
    assert dict(counters["stats"]) == graphs
    assert bool(graphs.get("unique_graphs")) != ("it runs without" in caplog.text)
    assert_untouched(lived_in, before)


def test_what_cannot_be_compiled_runs_without(digits_net, batch, caplog, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler found\nsecond line")

    monkeypatch.setattr(torch, "compile", broken)
    for _ in range(2):
        assert torch.equal(gradient(digits_net, *batch, "compile"), gradient(digits_net, *batch))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["fast='compile' fails for SmallNet (no compiler found); it runs without"]


@pytest.mark.parametrize("fast", [(), "fold", "bfloat16", ("fold", "bfloat16")])
def test_part_with_a_fast_attack(robust_net, batch, fast):
    """Inside the budget, about as strong, nothing left behind; the same map, so the same budget."""
    x, y = batch
    exact = PART(eps=0.1, eps_low=0.08, alpha=0.025, burn_in=0, seed=0)
    quick = PART(eps=0.1, eps_low=0.08, alpha=0.025, burn_in=0, seed=0, fast=fast)
    robust_net.train()
    before, where = snapshot(robust_net), layout(robust_net)
    expected, found = exact.perturb(robust_net, x, y), quick.perturb(robust_net, x, y)
    assert_untouched(robust_net, before)
    assert layout(robust_net) == where
    radii = exact.budget(robust_net, x, y)
    assert ((found - x).abs() <= radii + 1e-6).all()
    robust_net.eval()
    with torch.no_grad():
        losses = [F.cross_entropy(robust_net(adv), y) for adv in (x, expected, found)]
    assert losses[0] < losses[2]
    assert losses[2] == pytest.approx(losses[1].item(), rel=0.1)


@pytest.mark.parametrize(
    ("fast", "message"),
    [
        ("folding", "fast holds 'folding'; choose from 'fold', 'compile', 'bfloat16', 'float16'"),
        (("fold", "x"), "fast holds 'x'; choose from"),
        (("bfloat16", "float16"), "fast holds 'bfloat16' and 'float16'; choose one"),
    ],
)
def test_unknown_options(fast, message):
    with pytest.raises(ValueError, match=message):
        check_fast(fast)
    with pytest.raises(ValueError, match=message):
        PART(fast=fast)


def test_an_error_without_words(digits_net, batch, caplog, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(torch, "compile", broken)
    assert torch.equal(gradient(digits_net, *batch, "compile"), gradient(digits_net, *batch))
    assert "fails for SmallNet (RuntimeError); it runs without" in caplog.text


def test_options_in_any_form():
    assert check_fast("fold") == ("fold",)
    assert check_fast(["fold", "bfloat16"]) == ("fold", "bfloat16")
    assert check_fast(()) == ()


@pytest.mark.parametrize("options", [(), ("fold",), ("bfloat16",)])
def test_a_view_is_attacked_behind_its_normalisation(digits_net, batch, options):
    view = ModelView(digits_net, lambda x: 2 * x - 0.5)
    found = gradient(view, *batch, *options)
    expected = 2 * plain_gradient(digits_net, 2 * batch[0] - 0.5, batch[1])
    assert distance(found, expected) < (0.1 if "bfloat16" in options else 1e-5)


def test_nothing_asked_for_is_nothing_changed(digits_net, batch):
    with accelerated(digits_net, batch[0], ()) as attacked:
        assert attacked is digits_net


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), (None, "NoneType"), (2, "int")])
def test_fast_options_that_are_none(value, kind):
    options = "'fold', 'compile', 'bfloat16', 'float16'"
    message = f"fast={value!r} is a {kind}; some of {options} in a tuple are needed, or ()"
    with pytest.raises(TypeError) as raised:
        fast.check_fast(value)
    assert str(raised.value) == message


# The compiled copy, compiled by a backend that needs no C++ compiler


@pytest.fixture
def eagerly(monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **options: compile_(network, backend="eager", **options))


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("options", [("compile",), ("fold", "compile")])
def test_what_is_attacked_is_the_compiled_copy(digits_net, batch, options):
    """Nested, so that the batch norms have to be found in it; no parameter of it asks for a gradient."""
    net, (images, labels) = nn.Sequential(nn.Identity(), nn.Sequential(digits_net)).eval(), batch
    expected = plain_gradient(net, images, labels)
    with eval_mode(net), frozen(net), accelerated(net, images, options) as attacked:
        assert isinstance(attacked, fast._CompiledCopy)
        assert not any(parameter.requires_grad for parameter in attacked.parameters())
        norms = [module for module in attacked.copy.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == (0 if "fold" in options else 2)
        adv = images.clone().requires_grad_()
        found = torch.autograd.grad(F.cross_entropy(attacked(adv), labels), adv)[0]
        assert distance(found, expected) < 1e-5
        with torch.no_grad():
            torch.testing.assert_close(attacked(images), net(images), rtol=1e-4, atol=1e-4)
    with accelerated(net, images, options) as again:
        assert again is attacked


@pytest.mark.usefixtures("eagerly")
def test_short_batches_are_filled_up_and_those_without_gradient_not_compiled(digits_net, batch):
    images = batch[0]
    with eval_mode(digits_net), frozen(digits_net), accelerated(digits_net, images, ("compile",)) as attacked:
        sizes, run = [], attacked.run
        del attacked.run
        attacked.run = lambda rows: sizes.append(len(rows)) or run(rows)
        for rows in (16, 5, 1, 16):
            logits = attacked(images[:rows].clone().requires_grad_())
            assert len(logits) == rows
            torch.testing.assert_close(logits, digits_net(images[:rows]), rtol=1e-4, atol=1e-4)
        assert sizes == [16] * 4
        attacked(images[:3])
        assert len(sizes) == 4


@pytest.mark.usefixtures("eagerly")
def test_a_view_of_a_compiled_copy(digits_net, batch):
    view = ModelView(digits_net, lambda x: 2 * x - 0.5)
    with eval_mode(view), frozen(view), accelerated(view, batch[0], ("compile",)) as attacked:
        assert isinstance(attacked, ModelView)
        assert isinstance(attacked.module, fast._CompiledCopy)
        assert attacked.preprocess is view.preprocess
    found = gradient(view, *batch, "compile")
    assert distance(found, 2 * plain_gradient(digits_net, 2 * batch[0] - 0.5, batch[1])) < 1e-5


@pytest.mark.usefixtures("eagerly")
def test_there_is_a_copy_for_every_kind_of_images(digits_net, batch):
    images, labels = batch
    for some in (images, images[:3], images.repeat(1, 1, 2, 2), images):
        gradient(digits_net, some, labels[: len(some)], "compile")
    _, copies = fast._compiled._known[digits_net]
    assert len(copies) == 2
    gradient(digits_net, images, labels, "fold", "compile")
    assert len(copies) == 3
    assert None not in copies.values()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_is_the_one_asked_for(digits_net, batch, dtype):
    with accelerated(digits_net, batch[0], (str(dtype).removeprefix("torch."),)) as attacked, torch.no_grad():
        with torch.autocast("cpu", dtype):
            expected = digits_net(batch[0])
        assert expected.dtype == dtype
        assert torch.equal(attacked(batch[0]), expected.float())
