"""The torchattacks classes with an attack that is cheaper and approximate."""

import pytest
import torch
from conftest import assert_untouched, snapshot

from part_plugin import PixelPGD


def layout(model):
    return {name: (p.data_ptr(), p.stride(), p.requires_grad) for name, p in model.named_parameters()}


def test_pixelpgd_takes_fast(robust_net, batch):
    before, where = snapshot(robust_net), layout(robust_net)
    adv = {}
    for fast in ((), "fold"):
        torch.manual_seed(0)
        adv[fast] = PixelPGD(robust_net, eps=0.1, eps_low=0.08, alpha=0.025, fast=fast)(*batch)
    assert_untouched(robust_net, before)
    assert layout(robust_net) == where
    assert float((adv[()] == adv["fold"]).float().mean()) > 0.95
    with pytest.raises(ValueError, match="fast holds 'x'"):
        PixelPGD(robust_net, fast="x")
