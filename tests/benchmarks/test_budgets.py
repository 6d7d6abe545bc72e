"""Budgets to compare PART's with."""

import dataclasses

import harness
import numpy as np
import pandas as pd
import pytest
import torch
from budgets import BUDGETS, make_budget
from matplotlib import colormaps

from part_plugin import PixelBudget, class_activation_map
from part_plugin.recipes.presets import preset
from part_plugin.recipes.training import train

SETTINGS = preset("digits", epochs=2, burn_in=1, steps=2, milestones=[1])


@pytest.fixture(scope="module")
def masks(cifar_net, photos):
    return PixelBudget(0.2, 0.1).weights(cifar_net, photos)[0]


def radii(name, net, images):
    settings = dataclasses.replace(SETTINGS, eps=0.2, eps_low=0.1)
    return make_budget(name, settings, images.shape[2:])(net, images)


def test_every_budget_has_the_radii_it_says(cifar_net, photos, masks):
    aligned = torch.where(masks, 0.2, 0.1)
    mean = radii("mean", cifar_net, photos)
    assert torch.allclose(mean.mean((1, 2, 3)), aligned.mean((1, 2, 3)))
    assert torch.equal(mean.amax((1, 2, 3)), mean.amin((1, 2, 3)))
    assert torch.allclose(radii("inverted", cifar_net, photos), 0.3 - aligned)
    assert torch.equal(radii("misaligned", cifar_net, photos)[1:], aligned[:-1])
    assert torch.equal(radii("misaligned", cifar_net, photos)[0], aligned[-1])
    random = radii("random", cifar_net, photos)
    assert torch.equal((random > 0.15).sum((1, 2, 3)), masks.sum((1, 2, 3)))
    assert not torch.equal(random, aligned)
    lowered = radii("top-right lowered", cifar_net, photos)
    assert torch.allclose(lowered[:, :, :16, 16:], torch.tensor(0.1))
    assert lowered.sum() == pytest.approx(8 * 1024 * (0.25 * 0.1 + 0.75 * 0.2), rel=1e-5)


def test_the_published_rule_pixel_by_pixel(cifar_net, photos):
    """One image at a time through matplotlib's colour map, standardised over pixels and colours at once."""
    maps = class_activation_map(cifar_net, photos)
    found = radii("published", cifar_net, photos)
    for image, radius in zip(maps[:, 0].double().numpy(), found, strict=True):
        picture = colormaps["jet"](image**2)[:, :, :3]
        weights = (picture - picture.mean()) / picture.std()
        clear = np.abs(weights - 1) > 1e-4
        assert np.array_equal((weights > 1)[clear], (radius.permute(1, 2, 0) > 0.15).numpy()[clear])
    assert torch.equal(radii("published misaligned", cifar_net, photos), found.roll(1, 0))


def test_budgets_leave_their_name_in_the_checkpoint_and_train(tmp_path):
    """Another budget under the same settings gives other weights, and cannot be resumed as if it were the same."""
    x, y = harness._tensors("digits", "", "train", 64)
    samples = list(zip(x, y.tolist(), strict=True))
    last = {}
    for name in BUDGETS:
        budget = make_budget(name, SETTINGS, (8, 8))
        path = tmp_path / f"{name}.pt"
        model = train(SETTINGS, samples, path, verbose=False, budget=budget, validate=lambda m: {"mode": m.training})
        assert pd.read_csv(tmp_path / f"{name}.pt.run" / "log.csv")["mode"].tolist() == [0, 0]
        last[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
    names = list(last)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not torch.equal(last[one], last[other]), (one, other)
