"""The network that is trained where no surrogate is given."""

import pytest
import torch
from conftest import assert_untouched, snapshot
from evaluation.conftest import EPS
from torch import nn

from part_plugin import PART
from part_plugin.evaluation import surrogate
from part_plugin.evaluation.surrogate import _small_network, train_surrogate
from part_plugin.network.view import logits_of


@pytest.mark.parametrize(("updates", "n", "expected_updates"), [(30, 8, 30), (3, 64, 10)])
def test_it_is_adversarial_training_on_what_the_model_predicts(
    narrow_net, digits, monkeypatch, updates, n, expected_updates
):
    """Written out: steps of Adam at 3e-3 on AT with one step of eps, on batches drawn with the seed."""
    assert surrogate.UPDATES == 40
    monkeypatch.setattr(surrogate, "UPDATES", updates)
    few = digits[0][1400 : 1400 + n]
    before, state = snapshot(narrow_net), torch.random.get_rng_state()
    network = train_surrogate(narrow_net, few, EPS, batch_size=5, seed=3)
    assert_untouched(narrow_net, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        classes = narrow_net(few).argmax(1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = _small_network(1, 10)
        part = PART(eps=EPS, eps_low=EPS, alpha=EPS, steps=1, burn_in=0, seed=3)
        optimizer = torch.optim.Adam(expected.parameters(), lr=3e-3)
        for _ in range(expected_updates):
            rows = torch.randint(n, (n,))
            optimizer.zero_grad()
            part.loss(expected.train(), few[rows], classes[rows]).backward()
            optimizer.step()
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert not any(module.training for module in network.modules())
    if updates == 30:
        with torch.no_grad():
            assert (network(few).argmax(1) == classes).all()


def test_it_is_small_and_of_another_kind():
    network = _small_network(3, 7)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions] == [
        (3, 16, 2),
        (16, 32, 1),
        (32, 64, 2),
    ]
    assert logits_of(network, torch.rand(2, 3, 8, 8)).shape == (2, 7)
