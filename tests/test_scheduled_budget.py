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


def test_weights_that_are_no_masks_cannot_be_remembered(digits_net, batch):
    budget = scheduled(mask_every=2, rule=Soft())
    budget.schedule.set_epoch(0)
    with pytest.raises(ValueError, match="^mask_every > 1 remembers a bit per pixel, and the rule gives torch.float32"):
        budget.radii(digits_net, *batch, torch.arange(16))


def test_masks_that_are_given_are_checked(batch):
    budget = scheduled()
    budget.check_important(None, batch[0])
    budget.check_important(torch.ones(16, 1, 8, 8, dtype=torch.bool), batch[0])
    for wrong, found in (
        (torch.ones(16, 1, 8, 8), "torch.float32 (16, 1, 8, 8)"),
        (torch.ones(16, 8, 8, dtype=torch.bool), "torch.bool (16, 8, 8)"),
        (torch.ones(15, 1, 8, 8, dtype=torch.bool), "torch.bool (15, 1, 8, 8)"),
        (torch.ones(16, 1, 8, 9, dtype=torch.bool), "torch.bool (16, 1, 8, 9)"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(f'important is {found}; bool (16, 1, 8, 8) is needed')}$"):
            budget.check_important(wrong, batch[0])
