"""What happened in one epoch of an ART trainer."""

import pytest
import torch

from part_plugin import PART, FixedBudget, PixelBudget
from part_plugin.adapters.art.tally import Tally
from part_plugin.objectives import Outputs


def outputs(loss, adv, natural=None):
    """Logits (N, 2) that predict the classes given."""
    return Outputs(torch.tensor(loss), torch.eye(2)[adv], None if natural is None else torch.eye(2)[natural])


def test_means_are_of_samples_not_of_batches():
    tally = Tally([PART("trades", burn_in=0)])
    tally.add(outputs(1.0, [0, 1, 1], [0, 0, 1]), torch.tensor([0, 0, 1]))
    assert tally.shown() == {"loss": "1.000", "adv": "66.7%"}
    tally.add(outputs(5.0, [0], [1]), torch.tensor([1]))
    assert tally.means() == pytest.approx([2.0, 0.5, 1.0])
    record = tally.record()
    assert record.pop("seconds") >= 0
    assert record == {
        "loss": 2.0, "adv_accuracy": 0.5, "natural_accuracy": 1.0, "no_signal": 0.0, "zero_gradient": 0.0
    }  # fmt: skip


def test_natural_accuracy_is_left_out_where_nobody_knows_it():
    tally = Tally([PART("at", burn_in=0)])
    tally.add(outputs(1.0, [0]), torch.tensor([0]))
    assert list(tally.record()) == ["loss", "adv_accuracy", "no_signal", "zero_gradient", "seconds"]


def test_one_map_and_one_sample_without_signal_are_all_of_them(digits_net, batch):
    torch.nn.init.zeros_(digits_net.head.weight)
    part = PART(steps=1, burn_in=0)
    tally = Tally([part])
    part.perturb(digits_net, batch[0][:1], batch[1][:1])
    tally.add(outputs(1.0, [0]), torch.tensor([0]))
    record = tally.record()
    assert record["no_signal"] == record["zero_gradient"] == 1
    assert 0 < record["seconds"] < 60


def test_counts_are_those_of_this_epoch_and_a_shared_budget_counts_once(digits_net, batch):
    """16 maps before the epoch; in it 16 + 16 of one budget, 8 of another, all of those 8 without signal."""
    seen = PixelBudget(0.1)
    seen(digits_net, *batch)
    shared, other = PixelBudget(0.1), PixelBudget(0.1)
    parts = [PART(budget=budget, steps=1, burn_in=0) for budget in (shared, shared, other, FixedBudget(0.1))]
    parts[0].perturb(digits_net, *batch)
    tally = Tally(parts)
    parts[0].perturb(digits_net, *batch)
    parts[1].perturb(digits_net, *batch)
    torch.nn.init.zeros_(digits_net.head.weight)
    parts[2].perturb(digits_net, batch[0][:8], batch[1][:8])
    parts[3].perturb(digits_net, batch[0][:10], batch[1][:10])
    tally.add(outputs(1.0, [0]), torch.tensor([0]))
    record = tally.record()
    assert record["no_signal"] == (2 * seen.no_signal + 8) / 40
    assert record["zero_gradient"] == 18 / 50
