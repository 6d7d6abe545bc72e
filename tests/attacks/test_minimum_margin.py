"""The minimum-margin attack: its core, the torchattacks classes MMA and PixelMMA, and PART(attack="mma")."""

import copy
import pickle
from itertools import chain

import pytest
import torch
import torchattacks
from conftest import SmallNet, assert_untouched, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchattacks.attack import Attack

from part_plugin import MMA, PART, FixedBudget, PixelAttack, PixelBudget, PixelMMA
from part_plugin.attacks.minimum_margin import MinimumMargin
from part_plugin.attacks.projection import uniform_start
from part_plugin.network.batching import within_memory
from part_plugin.network.view import ModelView

EPS = 0.1
MEAN, STD = [0.3], [0.4]


@pytest.fixture(scope="module")
def _robust_net(digits):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet(width=8)
        train(net, PART("at", eps=EPS, eps_low=0.8 * EPS, alpha=EPS / 2, steps=3, burn_in=4, seed=0), digits, epochs=8)
    return net.eval()


@pytest.fixture
def robust_net(_robust_net):
    """A network trained on digits with PART at EPS, on which attacks differ; a fresh copy for each test."""
    return copy.deepcopy(_robust_net)


def train(net, part, digits, epochs):
    """Adam on the first 1400 digits."""
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for epoch in range(epochs):
        net.train()
        part.set_epoch(epoch)
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            part.loss(net, digits[0][rows], digits[1][rows]).backward()
            optimizer.step()


def run(attack, *inputs, seed=0):
    torch.manual_seed(seed)
    return attack(*inputs)


def margins(net, images, labels):
    """max_{k != y} z_k - z_y of each image, positive where the network errs."""
    logits = net(images).detach()
    true = logits[range(len(labels)), labels]
    logits[range(len(labels)), labels] = -torch.inf
    return logits.amax(1) - true


def accuracy(net, images, labels):
    return float((net(images).argmax(1) == labels).float().mean())


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


# The core


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
    with pytest.raises(ValueError, match="the model has 1 class; a margin is between at least 2"):
        MMA(net)(batch[0])


def test_logits_that_are_no_numbers_are_never_the_answer(robust_net, batch):
    class Breaks(nn.Module):
        def forward(self, x):
            bad = ((x - batch[0].repeat(len(x) // 16, 1, 1, 1)).abs().amax((1, 2, 3)) > EPS / 2)[:, None]
            return torch.where(bad, torch.nan, 1) * robust_net(x)

    adv = MinimumMargin(Breaks(), *batch, torch.full((16, 1, 8, 8), EPS), EPS / 4).advance(6)
    assert adv.isfinite().all()
    assert ((adv - batch[0]).abs().amax((1, 2, 3)) <= EPS / 2).all()
    assert (margins(robust_net, adv, batch[1]) > margins(robust_net, batch[0], batch[1])).all()


# Memory


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
    with pytest.raises(error, match="no room for"):
        MMA(Limited(robust_net, 0, error))(*batch)


@settings(max_examples=300)
@given(st.integers(0, 400), st.integers(1, 500), st.sampled_from([torch.cuda.OutOfMemoryError, MemoryError]))
def test_every_row_is_run_once_and_in_order(rows, limit, error):
    tried = []

    def work(part):
        tried.append(part.stop - part.start)
        if tried[-1] > limit:
            raise error("full")
        return list(range(rows)[part])

    results = within_memory(work, rows)
    assert [*chain(*results)] == list(range(rows))
    assert all(0 < len(result) <= limit for result in results)
    assert len(tried) - len(results) <= 9  # halves, not one row less at a time
    assert len(results) == 1 or rows > limit or not rows


@settings(max_examples=200)
@given(st.integers(1, 60), st.lists(st.integers(1, 70), min_size=1, max_size=40))
def test_memory_that_others_use_too(rows, limits):
    """However much there is left at each try, every row is run once and in order."""
    left = iter(limits)

    def work(part):
        if part.stop - part.start > next(left, limits[-1]):
            raise torch.cuda.OutOfMemoryError("full")
        return list(range(rows)[part])

    assert [*chain(*within_memory(work, rows))] == list(range(rows))


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_an_error_that_smaller_parts_do_not_mend(rows):
    tried = []

    def full(part):
        tried.append(part.stop - part.start)
        raise torch.cuda.OutOfMemoryError("full")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="full"):
        within_memory(full, rows)
    assert tried[0] == rows
    assert tried[-1] == 1

    def broken(part):
        tried.append(part)
        raise ArithmeticError("not about memory")

    tried.clear()
    with pytest.raises(ArithmeticError):
        within_memory(broken, rows)
    assert tried == [slice(0, rows)]


# The budget


@pytest.mark.parametrize("name", ["MMA", "PixelMMA"])
@settings(max_examples=300)
@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(3, 9),
    st.integers(3, 9),
    st.floats(0, 0.6),
    st.floats(0, 1),
    st.floats(0.01, 3),
    st.integers(1, 4),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from(["map", "random", "random per channel", "quadrant"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_no_pixel_leaves_its_budget(
    name, n, channels, height, width, eps, ratio, alpha, steps, random_start, targets, kind, dtype, normalised, seed
):
    torch.manual_seed(seed)
    net = SmallNet(channels, num_classes=4, width=2).to(dtype).eval()
    images = torch.rand(n, channels, height, width, dtype=dtype)
    images[0] = images[0].round()  # pixels at both ends of the range
    labels = torch.randint(4, (n,))
    options = {"alpha": max(alpha * eps, 1e-3), "steps": steps, "random_start": random_start, "targets": targets}
    if name == "MMA":
        attack = MMA(net, eps=eps, **options)
    elif kind == "map":
        attack = PixelMMA(net, eps=eps, eps_low=eps * ratio, **options)
    else:
        budget = {
            "random": lambda: FixedBudget(eps * torch.rand(n, 1, height, width)),
            "random per channel": lambda: FixedBudget(eps * torch.rand(channels, height, width)),
            "quadrant": lambda: FixedBudget.quadrant("top-right", eps, eps * ratio, (height, width)),
        }[kind]()
        attack = PixelMMA(net, budget=budget, **options)
    if normalised:
        attack.set_normalization_used([0.4] * channels, [0.5] * channels)
        adv = attack.inverse_normalize(attack((images - 0.4) / 0.5, labels))
        images = attack.inverse_normalize((images - 0.4) / 0.5)
        radii, slack = attack.budget(ModelView(net, attack.normalize), images), 1e-6
        rounding = slack
    else:
        adv = attack(images, labels)
        radii, slack = attack.budget(net, images), 0
        rounding = torch.finfo(dtype).eps * torch.maximum(images, adv)
    assert adv.dtype == dtype
    assert adv.isfinite().all()
    assert ((adv - images).abs() <= radii + rounding).all()
    assert adv.min() >= -slack
    assert adv.max() <= 1 + slack


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("normalised", [False, True])
def test_equal_radii_give_mma_bit_for_bit(digits_net, batch, random_start, normalised):
    options = {"eps": EPS, "alpha": EPS / 4, "steps": 7, "random_start": random_start}
    plain, pixel = MMA(digits_net, **options), PixelMMA(digits_net, eps_low=EPS, **options)
    images = batch[0]
    if normalised:
        images = (images - MEAN[0]) / STD[0]
        for attack in (plain, pixel):
            attack.set_normalization_used(MEAN, STD)
    expected = run(plain, images, batch[1])
    assert (expected != images).any((1, 2, 3)).all()
    assert torch.equal(run(pixel, images, batch[1]), expected)
    pixel.eps_low = EPS / 2
    assert not torch.equal(run(pixel, images, batch[1]), expected)


def test_both_normalisation_setups_agree(robust_net, batch):
    class Normalised(nn.Module):
        def forward(self, x):
            return net(x * STD[0] + MEAN[0])

    net, images = robust_net.double(), batch[0].double()
    outside = PixelMMA(Normalised(), eps=EPS, eps_low=EPS / 2, target_layers=net.features, steps=5)
    outside.set_normalization_used(MEAN, STD)
    outside.budget = FixedBudget(EPS * torch.rand(1, 8, 8))
    inside = PixelMMA(net, budget=outside.budget, steps=5)
    adv = run(outside, (images - MEAN[0]) / STD[0], batch[1]) * STD[0] + MEAN[0]
    assert torch.isclose(adv, run(inside, *(images, batch[1])), atol=1e-6).float().mean() > 0.995


# Its strength


def test_it_is_stronger_than_pgd_and_almost_autoattack(robust_net, digits):
    """On 200 digits and a network trained to withstand EPS, as the paper has it for CIFAR-10."""
    import pyautoattack

    images, labels = digits[0][1400:1600], digits[1][1400:1600]
    options = {"eps": EPS, "alpha": EPS / 4, "steps": 20}
    pgd = run(torchattacks.PGD(robust_net, **options), images, labels)
    mma = run(MMA(robust_net, **options), images, labels)
    pixel = run(PixelMMA(robust_net, eps_low=EPS / 2, **options), images, labels)
    judge = pyautoattack.AutoAttack(robust_net, eps=EPS, seed=0, version="standard")
    autoattack, _ = judge.run_standard_evaluation(images, labels, batch_size=200)
    natural, pgd, mma, pixel, autoattack = (
        accuracy(robust_net, adv, labels) for adv in (images, pgd, mma, pixel, autoattack)
    )
    print(f"natural {natural:.3f} PGD {pgd:.3f} MMA {mma:.3f} PixelMMA {pixel:.3f} AutoAttack {autoattack:.3f}")
    assert natural > pgd > 0.5  # a network on which there is something to tell apart
    assert mma < pgd
    assert autoattack <= mma <= autoattack + 0.05
    assert mma < pixel < natural


def test_it_is_at_least_as_strong_as_pgd_on_cifar_resnet(cifar_net, photos):
    images = photos[::2]
    labels = cifar_net(images).argmax(1)
    options = {"eps": 1 / 255, "alpha": 0.5 / 255, "steps": 3}
    pgd = run(torchattacks.PGD(cifar_net, **options), images, labels)
    mma = run(MMA(cifar_net, targets=2, **options), images, labels)
    assert ((mma - images).abs() <= 1 / 255 + 1e-7).all()
    assert accuracy(cifar_net, mma, labels) <= accuracy(cifar_net, pgd, labels)
    assert (margins(cifar_net, mma, labels) > margins(cifar_net, images, labels)).all()
    assert margins(cifar_net, mma, labels).mean() > margins(cifar_net, pgd, labels).mean()


# The conventions of torchattacks

ATTACKS = {
    "MMA": lambda net, **options: MMA(net, **{"eps": EPS, "steps": 4} | options),
    "PixelMMA": lambda net, **options: PixelMMA(net, **{"eps": EPS, "eps_low": EPS / 2, "steps": 4} | options),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_they_are_torchattacks_attacks(digits_net, batch, name):
    attack = ATTACKS[name](digits_net, alpha=0.03, targets=2)
    assert isinstance(attack, Attack)
    assert repr(attack).startswith(f"{name}(")
    for setting in ("eps=0.1", "alpha=0.03", "steps=4", "targets=2", "random_start=True", "attack_mode=default"):
        assert setting in repr(attack)
    assert ("eps_low=0.05" in repr(attack)) == (name == "PixelMMA")
    expected = run(attack, *batch)
    for twin in (copy.deepcopy(attack), pickle.loads(pickle.dumps(attack))):
        assert torch.equal(run(twin, *batch), expected)


@pytest.mark.parametrize("targets", [1, 9])
def test_they_are_the_core_attack(robust_net, batch, targets):
    options = {"alpha": 0.03, "targets": targets, "random_start": False}
    for name, make in ATTACKS.items():
        radii = FixedBudget(EPS) if name == "MMA" else PixelBudget(EPS, EPS / 2)
        core = MinimumMargin(robust_net, *batch, radii(robust_net, batch[0]), 0.03, targets=targets)
        assert torch.equal(make(robust_net, **options)(*batch), core.advance(4))


@pytest.mark.parametrize("name", ATTACKS)
def test_there_is_no_targeted_mode(digits_net, batch, name):
    attack = ATTACKS[name](digits_net)
    assert attack.supported_mode == ["default"]
    for mode in ("by_function", "random", "least_likely", "by_label"):
        arguments = (lambda x, y: y,) if mode == "by_function" else ()
        with pytest.raises(ValueError, match="Targeted mode is not supported."):
            getattr(attack, f"set_mode_targeted_{mode}")(*arguments, quiet=True)
    assert attack.get_mode() == "default"
    assert (margins(digits_net, attack(*batch), batch[1]) > margins(digits_net, *batch)).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_save_and_load(lived_in, batch, name, tmp_path, capsys):
    attack = ATTACKS[name](lived_in)
    before = snapshot(lived_in)
    loader = DataLoader(TensorDataset(*batch), batch_size=8)
    attack.save(loader, str(tmp_path / "adv.pt"), save_predictions=True)
    assert_untouched(lived_in, before)
    assert "Robust accuracy" in capsys.readouterr().out
    adv, labels, predictions = next(iter(attack.load(str(tmp_path / "adv.pt"), batch_size=16, load_predictions=True)))
    assert torch.equal(labels, batch[1])
    assert torch.equal(lived_in.eval()(adv).argmax(1), predictions)
    assert ((adv - batch[0]).abs().amax((1, 2, 3)) > EPS / 2).all()
    assert ((adv - batch[0]).abs() <= EPS + 1e-6).all()


def test_multi_attack(robust_net, digits):
    images, labels = digits[0][1400:1464], digits[1][1400:1464]
    attacks = [torchattacks.PGD(robust_net, eps=EPS, steps=4), *(make(robust_net) for make in ATTACKS.values())]
    adv = run(torchattacks.MultiAttack(attacks), images, labels)
    assert ((adv - images).abs() <= EPS + 1e-6).all()
    assert accuracy(robust_net, adv, labels) <= accuracy(robust_net, run(attacks[0], images, labels), labels)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_labels_the_prediction_is_attacked(digits_net, batch, name):
    attack = ATTACKS[name](digits_net)
    wrong = (digits_net(batch[0]).argmax(1) + 1) % 10
    predicted = run(attack, batch[0])
    assert torch.equal(predicted, run(attack, batch[0], digits_net(batch[0]).argmax(1)))
    assert not torch.equal(predicted, run(attack, batch[0], wrong))


def test_label_formats(digits_net, batch):
    x, y = batch
    attack = ATTACKS["MMA"](digits_net)
    expected = run(attack, x, y)
    for labels in (y[:, None], y.int(), nn.functional.one_hot(y, 10), nn.functional.one_hot(y, 10).float()):
        assert torch.equal(run(attack, x, labels), expected)


def test_attributes_can_be_changed_as_in_torchattacks(digits_net, batch):
    attack = MMA(digits_net, eps=EPS, steps=9)
    attack.eps, attack.steps, attack.alpha, attack.targets = 2 * EPS, 3, 0.06, 2
    assert attack.eps == attack.eps_low == 2 * EPS
    expected = run(MMA(digits_net, eps=2 * EPS, alpha=0.06, steps=3, targets=2), *batch)
    assert torch.equal(run(attack, *batch), expected)
    assert ((expected - batch[0]).abs().amax((1, 2, 3)) > 1.5 * EPS).all()
    attack.eps = EPS / 4
    assert ((run(attack, *batch) - batch[0]).abs() <= EPS / 4 + 1e-6).all()

    pixel = PixelMMA(digits_net, eps=EPS, eps_low=EPS / 2, steps=3)
    pixel.eps, pixel.eps_low = 2 * EPS, EPS / 4
    expected = run(PixelMMA(digits_net, eps=2 * EPS, eps_low=EPS / 4, steps=3), *batch)
    assert torch.equal(run(pixel, *batch), expected)
    with pytest.raises(ValueError, match="eps=-1 is not allowed; it must be >= 0"):
        attack.eps = -1
    assert attack.eps == EPS / 4


def test_a_budget_per_pixel_around_mma(digits_net, batch):
    options = {"eps": EPS, "alpha": EPS / 4, "steps": 5}
    expected = run(MMA(digits_net, **options), *batch)
    assert torch.equal(run(PixelAttack(MMA(digits_net, **options), eps_low=EPS), *batch), expected)

    pixel = PixelAttack(MMA(digits_net, **options), eps_low=EPS / 4)
    adv = run(pixel, *batch)
    radii = PixelBudget(EPS, EPS / 4)(digits_net, batch[0])
    assert ((adv - batch[0]).abs() <= radii + 1e-6).all()
    assert ((adv - batch[0]).abs() > EPS / 4 + 1e-3).any()
    natural, reached, full = (margins(digits_net, images, batch[1]) for images in (batch[0], adv, expected))
    assert (reached > natural).all()
    assert natural.mean() < reached.mean() < full.mean()

    pixel.eps, pixel.eps_low = EPS / 2, EPS / 2
    assert torch.equal(run(pixel, *batch), run(MMA(digits_net, **options | {"eps": EPS / 2}), *batch))


def test_a_budget_per_pixel_around_pixel_mma_is_refused(digits_net):
    with pytest.raises(ValueError, match="^attack=PixelMMA has a budget per pixel already$"):
        PixelAttack(PixelMMA(digits_net))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"targets": 0}, ValueError, "targets=0 is not allowed; it must be >= 1"),
        ({"targets": 2.5}, TypeError, "targets=2.5 is a float; an integer is needed"),
        ({"steps": 0}, ValueError, "steps=0 is not allowed; it must be >= 1"),
        ({"alpha": 0}, ValueError, "alpha=0 is not allowed; it must be > 0"),
        ({"eps": -1}, ValueError, "eps=-1 is not allowed; it must be >= 0"),
        ({"eps": float("nan")}, ValueError, "eps=nan is not allowed; it must be >= 0"),
        ({"eps": "8/255"}, TypeError, "eps='8/255' is a str; a number is needed"),
    ],
)
def test_wrong_settings(digits_net, name, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        ATTACKS[name](digits_net, **options)


def test_radii_in_the_wrong_order(digits_net):
    with pytest.raises(ValueError, match="eps_low=0.027451 is larger than eps=0.0156863; it must be <= eps"):
        PixelMMA(digits_net, eps=4 / 255)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x, y.clamp(10, 10)), ValueError, "^labels contain class 10; allowed is 0 to 9$"),
        (lambda x, y: (x, -1 - y), ValueError, r"^labels contain class -\d+; allowed is 0 and above$"),
        (lambda x, y: (x, y[:-1]), ValueError, r"^labels have shape \(15,\); expected \(16,\)"),
        (lambda x, y: (3 * x - 1, y), ValueError, r"^images span \[-1, 2\]; allowed is \[0, 1\]; call set_norm"),
        (lambda x, y: ((255 * x).byte(), y), TypeError, "^images are torch.uint8"),
        (lambda x, y: (x * torch.nan, y), ValueError, "^images contain NaN"),
    ],
)
def test_wrong_batches(lived_in, batch, name, change, error, message):
    before = snapshot(lived_in)
    with pytest.raises(error, match=message):
        ATTACKS[name](lived_in)(*change(*batch))
    assert_untouched(lived_in, before)


def test_a_model_that_returns_no_logits(batch):
    with pytest.raises(ValueError, match=r"the model's output is \(16, 1, 8, 8\); logits of shape \(16, K\)"):
        MMA(nn.Conv2d(1, 1, 1))(*batch)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_no_trace_on_the_model(lived_in, batch, name, context):
    attack = ATTACKS[name](lived_in)
    before = snapshot(lived_in)
    with context():
        adv = run(attack, batch[0] * 1, batch[1] * 1)
    assert_untouched(lived_in, before)
    assert torch.equal(adv, run(attack, *batch))
    assert (adv != batch[0]).any((1, 2, 3)).all()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 6])
def test_no_trace_after_an_exception_in_the_middle(lived_in, batch, name, calls):
    class Fragile(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.countdown = net, calls

        def forward(self, x):
            self.countdown -= 1
            if self.countdown == 0:
                raise ArithmeticError("broken in the middle")
            return self.net(x)

    net = Fragile(lived_in)
    attack = ATTACKS[name](net)
    attack.set_normalization_used(MEAN, STD)
    before = snapshot(net)
    with torch.no_grad(), pytest.raises(ArithmeticError):
        attack((batch[0] - MEAN[0]) / STD[0], batch[1])
    assert_untouched(net, before)
    assert attack._normalization_applied is True
    assert attack((batch[0] - MEAN[0]) / STD[0], batch[1]).isfinite().all()


# In training

SETTINGS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.05, "steps": 4, "attack": "mma", "burn_in": 0}


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_one_batch_of_training(lived_in, batch, objective):
    part = PART(objective, seed=0, **SETTINGS)
    radii = part.budget(lived_in, *batch)
    before = snapshot(lived_in)
    adv = part.perturb(lived_in, *batch)
    assert_untouched(lived_in, before)
    assert ((adv - batch[0]).abs() <= radii + 1e-6).all()
    assert ((adv - batch[0]).abs() > 0.06).any()
    assert adv.min() >= 0
    assert adv.max() <= 1
    calm = copy.deepcopy(lived_in).eval()
    assert (margins(calm, adv, batch[1]) > margins(calm, *batch)).all()

    weights = copy.deepcopy(lived_in.head.weight.data)
    optimizer = torch.optim.SGD(lived_in.parameters(), 0.01)
    lived_in.zero_grad()
    loss = part.loss(lived_in, *batch)
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in lived_in.parameters())
    assert not torch.equal(lived_in.head.weight, weights)


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_its_examples_come_further_than_those_of_pgd(robust_net, digits, objective):
    images, labels = digits[0][1400:1528], digits[1][1400:1528]
    options = {"budget": FixedBudget(EPS), "alpha": EPS / 4, "steps": 10, "burn_in": 0, "seed": 0}
    pgd, mma = (
        margins(robust_net, PART(objective, attack=attack, **options).perturb(robust_net, images, labels), labels)
        for attack in ("pgd", "mma")
    )
    assert (mma >= pgd - 1e-5).float().mean() > 0.9
    assert mma.mean() > pgd.mean()


def test_it_is_the_core_attack_from_the_start_that_the_seed_gives(digits_net, batch):
    part = PART(seed=5, **SETTINGS)
    radii = part.budget(digits_net, *batch)
    start = part._start(batch[0], radii)
    expected = MinimumMargin(digits_net, *batch, radii, 0.05, start).advance(4)
    assert torch.equal(part.perturb(digits_net, *batch), expected)
    again, other = PART(seed=5, **SETTINGS), PART(seed=6, **SETTINGS)
    assert torch.equal(again.perturb(digits_net, *batch), expected)
    assert not torch.equal(other.perturb(digits_net, *batch), expected)
    assert not torch.equal(again.perturb(digits_net, *batch), expected)  # the next step starts elsewhere


def test_without_a_random_start_nothing_is_drawn(digits_net, batch):
    state = torch.random.get_rng_state()
    parts = [PART(random_start=False, **SETTINGS) for _ in range(2)]
    assert torch.equal(*(part.perturb(digits_net, *batch) for part in parts))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_images_of_another_range(robust_net, batch):
    """eps is in the units of the images, and the clip range is that of PART."""
    net, images, labels = robust_net.double(), batch[0].double(), batch[1]
    scaled = nn.Sequential(nn.Identity(), net)
    scaled[0].forward = lambda x: (x + 2) / 4
    options = {"attack": "mma", "burn_in": 0, "seed": 0, "steps": 3}
    near = PART(eps=0.2, eps_low=0.2, alpha=0.05, **options).perturb(net, images, labels)
    far = PART(eps=0.8, eps_low=0.8, alpha=0.2, clip=(-2.0, 2.0), **options).perturb(scaled, 4 * images - 2, labels)
    assert far.min() >= -2
    assert far.min() < -1
    assert torch.isclose((far + 2) / 4, near, atol=1e-6).float().mean() > 0.99


def test_samples_without_a_gradient_are_counted(batch):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(10)[batch[1]].repeat(len(x) // 16, 1) + 0 * x.mean((1, 2, 3))[:, None]

    part = PART(budget=FixedBudget(EPS), attack="mma", burn_in=0)
    adv = part.perturb(Constant(), *batch)
    assert part.zero_gradients == part.attacked > 0
    assert ((adv - batch[0]).abs() <= EPS + 1e-6).all()


def test_training_with_it_makes_a_model_robust(digits_net, digits):
    images, labels = digits[0][1400:1600], digits[1][1400:1600]

    def robust_error():
        digits_net.eval()
        adv = run(torchattacks.PGD(digits_net, eps=EPS, alpha=EPS / 4, steps=10), images, labels)
        return 1 - accuracy(digits_net, adv, labels)

    before = robust_error()
    torch.manual_seed(0)
    train(digits_net, PART(eps=EPS, eps_low=0.8 * EPS, alpha=EPS / 2, steps=3, attack="mma", burn_in=1), digits, 3)
    after = robust_error()
    print(f"robust error {before:.3f} -> {after:.3f}")
    assert after < before - 0.1
    assert accuracy(digits_net, images, labels) > 0.8


def test_attacks_that_are_not_known():
    with pytest.raises(ValueError, match="^attack='x' is not known; choose from 'pgd', 'mma'$"):
        PART(attack="x")
    assert "steps=10, attack=mma," in repr(PART(attack="mma"))
    assert "steps=10, attack=pgd," in repr(PART())
