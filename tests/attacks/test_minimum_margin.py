"""The minimum-margin attack against the paper, written by hand, and against itself."""

import pytest
import torch
from conftest import SmallNet
from margins import margins, run
from torch import nn

from part_plugin.attacks.minimum_margin import MinimumMargin
from part_plugin.attacks.projection import uniform_start

EPS = 0.1


def problem(net, batch, kind="random", start=True):
    """Network, images, labels, radii and start in float64, where the order of additions hardly matters."""
    torch.manual_seed(1)
    net, images = net.double(), batch[0].double()
    radii = torch.full((len(images), 1, 8, 8), EPS, dtype=torch.float64)
    if kind != "fixed":
        channels = torch.rand(len(images), 1, 8, 8, dtype=torch.float64)
        radii = torch.where(channels > 0.6, radii, 0.3 * radii) if kind == "two values" else radii * channels
    return net, images, batch[1], radii, uniform_start(images, radii, EPS) if start else None


def by_hand(net, images, labels, radii, alpha, start, steps, targets):
    """The attack as the paper says it: sample by sample, target by target, step by step."""
    answers = []
    for i, label in enumerate(labels.tolist()):
        image, radius = images[i : i + 1], radii[i : i + 1]
        scores = net(image)[0].tolist()
        wrong = sorted((k for k in range(len(scores)) if k != label), key=lambda k: -scores[k])
        best, largest = None, -float("inf")
        for target in wrong[:targets]:
            adv = (image if start is None else start[i : i + 1]).clone()
            for step in range(steps + 1):
                adv = adv.detach().requires_grad_()
                logits = net(adv)[0]
                margin = max(float(logits[k].detach()) for k in wrong) - float(logits[label].detach())
                if margin > largest + 1e-12:
                    best, largest = adv.detach(), margin
                if step == steps:
                    break
                (logits[target] - logits[label]).backward(inputs=[adv])
                with torch.no_grad():
                    adv = adv + alpha * adv.grad.sign()
                    adv = torch.minimum(torch.maximum(adv, image - radius), image + radius).clamp(0, 1)
        answers.append(best)
    return torch.cat(answers)


@pytest.mark.parametrize("kind", ["fixed", "random", "two values"])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize(("steps", "targets"), [(7, 3), (4, 9), (1, 1)])
def test_it_is_the_attack_of_the_paper(digits_net, batch, kind, start, steps, targets):
    net, images, labels, radii, first = problem(digits_net, batch, kind, start)
    labels = labels.clone()
    labels[3] = (labels[3] + 1) % 10  # one that the network gets wrong from the start
    expected = by_hand(net, images, labels, radii, EPS / 4, first, steps, targets)
    attack = MinimumMargin(net, images, labels, radii, EPS / 4, first, targets=targets)
    adv = attack.advance(steps)
    torch.testing.assert_close(adv, expected, rtol=0, atol=1e-9)
    assert not adv.requires_grad
    assert (margins(net, adv, labels) > margins(net, images if first is None else first, labels)).any()


def test_the_attack_of_the_paper_in_single_precision(digits_net, batch):
    radii = torch.rand(16, 1, 8, 8) * EPS
    expected = by_hand(digits_net, *batch, radii, EPS / 4, None, 5, 3)
    adv = MinimumMargin(digits_net, *batch, radii, EPS / 4).advance(5)
    torch.testing.assert_close(adv, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pieces", [[50], [30, 20], [1, 2, 47], [10] * 5, [0, 50, 0]])
def test_steps_in_pieces_are_the_same_as_at_once(robust_net, batch, pieces):
    """`20 steps and then 30` is `50 steps`, to the bit, and no piece makes the answer worse."""
    radii = torch.full((16, 1, 8, 8), EPS)
    start = run(uniform_start, batch[0], radii, EPS)
    whole = MinimumMargin(robust_net, *batch, radii, EPS / 8, start)
    expected = MinimumMargin(robust_net, *batch, radii, EPS / 8, start).advance(20)
    assert torch.equal(whole.advance(20), expected)
    expected = whole.advance(30)

    attack = MinimumMargin(robust_net, *batch, radii, EPS / 8, start)
    reached = margins(robust_net, start, batch[1]) - 1e-6
    for steps in pieces:
        adv = attack.advance(steps)
        margin = margins(robust_net, adv, batch[1])
        assert (margin >= reached - 1e-5).all()
        torch.testing.assert_close(attack.margin.reshape(3, 16).amax(0), margin, rtol=0, atol=1e-4)
        reached = margin
    assert torch.equal(adv, expected)
    assert torch.equal(attack.margin, whole.margin)


def test_what_it_keeps_per_target_never_falls(robust_net, batch):
    attack = MinimumMargin(
        robust_net, *batch, torch.full((16, 1, 8, 8), EPS), EPS
    )  # steps so large that it jumps about
    before, fell = torch.full((48,), -torch.inf), 0
    for _ in range(12):
        attack.advance(1)
        assert (attack.margin >= before).all()
        before = attack.margin.clone()
        fell += int((margins(robust_net, attack.adv, attack.labels) < before - 1e-3).sum())
    assert fell > 10  # the last iterate is not the best one, so keeping the best means something


def test_an_answer_handed_out_does_not_change_later(robust_net, batch):
    attack = MinimumMargin(robust_net, *batch, torch.full((16, 1, 8, 8), EPS), EPS / 8)
    first = attack.advance(2)
    copied = first.clone()
    assert not torch.equal(attack.advance(10), first)
    assert torch.equal(first, copied)


def test_the_inputs_are_left_alone(robust_net, batch):
    radii = torch.full((16, 1, 8, 8), EPS)
    inputs = (*batch, radii, run(uniform_start, batch[0], radii, EPS))
    copies = [tensor.clone() for tensor in inputs]
    MinimumMargin(robust_net, *inputs[:3], EPS / 4, inputs[3], targets=1).advance(3)
    assert all(torch.equal(tensor, copied) for tensor, copied in zip(inputs, copies, strict=True))


def test_more_targets_are_never_worse(robust_net, batch):
    net, *rest = problem(robust_net, batch, "fixed")
    reached = [
        margins(net, MinimumMargin(net, *rest[:3], EPS / 4, rest[3], targets=targets).advance(10), batch[1])
        for targets in (1, 3, 9)
    ]
    assert (reached[0] <= reached[1] + 1e-9).all()
    assert (reached[1] <= reached[2] + 1e-9).all()
    assert (reached[0] < reached[2] - 1e-3).any()


def test_there_are_no_more_targets_than_wrong_classes(robust_net, batch):
    radii = torch.full((16, 1, 8, 8), EPS)
    all_of_them = MinimumMargin(robust_net, *batch, radii, EPS / 4, targets=9)
    too_many = MinimumMargin(robust_net, *batch, radii, EPS / 4, targets=1000)
    for attack in (all_of_them, too_many):
        targets = attack.targets.reshape(9, 16)
        for target, label in zip(targets.T.tolist(), batch[1].tolist(), strict=True):
            assert sorted([*target, label]) == list(range(10))
    assert torch.equal(too_many.advance(3), all_of_them.advance(3))


def test_two_classes(batch):
    torch.manual_seed(0)
    net = SmallNet(num_classes=2).double().eval()
    images, labels, radii = batch[0].double(), batch[1] % 2, torch.full((16, 1, 8, 8), EPS).double()
    attack = MinimumMargin(net, images, labels, radii, EPS / 4)
    adv = attack.advance(5)
    assert torch.equal(attack.targets, 1 - labels)
    torch.testing.assert_close(adv, by_hand(net, images, labels, radii, EPS / 4, None, 5, 3), rtol=0, atol=1e-9)
    assert (margins(net, adv, labels) > margins(net, images, labels)).all()


def test_one_class_is_refused(batch):
    net = SmallNet(num_classes=1).eval()
    with pytest.raises(ValueError, match=r"^the model has 1 class; a margin is between at least 2$"):
        MinimumMargin(net, batch[0], torch.zeros(16, dtype=torch.long), torch.full((16, 1, 8, 8), EPS), EPS / 4)


def test_logits_that_are_no_numbers_are_never_the_answer(robust_net, batch):
    class Breaks(nn.Module):
        def forward(self, x):
            bad = ((x - batch[0].repeat(len(x) // 16, 1, 1, 1)).abs().amax((1, 2, 3)) > EPS / 2)[:, None]
            return torch.where(bad, torch.nan, 1) * robust_net(x)

    adv = MinimumMargin(Breaks(), *batch, torch.full((16, 1, 8, 8), EPS), EPS / 4).advance(6)
    assert adv.isfinite().all()
    assert ((adv - batch[0]).abs().amax((1, 2, 3)) <= EPS / 2).all()
    assert (margins(robust_net, adv, batch[1]) > margins(robust_net, batch[0], batch[1])).all()


class Limited(nn.Module):
    """A network on a device with room for `limit` images at a time, or for ever less of them."""

    def __init__(self, net, limit, error=torch.cuda.OutOfMemoryError, only_with_gradients=False):
        super().__init__()
        self.net, self.limit, self.error, self.only_with_gradients = net, limit, error, only_with_gradients
        self.sizes, self.refused = [], 0

    def forward(self, x):
        if len(x) > self.limit and (x.requires_grad or not self.only_with_gradients):
            self.refused += 1
            raise self.error(f"no room for {len(x)}")
        self.sizes.append(len(x))
        return self.net(x)


@pytest.mark.parametrize("limit", [47, 32, 24, 17, 16, 5, 1])
@pytest.mark.parametrize("only_with_gradients", [True, False], ids=["gradients", "everything"])
def test_little_memory_changes_nothing(robust_net, batch, limit, only_with_gradients):
    """Also one so little that the batch itself does not fit, with gradients or at all."""
    net, images, labels, radii, start = problem(robust_net, batch)
    limited = Limited(net, limit, only_with_gradients=only_with_gradients)
    ample = MinimumMargin(net, images, labels, radii, EPS / 4, start)
    tight = MinimumMargin(limited, images, labels, radii, EPS / 4, start)
    for steps in (4, 3):
        expected, adv = ample.advance(steps), tight.advance(steps)
        torch.testing.assert_close(adv, expected, rtol=0, atol=1e-9)
        assert torch.equal(margins(net, adv, labels) > 0, margins(net, expected, labels) > 0)
    torch.testing.assert_close(tight.margin, ample.margin, rtol=0, atol=1e-9)
    assert limited.refused
    assert only_with_gradients or max(limited.sizes) <= limit


@pytest.mark.parametrize("calls", [2, 3, 4, 7, 8])
def test_memory_that_runs_out_in_the_middle_of_the_steps(robust_net, batch, calls):
    """What was done before is neither lost nor done twice. (Two calls come before the steps.)"""

    class Once(Limited):
        def forward(self, x):
            self.limit = 24 if len(self.sizes) == calls else 10**9
            return super().forward(x)

    net, images, labels, radii, start = problem(robust_net, batch)
    limited = Once(net, None)
    expected = MinimumMargin(net, images, labels, radii, EPS / 4, start).advance(6)
    adv = MinimumMargin(limited, images, labels, radii, EPS / 4, start).advance(6)
    torch.testing.assert_close(adv, expected, rtol=0, atol=1e-9)
    assert limited.refused


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError])
def test_no_memory_at_all_is_an_error(robust_net, batch, error):
    limited = Limited(robust_net, 0, error, only_with_gradients=True)
    attack = MinimumMargin(limited, *batch, torch.full((16, 1, 8, 8), EPS), EPS / 4)
    with pytest.raises(error, match="no room for 1"):
        attack.advance(3)
    assert limited.refused <= 8


def test_targets_are_the_most_likely_wrong_classes(digits_net, batch):
    """Class by class in their order, also where the network errs."""
    labels = (digits_net(batch[0]).argmax(1) + torch.arange(16) % 2) % 10
    attack = MinimumMargin(digits_net, batch[0], labels, torch.full((16, 1, 8, 8), EPS), EPS / 4, targets=4)
    for row, (scores, label) in enumerate(zip(digits_net(batch[0]).tolist(), labels.tolist(), strict=True)):
        wrong = sorted((k for k in range(10) if k != label), key=lambda k: -scores[k])
        assert attack.targets.reshape(4, 16)[:, row].tolist() == wrong[:4]


def test_only_the_very_first_gradient_is_shown(digits_net, batch):
    seen = []
    attack = MinimumMargin(
        digits_net, *batch, torch.full((16, 1, 8, 8), EPS), EPS / 4, targets=2, on_first_gradient=seen.append
    )
    attack.advance(2)
    attack.advance(2)
    assert [gradient.shape for gradient in seen] == [(32, 1, 8, 8)]


@pytest.mark.parametrize("clip", [(0.0, 1.0), (-1.0, 2.0), (0.1, 0.9)])
def test_it_stays_in_the_range_it_is_given(digits_net, batch, clip):
    images = batch[0].clamp(*clip)
    adv = MinimumMargin(digits_net, images, batch[1], torch.full((16, 1, 8, 8), 0.5), 0.2, clip=clip).advance(4)
    assert adv.min() == clip[0] or clip == (-1.0, 2.0)
    assert adv.max() == clip[1] or clip == (-1.0, 2.0)
    assert adv.min() >= clip[0]
    assert adv.max() <= clip[1]
    assert clip != (-1.0, 2.0) or (adv.min() < -0.1 and adv.max() > 1.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": 0}, ValueError, "targets=0 is not allowed; it must be >= 1"),
        ({"targets": 1.5}, TypeError, "targets=1.5 is a float; an integer is needed"),
        ({"labels": torch.full((16,), 10)}, ValueError, "labels contain class 10; allowed is 0 to 9"),
    ],
)
def test_wrong_arguments(digits_net, batch, change, error, message):
    arguments = {"images": batch[0], "labels": batch[1], "radii": torch.full((16, 1, 8, 8), EPS), "alpha": EPS}
    with pytest.raises(error, match=f"^{message}$"):
        MinimumMargin(digits_net, **arguments | change)
