import copy
import re

import numpy as np
import pytest
import torch
from conftest import assert_untouched, snapshot
from torch import nn

from part_plugin import AT, PART, FixedBudget, Objective, PixelBudget, class_activation_map
from part_plugin.network import batching
from part_plugin.network.view import logits_of

SETTINGS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.05, "steps": 5}


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_one_batch(lived_in, batch, objective):
    """The loss is that of the objective on Pixel-AG examples, differentiable, on an untouched model."""
    part = PART(objective, burn_in=0, seed=0, **SETTINGS)
    radii = part.budget(lived_in, *batch)
    before = snapshot(lived_in)
    adv = part.perturb(lived_in, *batch)
    assert_untouched(lived_in, before)
    assert ((adv - batch[0]).abs() <= radii + 1e-6).all()
    assert ((adv - batch[0]).abs() > 0.06).any()
    assert (radii == 0.05).float().mean() > 0.5

    lived_in.zero_grad()
    part.step = 0
    part.loss(lived_in, *batch).backward()
    assert lived_in.head.weight.grad.abs().sum() > 0


def test_at_maximises_the_loss_it_trains_on(digits_net, batch):
    part = PART("at", burn_in=0, **SETTINGS)
    adv = part.perturb(digits_net, *batch)
    loss = AT().loss
    assert loss(digits_net(adv), batch[1], None) > 2 * loss(digits_net(batch[0]), batch[1], None)


def test_burn_in_uses_eps_everywhere(digits_net, batch):
    part = PART("at", burn_in=2, seed=0, **SETTINGS)
    for epoch, expect_low in ((0, False), (1, False), (2, True)):
        part.set_epoch(epoch)
        part.step = 0
        far = ((part.perturb(digits_net, *batch) - batch[0]).abs() > 0.051).any(1).float().mean()
        assert (far < 0.4) == expect_low, (epoch, far)


def test_eps_as_a_function_of_the_epoch(digits_net, batch):
    """Is the eps that the epoch gives it, by hand."""
    part = PART(eps=lambda epoch: 0.04 * (epoch + 1), burn_in=1, alpha=0.1, seed=0)
    for epoch in range(3):
        part.set_epoch(epoch)
        fixed = PART(eps=0.04 * (epoch + 1), burn_in=1, alpha=0.1, seed=0)
        fixed.set_epoch(epoch)
        part.step = 0
        assert torch.equal(part.perturb(digits_net, *batch), fixed.perturb(digits_net, *batch))
    with pytest.raises(ValueError, match=r"^eps=1.2 "):
        part.set_epoch(29)
    message = r"^eps=<<lambda>> does not go with budget=FixedBudget\(eps=0.1\), which has its own$"
    with pytest.raises(ValueError, match=message):
        PART(eps=lambda epoch: 0.1, budget=FixedBudget(0.1))


def test_burn_in_that_nobody_counts_is_an_error(digits_net, batch):
    with pytest.raises(RuntimeError, match=r"burn_in=20 and mask_every=1 count epochs: call set_epoch\(epoch\)"):
        PART().loss(digits_net, *batch)


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
def test_equal_radii_are_plain_adversarial_training(digits_net, batch, objective):
    plain = PART(objective, burn_in=0, seed=3, budget=FixedBudget(0.1))
    pixel = PART(objective, burn_in=0, seed=3, eps=0.1, eps_low=0.1)
    assert torch.equal(plain.loss(digits_net, *batch), pixel.loss(digits_net, *batch))


def test_masks_are_remembered_per_sample_between_renewals(digits_net, digits):
    x, y = digits[0][:64], digits[1][:64]
    part = PART("at", burn_in=1, mask_every=3, seed=0, **SETTINGS)
    made = []
    for epoch in range(8):
        part.set_epoch(epoch)
        for index in torch.randperm(64).split(16):
            part.perturb(digits_net, x[index], y[index], index)
        made.append(part.budget.images)
    assert made == [0, 64, 64, 64, 128, 128, 128, 192]  # burn-in, then maps in epochs 1, 4 and 7

    index = torch.tensor([40, 3, 17])
    expected = part.budget.weights(digits_net, x[index])[0]
    nn.init.normal_(digits_net.head.weight)  # the remembered masks do not follow the weights
    assert torch.equal(part.scheduled.remembered(digits_net, x[index], y[index], index), expected)
    assert not torch.equal(part.budget.weights(digits_net, x[index])[0], expected)


def test_remembered_masks_take_a_bit_per_pixel(digits_net, digits):
    part = PART("at", burn_in=0, mask_every=10, **SETTINGS)
    part.set_epoch(0)
    part.perturb(digits_net, digits[0][:64], digits[1][:64], torch.arange(64))
    assert part.state_dict()["masks"].nbytes == 64 * 8 * 8 / 8


def test_masks_that_are_remembered_need_an_index(digits_net, batch):
    part = PART("at", burn_in=0, mask_every=10)
    with pytest.raises(RuntimeError, match="burn_in=0 and mask_every=10 count epochs"):
        part.loss(digits_net, *batch)
    part.set_epoch(0)
    with pytest.raises(ValueError, match=r"mask_every=10 remembers masks per sample; pass index of shape \(16,\)"):
        part.loss(digits_net, *batch)
    with pytest.raises(ValueError, match="mask_every=2 needs a PixelBudget"):
        PART(budget=FixedBudget(0.1), mask_every=2)


def test_a_seed_needs_no_saved_state_to_resume(digits_net, batch):
    def train(part, model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            part.loss(model, *batch).backward()
            optimizer.step()
            torch.rand(1)  # somebody else draws from the global generator

    straight, resumed = copy.deepcopy(digits_net), copy.deepcopy(digits_net)
    train(PART("trades", burn_in=0, seed=7, **SETTINGS), straight, torch.optim.SGD(straight.parameters(), 0.001), 4)
    train(PART("trades", burn_in=0, seed=7, **SETTINGS), resumed, torch.optim.SGD(resumed.parameters(), 0.001), 2)
    later = PART("trades", burn_in=0, seed=7, **SETTINGS)
    later.step = 2
    train(later, resumed, torch.optim.SGD(resumed.parameters(), 0.001), 2)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_seed_leaves_the_global_generator_alone(digits_net, batch):
    state = torch.random.get_rng_state()
    PART("at", burn_in=0, seed=7, **SETTINGS).perturb(digits_net, *batch)
    PixelBudget()(digits_net, *batch)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_ranks_start_at_different_points(digits_net, batch, monkeypatch):
    part = PART("at", burn_in=0, seed=7, **SETTINGS)
    radii = torch.full((16, 1, 8, 8), 0.2)
    first = part._start(batch[0], radii)
    monkeypatch.setenv("RANK", "1")
    assert not torch.equal(part._start(batch[0], radii), first)


def test_an_objective_of_ones_own(digits_net, batch):
    class Margin(Objective):
        needs_natural = True

        def attack_loss(self, adv_logits, labels, natural_logits):
            return adv_logits.sum()

        def loss(self, adv_logits, labels, natural_logits):
            return (adv_logits - natural_logits).abs().mean()

    part = PART(Margin(), burn_in=0, **SETTINGS)
    loss = part.loss(digits_net, *batch)
    assert loss > 0
    assert digits_net(part.perturb(digits_net, *batch)).sum() > digits_net(batch[0]).sum()


def test_label_formats(digits_net, batch):
    x, y = batch
    losses = [
        PART("mart", burn_in=0, seed=0).loss(digits_net, x, labels)
        for labels in (y, y[:, None], nn.functional.one_hot(y, 10), nn.functional.one_hot(y, 10).float(), y.int())
    ]
    assert all(torch.equal(loss, losses[0]) for loss in losses)


def test_images_of_another_range(digits_net, batch):
    """eps is in the units of the images: a scaled problem gives a scaled answer."""
    x, y = batch
    scaled = nn.Sequential(nn.Identity(), digits_net)
    scaled[0].forward = lambda images: (images + 2) / 4
    options = {"burn_in": 0, "seed": 0, "steps": 3}
    near = PART(eps=0.2, eps_low=0.1, alpha=0.05, **options).perturb(digits_net, x, y)
    far = PART(eps=0.8, eps_low=0.4, alpha=0.2, clip=(-2.0, 2.0), **options).perturb(scaled, 4 * x - 2, y)
    close = torch.isclose((far + 2) / 4, near, atol=1e-5)
    assert close.float().mean() > 0.99


def test_training_makes_a_model_robust(digits):
    """The point of it all: after a minute's worth of PART, PGD is hardly a threat any more."""
    from conftest import SmallNet

    torch.manual_seed(0)
    x, y = digits
    net = SmallNet()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    part = PART("at", eps=0.1, eps_low=0.08, alpha=0.03, steps=5, burn_in=2, seed=0)
    attack = PART("at", budget=FixedBudget(0.1), alpha=0.025, steps=10, burn_in=0, seed=0)

    def robust_accuracy():
        net.eval()
        adv = attack.perturb(net, x[1400:], y[1400:])
        return float((logits_of(net, adv).argmax(1) == y[1400:]).float().mean())

    for epoch in range(10):
        net.train()
        part.set_epoch(epoch)
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            part.loss(net, x[rows], y[rows]).backward()
            optimizer.step()
    trained = robust_accuracy()
    assert trained > 0.5, trained


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x, y: (x + 0.5, y), ValueError, r"images span \[0.5, 1.5\]; allowed is \[0, 1\]"),
        (lambda x, y: ((255 * x).byte(), y), TypeError, "images are torch.uint8; a floating-point tensor is needed"),
        (lambda x, y: (x.numpy(), y), TypeError, "images are a ndarray; a floating-point tensor is needed"),
        (lambda x, y: (x * torch.nan, y), ValueError, "images contain NaN or infinite values; they must be finite"),
        (lambda x, y: (x[0], y), ValueError, r"images have shape \(1, 8, 8\); \(N, C, H, W\)"),
        (lambda x, y: (x[:0], y[:0]), ValueError, r"images have shape \(0, 1, 8, 8\); \(N, C, H, W\) with N >= 1"),
        (lambda x, y: (x, y[:3]), ValueError, r"labels have shape \(3,\); expected \(16,\), \(16, 1\) or \(16, K\)"),
        (lambda x, y: (x, y + 5), ValueError, r"labels contain class 1\d; allowed is 0 to 9"),
        (lambda x, y: (x, y - 5), ValueError, r"labels contain class -\d; allowed is 0 and above"),
        (lambda x, y: (x, y + 0.5), ValueError, "labels are not whole numbers; class indices are needed"),
        (
            lambda x, y: (x, torch.rand(16, 10)),
            ValueError,
            r"labels of shape \(16, 10\) are neither one-hot nor",
        ),
    ],
)
def test_wrong_batches(digits_net, batch, change, error, message):
    before = snapshot(digits_net)
    with pytest.raises(error, match=message):
        PART("at", burn_in=0).loss(digits_net, *change(*batch))
    assert_untouched(digits_net, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0 is not allowed; it must be >= 1"),
        ({"alpha": 0}, "alpha=0 is not allowed; it must be > 0"),
        ({"burn_in": -1}, "burn_in=-1 is not allowed; it must be >= 0"),
        ({"mask_every": 0}, "mask_every=0 is not allowed; it must be >= 1"),
        ({"eps_low": 0.5}, "eps_low=0.5 is larger than eps"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        PART(**options)


def test_settings_of_the_wrong_type():
    with pytest.raises(TypeError, match=r"steps=2.5 is a float; an integer is needed"):
        PART(steps=2.5)
    with pytest.raises(TypeError, match="^treshold=2 is no argument here"):
        PART(treshold=2)


def test_a_model_that_returns_no_logits(batch):
    with pytest.raises(
        ValueError, match=r"the model's output is \(16, 1, 8, 8\); logits of shape \(16, K\) are needed"
    ):
        PART("at", burn_in=0, budget=FixedBudget(0.1)).loss(nn.Conv2d(1, 1, 1), *batch)


def test_distributed_data_parallel(digits_net, batch, tmp_path):
    """The attack runs on the module inside, the loss through the wrapper, whose gradients are those of one process."""
    expected = PART("trades", burn_in=0, seed=0, **SETTINGS).loss(digits_net, *batch)
    gradients = torch.autograd.grad(expected, list(digits_net.parameters()))
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(digits_net)
        PART("trades", burn_in=0, seed=0, **SETTINGS).loss(wrapped, *batch).backward()
    finally:
        torch.distributed.destroy_process_group()
    for parameter, gradient in zip(digits_net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_criterion_of_ones_own(digits_net, batch):
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.3)
    part = PART(AT(smoothed), burn_in=0, seed=0, **SETTINGS)
    adv = part.perturb(digits_net, *batch)
    part.step = 0
    assert torch.equal(part.loss(digits_net, *batch), smoothed(digits_net(adv), batch[1]))


def test_repr():
    assert repr(PART("trades", eps=0.2, eps_low=0.1)) == (
        "PART(TRADES(beta=6.0), PixelBudget(eps=0.2, eps_low=0.1, cam=gradcam, target_layers=auto, rule=Threshold(1), "
        f"target=predicted), alpha={2 / 255}, steps=10, attack=pgd, burn_in=20, mask_every=1)"
    )
    assert "attack=mma, " in repr(PART(attack="mma"))


def test_masks_that_are_given_are_used(digits_net, batch):
    part = PART("at", burn_in=1, seed=0, **SETTINGS)
    part.set_epoch(1)
    important = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    radii = torch.where(important, part.budget.eps, part.budget.eps_low)
    moved = (part.perturb(digits_net, *batch, important=important) - batch[0]).abs()
    assert (moved <= radii + 1e-6).all()
    assert (moved > part.budget.eps_low + 1e-6).any()
    assert part.budget.images == 0
    part.set_epoch(0)
    burning = (part.perturb(digits_net, *batch, important=~important) - batch[0]).abs()
    assert (burning[important] > part.budget.eps_low + 1e-6).any()
    for wrong in (important.int(), important[:3], important[:, :, :4]):
        with pytest.raises(
            ValueError, match=r"important is torch\..*; \(16, 1, 8, 8\), bool or in \[0, 1\], is needed"
        ):
            part.loss(digits_net, *batch, important=wrong)


def test_masks_are_remembered_ahead_of_training(digits_net, batch):
    part = PART("at", burn_in=1, mask_every=2, seed=0, **SETTINGS)
    index = torch.arange(100, 116)
    part.set_epoch(0)
    assert not part.masks_due()
    assert part.masks_of(index, (8, 8)).all()
    part.set_epoch(1)
    assert part.masks_due()
    before, expected = snapshot(digits_net), part.budget.weights(digits_net, *batch)[0]
    part.remember(digits_net, *batch, index)
    assert_untouched(digits_net, before)
    assert not part.masks_due()
    assert torch.equal(part.masks_of(index, (8, 8)), expected)
    assert part.state_dict()["masks"].nbytes == 16 * 64 / 8  # a bit per pixel
    part.set_epoch(2)
    assert not part.masks_due()
    part.set_epoch(3)
    assert part.masks_due()


@pytest.mark.parametrize("objective", ["at", "trades"])
@pytest.mark.parametrize("attack", ["pgd", "mma"])
def test_attacked_in_parts_is_attacked_at_once(robust_net, batch, monkeypatch, objective, attack):
    """Rows do not meet in eval mode; parts of 1 and of 5 images give the examples of the whole batch."""
    found = []
    largest = batching.VALUES_AT_ONCE // batching.rows_at_once(robust_net, batch[0])
    for rows in (1, 5, 32):
        monkeypatch.setattr(batching, "VALUES_AT_ONCE", rows * largest)
        part = PART(objective, eps=0.1, eps_low=0.05, alpha=0.025, steps=5, attack=attack, burn_in=0, seed=0)
        found.append(part.perturb(robust_net, *batch))
        assert part.attacked == 16 * (3 if attack == "mma" else 1)
    for adv in found[:2]:  # the sign of a gradient that is zero but for rounding may differ
        assert ((adv - found[2]).abs() > 1e-6).float().mean() < 0.01


def test_the_map_shares_its_forward_pass_with_trades(digits_net, batch):
    """PART-T runs the network as often as TRADES does, and attacks from the same natural logits."""
    counts = {}
    calls = []
    digits_net.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    class_activation_map(digits_net, batch[0], target_layers="features")  # looks at one image, once for a network
    batching.rows_at_once(digits_net, batch[0])
    for name, eps_low in (("TRADES", 0.1), ("PART-T", 0.08)):
        part = PART("trades", eps=0.1, eps_low=eps_low, alpha=0.03, steps=3, burn_in=0, target_layers="features")
        calls.clear()
        part.loss(digits_net, *batch)
        counts[name] = calls.copy()
    assert counts["PART-T"] == counts["TRADES"] == [16] * 6
    important, logits = part.budget.weights(digits_net, *batch)
    with torch.no_grad():
        assert torch.equal(logits, digits_net(batch[0]))
    expected = PixelBudget(target_layers="features").weights(digits_net, *batch)[0]
    assert torch.equal(important, expected)


# The step, written by hand


def crafted_by_hand(name, net, x, y, radii, eps, alpha, steps, seed, step, clip=(0.0, 1.0)):
    """Start and ascent: uniform and cross-entropy for AT, Gaussian and KL for TRADES, Gaussian and CE for MART."""
    key = np.random.SeedSequence((seed, 0, step)).generate_state(1, np.uint64)[0] >> 1
    generator = torch.Generator().manual_seed(int(key))
    if name == "at":
        start = x + torch.empty_like(x).uniform_(-eps, eps, generator=generator) * radii / eps
    else:
        noise = 0.001 * torch.empty_like(x).normal_(generator=generator)
        start = x + torch.minimum(torch.maximum(noise, -radii), radii)
    adv = start.clamp(*clip)
    natural = net(x).detach().softmax(1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        log_p = net(adv).log_softmax(1)
        loss = (natural * (natural.log() - log_p)).sum() if name == "trades" else -log_p[range(len(y)), y].mean()
        (gradient,) = torch.autograd.grad(loss, adv)
        adv = adv.detach() + alpha * gradient.sign()
        adv = torch.minimum(torch.maximum(adv, x - radii), x + radii).clamp(*clip)
    return adv


def loss_by_hand(name, net, x, adv, y, beta):
    natural, log_p = net(x).softmax(1), net(adv).log_softmax(1)
    rows = range(len(y))
    kl = (natural * (natural.log() - log_p)).sum(1)
    if name == "at":
        return -log_p[rows, y].mean()
    if name == "trades":
        return (-natural.log()[rows, y] + beta * kl).mean()
    rival = log_p.exp().index_put((torch.arange(len(y)), y), torch.zeros(())[None].to(log_p.dtype)).amax(1)
    return (-log_p[rows, y] - (1.0001 - rival).log() + beta * kl * (1 - natural[rows, y])).mean()


@pytest.mark.parametrize("name", ["at", "trades", "mart"])
@pytest.mark.parametrize("target", ["predicted", "true"])
@pytest.mark.parametrize("beta", [None, 2.0])
def test_the_step_is_the_one_written_by_hand(digits_net, batch, name, target, beta):
    net, x, y = digits_net.double(), batch[0].double(), batch[1].clone()
    y[::3] = (y[::3] + 1) % 10  # some that are not predicted
    options = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.02, "steps": 3, "burn_in": 0, "seed": 5, "target": target}
    part = PART(name, beta=None if name == "at" else beta, **options)
    maps = class_activation_map(net, x, y if target == "true" else None)
    without = maps.amax((1, 2, 3), keepdim=True) == 0
    deviation, mean = torch.std_mean(maps, (1, 2, 3), correction=0, keepdim=True)
    high, low = torch.tensor([0.2, 0.05], dtype=torch.float64)
    radii = torch.where(without | (maps - mean > deviation), high, low)
    for step in range(2):
        expected = crafted_by_hand(name, net, x, y, radii, 0.2, 0.02, 3, 5, step)
        assert part.step == step
        adv = part.perturb(net, x, y)
        torch.testing.assert_close(adv, expected, rtol=0, atol=1e-12)
    part.step = 0
    adv = crafted_by_hand(name, net, x, y, radii, 0.2, 0.02, 3, 5, 0)
    expected = loss_by_hand(name, net, x, adv, y, 6.0 if beta is None else beta)
    assert part.loss(net, x, y).item() == pytest.approx(expected.item(), rel=1e-9)
    assert part.attacked == 3 * 16
    assert part.zero_gradients == 0


def test_defaults_are_those_of_the_paper():
    part = PART()
    assert (type(part.objective), part.budget.eps, part.budget.eps_low) == (AT, 8 / 255, 7 / 255)
    assert (part.alpha, part.steps, part.random_start, part.clip) == (2 / 255, 10, True, (0.0, 1.0))
    assert (part.schedule.burn_in, part.schedule.mask_every, part.fast, part.seed) == (20, 1, (), None)
    assert (part.step, part.attacked, part.zero_gradients, len(part.masks)) == (0, 0, 0, 0)
    assert repr(part.budget.rule) == "Threshold(1)"


def test_without_a_random_start_the_attack_begins_at_the_image(digits_net, batch):
    options = {"eps": 0.2, "eps_low": 0.2, "alpha": 0.01, "steps": 1, "burn_in": 0, "random_start": False}
    state = torch.random.get_rng_state()
    moved = (PART("at", **options).perturb(digits_net, *batch) - batch[0]).abs()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert ((moved < 1e-6) | ((moved - 0.01).abs() < 1e-6)).all()


def test_without_a_seed_the_global_generator_is_drawn_from(digits_net, batch):
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        part = PART(burn_in=0, **SETTINGS)
        found.append([part.perturb(digits_net, *batch) for _ in range(2)])
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(*found[0])


# What the attack sees, and what it leaves


class Watched(nn.Module):
    """A network that notes in which state it is run."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        frozen = not any(parameter.requires_grad for parameter in self.net.parameters())
        self.seen.append((frozen, self.net.training, x.requires_grad))
        return self.net(x)


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize("attack", ["pgd", "mma"])
def test_the_network_is_frozen_and_in_eval_mode_while_it_is_attacked(digits_net, batch, objective, attack):
    net = Watched(digits_net.train())
    net.train()
    part = PART(objective, attack=attack, burn_in=0, **SETTINGS)
    part.loss(net, *batch)
    training = [state for state in net.seen if state[1]]
    attacking = [state for state in net.seen if not state[1]]
    assert all(frozen for frozen, _, _ in attacking)
    assert sum(gradient for _, _, gradient in attacking) == 1 + 5  # once for the layer to map, and the attack's
    assert training == [(False, True, False)] * (1 if objective == "at" else 2)


class InPlace(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.mul_(0.5).add_(0.1))


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize("attack", ["pgd", "mma"])
def test_a_model_that_works_in_place_on_its_input(digits_net, batch, objective, attack):
    class OutOfPlace(InPlace):
        def forward(self, x):
            return self.net(x * 0.5 + 0.1)

    x, y = batch[0].clone(), batch[1].clone()
    losses = [
        PART(objective, attack=attack, burn_in=0, seed=0, **SETTINGS).loss(kind(digits_net), x, y)
        for kind in (InPlace, OutOfPlace)
    ]
    assert torch.equal(*losses)
    assert torch.equal(x, batch[0])
    assert torch.equal(y, batch[1])


def test_batches_and_gradients_of_the_caller_are_left_alone(digits_net, batch):
    x = batch[0].clone().requires_grad_()
    part = PART("trades", burn_in=0, seed=0, **SETTINGS)
    adv = part.perturb(digits_net, x, batch[1])
    assert x.grad is None
    assert not adv.requires_grad
    part.step = 0
    with torch.inference_mode():
        again = part.perturb(digits_net, batch[0] * 1, batch[1] * 1)
    assert torch.equal(again, adv)
    assert not again.is_inference()


def test_a_budget_that_works_in_place_does_so_on_a_copy(digits_net, batch):
    class Own:
        eps = 0.1

        def __call__(self, model, images, labels=None):
            labels.zero_()
            return images.mul_(0.1)

    x, y = batch[0].clone(), batch[1].clone()
    PART(budget=Own(), burn_in=0).perturb(digits_net, x, y)
    assert torch.equal(x, batch[0])
    assert torch.equal(y, batch[1])


def test_the_true_label_reaches_the_map(digits_net, batch):
    other = (digits_net(batch[0]).argmax(1) + 1) % 10
    part = PART(burn_in=0, target="true", steps=1, eps=0.2, eps_low=0.05, alpha=0.2, seed=0)
    radii = part.budget(digits_net, batch[0], other)
    assert not torch.equal(radii, part.budget(digits_net, *batch))
    moved = (part.perturb(digits_net, batch[0], other) - batch[0]).abs()
    assert (moved <= radii + 1e-6).all()
    assert ((moved - radii).abs() < 1e-6).float().mean() > 0.3


def test_gradients_that_are_missing_are_counted(digits_net, batch):
    class Partly(nn.Module):
        """Logits that follow the image in rows 2 and 3 alone, and are no numbers in row 1."""

        def forward(self, x):
            logits = torch.zeros(len(x), 10)
            logits = logits + torch.tensor([0.0, torch.nan, 1.0, 1.0])[:, None] * x.mean((1, 2, 3))[:, None]
            return logits * torch.arange(10)

    part = PART(budget=FixedBudget(0.1), burn_in=0, seed=0, steps=3)
    part.perturb(Partly(), batch[0][:4], batch[1][:4])
    assert (part.attacked, part.zero_gradients) == (4, 2)
    part.perturb(digits_net, *batch)
    assert (part.attacked, part.zero_gradients) == (20, 2)


def test_the_wrapper_is_trained_and_not_attacked(digits_net, batch):
    class Wrapper(nn.DataParallel):
        calls = 0

        def forward(self, *inputs):
            self.calls += 1
            return super().forward(*inputs)

    wrapped, inner = Wrapper(digits_net), []
    digits_net.register_forward_hook(lambda *call: inner.append(1))
    PART("trades", burn_in=0, **SETTINGS).loss(wrapped, *batch)
    assert wrapped.calls == 2
    assert len(inner) > 7


# Settings that are refused

REFUSED = [
    ({"steps": 0}, ValueError, "steps=0 is not allowed; it must be >= 1"),
    ({"alpha": -0.1}, ValueError, "alpha=-0.1 is not allowed; it must be > 0"),
    ({"alpha": 2}, ValueError, "alpha=2 is larger than the range of the images, 1; did you mean 2/255?"),
    ({"eps": 8}, ValueError, "eps=8 is larger than the range of the images, 1; did you mean 8/255?"),
    (
        {"budget": FixedBudget(8)},
        ValueError,
        "eps=8 is larger than the range of the images, 1; did you mean 8/255?",
    ),
    ({"eps": 8, "clip": (-2, 2)}, ValueError, "eps=8 is larger than the range of the images, 4"),
    ({"eps": float("inf")}, ValueError, "eps=inf is not allowed; it must be finite and >= 0"),
    (
        {"budget": 0.1},
        TypeError,
        "budget=0.1 is a float; a Budget or an object with eps and a call (model, images, labels) -> radii is needed "
        "(for one radius everywhere: FixedBudget)",
    ),
    ({"clip": 0.5}, TypeError, "clip=0.5 is not a pair; (smallest, largest) pixel value is needed, e.g. (0, 1)"),
    (
        {"clip": (float("nan"), 1)},
        ValueError,
        "clip=(nan, 1) is not allowed; two finite bounds are needed, the first below the second",
    ),
    (
        {"budget": FixedBudget(0.1), "eps_low": 0.05},
        ValueError,
        "eps_low=0.05 does not go with budget=FixedBudget(eps=0.1), which has its own",
    ),
    (
        {"budget": FixedBudget(0.1), "cam": "layercam"},
        ValueError,
        "cam=layercam does not go with budget=FixedBudget(eps=0.1), which has its own",
    ),
    (
        {"objective": AT(), "beta": 6.0},
        ValueError,
        "beta=6.0 does not go with objective=AT(); give it to the objective",
    ),
    (
        {"budget": FixedBudget(0.1), "mask_every": 2},
        ValueError,
        "mask_every=2 needs a PixelBudget; FixedBudget(eps=0.1) has no masks to renew",
    ),
    ({"seed": -1}, ValueError, "seed=-1 is not allowed; it must be >= 0"),
    ({"seed": 1.0}, TypeError, "seed=1.0 is a float; an integer is needed"),
    ({"burn_in": 2.5}, TypeError, "burn_in=2.5 is a float; an integer is needed"),
    ({"rule": 1.0}, TypeError, "rule=1.0 is a float; a function of maps is needed, such as Threshold(1.0)"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_settings_that_are_refused_in_one_sentence(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        PART(**options)


def test_radii_as_large_as_the_range_pass(digits_net, batch):
    for options in ({"eps": 0.3, "alpha": 1}, {"eps": 1, "alpha": 0.01}, {"eps": 255, "clip": (0, 255), "alpha": 2}):
        PART(**options)
    adv = PART(eps=1, alpha=1, burn_in=0).perturb(digits_net, *batch)
    assert adv.min() == 0
    assert adv.max() == 1


def test_calls_that_are_refused_in_one_sentence(digits_net, batch):
    part = PART(burn_in=0, mask_every=2)
    message = (
        "burn_in=0 and mask_every=2 count epochs: call set_epoch(epoch) at the start of each, "
        "or pass burn_in=0 and mask_every=1"
    )
    for call in (part.masks_due, lambda: part.loss(digits_net, *batch)):
        with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
            call()
    before = snapshot(digits_net)
    fixed = PART(budget=FixedBudget(0.1), burn_in=0)
    important = torch.ones(16, 1, 8, 8, dtype=torch.bool)
    message = "important does not go with FixedBudget(eps=0.1), which has a radius for every pixel already"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fixed.loss(digits_net, *batch, important=important)
    message = "important is a ndarray; a tensor (16, 1, 8, 8), bool or in [0, 1], is needed"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        PART(burn_in=0).loss(digits_net, *batch, important=important.numpy())
    assert_untouched(digits_net, before)


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_what_a_training_pass_returns(digits_net, batch, objective):
    part = PART(objective, burn_in=0, **SETTINGS)
    adv = (batch[0] + 0.1).clamp(0, 1)
    outputs = part.training_pass(digits_net, batch[0], adv, nn.functional.one_hot(batch[1], 10))
    assert torch.equal(outputs.adv_logits, digits_net(adv))
    if objective == "at":
        assert outputs.natural_logits is None
    else:
        assert torch.equal(outputs.natural_logits, digits_net(batch[0]))
    expected = part.objective.loss(digits_net(adv), batch[1], digits_net(batch[0]))
    assert torch.equal(outputs.loss, expected)


def test_masks_are_remembered_in_the_loss_and_of_images_of_another_range(digits_net, batch):
    part = PART(burn_in=0, mask_every=2, eps=0.2, eps_low=0.05, alpha=0.05, clip=(-2.0, 2.0))
    part.set_epoch(0)
    part.remember(digits_net, 4 * batch[0] - 2, nn.functional.one_hot(batch[1], 10), torch.arange(16))
    assert len(part.masks) == 16
    part.loss(digits_net, 4 * batch[0] - 2, batch[1], torch.arange(10, 26))
    assert (len(part.masks), part.budget.images) == (26, 26)
    with pytest.raises(ValueError, match=r"^images span \[0, 4\]; allowed is \[-2, 2\]; clip=\("):
        part.remember(digits_net, 4 * batch[0], batch[1], torch.arange(16))


def test_a_state_goes_through_a_file(digits_net, batch, tmp_path):
    part = PART(burn_in=0, mask_every=2, seed=0, **SETTINGS)
    part.set_epoch(0)
    index = torch.arange(16)
    part.perturb(digits_net, *batch, index)
    torch.save(part.state_dict(), tmp_path / "part.pt")
    other = PART(burn_in=0, mask_every=2, seed=0, **SETTINGS)
    other.load_state_dict(torch.load(tmp_path / "part.pt", weights_only=True))
    other.set_epoch(1)
    assert other.step == 1
    assert torch.equal(other.perturb(digits_net, *batch, index), part.perturb(digits_net, *batch, index))
    assert other.budget.images == 0
