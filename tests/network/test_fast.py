"""What makes an attack cheaper and its gradients approximate."""

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_untouched, snapshot
from torch._dynamo.utils import counters

from part_plugin import PART
from part_plugin.network.fast import accelerated, check_fast
from part_plugin.network.fold import foldable_pairs
from part_plugin.network.isolation import eval_mode, frozen
from part_plugin.network.view import ModelView, logits_of


def gradient(model, images, labels, *fast):
    with eval_mode(model), frozen(model), accelerated(model, images, fast) as attacked:
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(logits_of(attacked, adv), labels), adv)[0]


def plain_gradient(model, images, labels):
    with eval_mode(model):
        adv = images.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(adv), labels), adv)[0]


def layout(model):
    return {name: (p.data_ptr(), p.stride(), p.requires_grad) for name, p in model.named_parameters()}


def distance(one, other):
    return float((one - other).norm() / other.norm())


def test_on_a_trained_resnet(cifar_net, photos):
    """Float32 gradients jump at ReLU kinks; on the whole they agree, and most are equal to rounding."""
    with torch.no_grad():
        labels = cifar_net(photos).argmax(1)
    expected = plain_gradient(cifar_net, photos, labels)
    for fast in ((), ("fold",)):
        found = gradient(cifar_net, photos, labels, *fast)
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
    with accelerated(digits_net, batch[0], ("bfloat16",)) as attacked, torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            expected = digits_net(batch[0])
        assert expected.dtype == torch.bfloat16
        assert torch.equal(attacked(batch[0]), expected.float())
