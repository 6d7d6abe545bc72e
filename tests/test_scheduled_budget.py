"""The radii of a batch in its epoch."""

import re

import pytest
import torch
from torch import nn

from part_plugin import FixedBudget, PixelBudget, Soft
from part_plugin.network import batching
from part_plugin.scheduled_budget import ScheduledBudget


def scheduled(burn_in=0, mask_every=1, **options):
    return ScheduledBudget(PixelBudget(0.2, 0.05, **options), burn_in, mask_every)


def test_while_burning_in_eps_is_everywhere_and_no_map_is_made(digits_net, batch):
    budget = scheduled(burn_in=1)
    budget.schedule.set_epoch(0)
    for important in (None, torch.zeros(16, 1, 8, 8, dtype=torch.bool)):
        radii, logits = budget.radii(digits_net, *batch, important=important)
        assert torch.equal(radii, torch.full((16, 1, 8, 8), 0.2))
        assert logits is None
    assert budget.budget.images == 0


def test_afterwards_they_are_those_of_the_budget_with_the_logits_of_the_map(digits_net, batch):
    budget = scheduled()
    radii, logits = budget.radii(digits_net, *batch)
    assert torch.equal(radii, PixelBudget(0.2, 0.05)(digits_net, *batch))
    with torch.no_grad():
        assert torch.equal(logits, digits_net(batch[0]))


def test_maps_are_made_in_parts(digits_net, batch, monkeypatch):
    expected = scheduled(rule=Soft(), target="true").radii(digits_net.double(), batch[0].double(), batch[1])
    monkeypatch.setattr(batching, "VALUES_AT_ONCE", 5 * 2048)
    sizes = []
    digits_net.features.register_forward_hook(lambda *call: sizes.append(len(call[1][0])))
    found = scheduled(rule=Soft(), target="true").radii(digits_net, batch[0].double(), batch[1])
    assert 5 in sizes
    assert 16 not in sizes
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_masks_that_are_given_are_used(digits_net, batch):
    budget = scheduled()
    important = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    radii, logits = budget.radii(digits_net, *batch, important=important)
    assert torch.equal(radii, torch.where(important, 0.2, 0.05))
    assert logits is None
    assert budget.budget.images == 0


def test_masks_are_remembered_by_number_whatever_their_order(digits_net, batch):
    budget = scheduled(mask_every=3)
    budget.schedule.set_epoch(0)
    assert budget.masks_due()
    numbers = torch.arange(16) * 7 + 3
    expected = PixelBudget(0.2, 0.05).weights(digits_net, batch[0])[0]
    radii, logits = budget.radii(digits_net, *batch, numbers)
    assert torch.equal(radii, torch.where(expected, 0.2, 0.05))
    assert logits is None
    assert not budget.masks_due()
    nn.init.normal_(digits_net.head.weight)  # from here on the maps are others
    rows = torch.tensor([5, 5, 0, 15])
    for epoch in (1, 2):
        budget.schedule.set_epoch(epoch)
        radii = budget.radii(digits_net, batch[0][rows], batch[1][rows], numbers[rows])[0]
        assert torch.equal(radii, torch.where(expected[rows], 0.2, 0.05))
    assert budget.budget.images == 16
    partly = torch.tensor([3, 999])
    budget.radii(digits_net, batch[0][:2], batch[1][:2], partly)
    assert budget.budget.images == 17
    budget.schedule.set_epoch(3)
    assert budget.masks_due()
    budget.radii(digits_net, *batch, numbers)
    assert budget.budget.images == 33


def test_the_true_class_is_remembered_of(digits_net, batch):
    budget = scheduled(mask_every=2, target="true")
    budget.schedule.set_epoch(0)
    other = (digits_net(batch[0]).argmax(1) + 1) % 10
    masks = budget.remembered(digits_net, batch[0], other, torch.arange(16))
    expected = PixelBudget(target="true").weights(digits_net, batch[0], other)[0]
    assert torch.equal(masks, expected)
    assert not torch.equal(masks, PixelBudget().weights(digits_net, batch[0])[0])


def test_equal_and_fixed_radii_need_no_masks(batch):
    for budget in (FixedBudget(0.1), PixelBudget(0.1, 0.1)):
        radii, logits = ScheduledBudget(budget, 0, 1).radii(None, *batch)
        assert torch.equal(radii, torch.full((16, 1, 8, 8), 0.1))
        assert logits is None


@pytest.mark.parametrize(
    "index", [None, torch.arange(15), torch.arange(16)[:, None], torch.tensor(3), torch.arange(17)]
)
def test_a_number_for_each_sample_is_needed(digits_net, batch, index):
    budget = scheduled(mask_every=2)
    budget.schedule.set_epoch(0)
    message = "mask_every=2 remembers masks per sample; pass index of shape (16,)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        budget.radii(digits_net, *batch, index)
    assert budget.budget.images == 0


def test_masks_of_images_of_another_size(digits_net, batch):
    budget = scheduled(mask_every=2)
    budget.schedule.set_epoch(0)
    budget.radii(digits_net, *batch, torch.arange(16))
    message = "masks are remembered of images of (8, 8), and these are (9, 8); sizes must agree"
    for numbers in (torch.arange(16), torch.arange(16, 32)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            budget.radii(digits_net, torch.rand(16, 1, 9, 8), batch[1], numbers)


def test_soft_weights_are_remembered(digits_net, batch):
    budget, soft = scheduled(mask_every=2, rule=Soft()), PixelBudget(0.2, 0.05, rule=Soft())
    budget.set_epoch(0)
    expected = soft.weights(digits_net, batch[0])[0]
    for epoch in (0, 1):
        budget.set_epoch(epoch)
        radii, _ = budget.radii(digits_net, *batch, torch.arange(16))
        assert torch.equal(radii, soft.radii_of((expected.double() * 255).round().float() / 255, batch[0]))
        nn.init.normal_(digits_net.head.weight)  # the maps are others from here on
    assert budget.budget.images == 16


def test_radii_that_are_functions_of_the_epoch(digits_net, batch):
    def warm_up(epoch):
        return 0.2 * min(1, (epoch + 1) / 4)

    budget = ScheduledBudget(PixelBudget(0.05), 0, 1, eps=warm_up)
    with pytest.raises(RuntimeError, match=r"^burn_in=0 and mask_every=1, eps=<warm_up> count epochs: call set_epoch"):
        budget.radii(digits_net, *batch)
    for epoch, eps in enumerate((0.05, 0.1, 0.15, 0.2, 0.2)):
        budget.set_epoch(epoch)
        radii = budget.radii(digits_net, *batch)[0]
        assert radii.unique().tolist() == pytest.approx([7 / 8 * eps, eps])
    both = ScheduledBudget(PixelBudget(0.5, 0.4), 0, 1, eps=warm_up, eps_low=lambda epoch: 0.01 * epoch)
    both.set_epoch(3)  # below the eps_low before
    assert (both.budget.eps, both.budget.eps_low) == (0.2, 0.03)
    with pytest.raises(ValueError, match=r"^eps_low=0.9 is larger than eps=0.2; it must be <= eps$"):
        both.set_epoch(90)
    assert (both.schedule.epoch, both.budget.eps, both.budget.eps_low) == (3, 0.2, 0.03)
    low = ScheduledBudget(PixelBudget(0.2, 0.1), 0, 1, eps=0.2, eps_low=lambda epoch: 0.01 * epoch)
    low.set_epoch(2)
    assert (low.budget.eps, low.budget.eps_low) == (0.2, 0.02)


class Shrunk(PixelBudget):
    """Half the radii of the paper's."""

    def __call__(self, model, images, labels=None):
        return super().__call__(model, images, labels) / 2


class Inverted(PixelBudget):
    """Full eps where the map is low."""

    def weights(self, model, images, labels=None):
        weights, logits = super().weights(model, images, labels)
        return ~weights, logits


class TooWide(PixelBudget):
    """Radii above eps."""

    def radii_of(self, weights, images):
        return 2 * super().radii_of(weights, images)


def test_a_pixel_budget_that_is_changed_by_a_subclass(digits_net, batch):
    plain = PixelBudget(0.2, 0.05)(digits_net, batch[0])
    radii, logits = ScheduledBudget(Shrunk(0.2, 0.05), 0, 1).radii(digits_net, *batch)
    assert torch.equal(radii, plain / 2)
    assert logits is None
    for mask_every in (1, 2):
        budget = ScheduledBudget(Inverted(0.2, 0.05), 0, mask_every)
        budget.set_epoch(0)
        assert torch.equal(budget.radii(digits_net, *batch, torch.arange(16))[0], torch.where(plain > 0.1, 0.05, 0.2))
        budget = ScheduledBudget(TooWide(0.2, 0.05), 0, mask_every)
        budget.set_epoch(0)
        with pytest.raises(
            ValueError, match=r"^budget returned radii from 0.1 to 0.4; they must be in \[0, eps=0.2\]$"
        ):
            budget.radii(digits_net, *batch, torch.arange(16))
    with pytest.raises(ValueError, match=r"^mask_every=2 needs a PixelBudget; Shrunk\(.* has no masks to renew$"):
        ScheduledBudget(Shrunk(0.2, 0.05), 0, 2)
