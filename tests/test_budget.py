import copy
import pickle

import pytest
import torch
from torch import nn

from part_plugin import FixedBudget, PixelBudget, Threshold, class_activation_map


def test_the_weight_of_the_paper_decides(digits_net, batch):
    """w = (L - mean) / std per image; eps where w > 1, eps_low elsewhere."""
    maps = class_activation_map(digits_net, batch[0])
    radii = PixelBudget(eps=0.2, eps_low=0.05)(digits_net, *batch)
    assert radii.shape == (16, 1, 8, 8)
    for image_map, radius in zip(maps, radii, strict=True):
        if image_map.max() == 0:
            expected = torch.full_like(radius, 0.2)
        else:
            weight = (image_map - image_map.mean()) / image_map.std(correction=0)
            expected = torch.where(weight > 1, 0.2, 0.05)
        assert torch.equal(radius, expected)


def test_threshold_moves_the_boundary(digits_net, batch):
    areas = [PixelBudget(rule=Threshold(t)).weights(digits_net, batch[0])[0].float().mean() for t in (0.0, 1.0, 2.0)]
    assert areas[0] > areas[1] > areas[2] > 0


def test_the_true_class_can_be_mapped(digits_net, batch):
    true = PixelBudget(target="true")
    images = batch[0]
    predicted = digits_net(images).argmax(1)
    assert torch.equal(true(digits_net, images, predicted), PixelBudget()(digits_net, images))
    other = (predicted + 1) % 10
    assert not torch.equal(true(digits_net, images, other), true(digits_net, images, predicted))
    one_hot = nn.functional.one_hot(other, 10)
    assert torch.equal(true(digits_net, images, one_hot), true(digits_net, images, other))
    with pytest.raises(ValueError, match="labels=None does not go with target='true'"):
        true(digits_net, images)


def test_a_map_without_signal_keeps_eps_and_is_counted(digits_net, batch):
    budget = PixelBudget(eps=0.2, eps_low=0.05)
    nn.init.zeros_(digits_net.head.weight)
    assert (budget(digits_net, *batch) == 0.2).all()
    assert (budget.no_signal, budget.images) == (16, 16)
    budget.reset_counts()
    assert (budget.no_signal, budget.images) == (0, 0)


def test_a_map_that_is_not_finite_keeps_eps(digits_net, batch):
    nn.init.constant_(digits_net.head.weight, torch.nan)
    budget = PixelBudget(eps=0.2, eps_low=0.05)
    assert (budget(digits_net, *batch) == 0.2).all()
    assert budget.no_signal == 16


def test_equal_radii_need_no_map():
    no_cam_possible = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    budget = PixelBudget(eps=0.1, eps_low=0.1)
    assert (budget(no_cam_possible, torch.rand(2, 1, 8, 8)) == 0.1).all()
    assert budget.images == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radii_come_in_the_dtype_of_the_images(digits_net, batch, dtype):
    assert PixelBudget()(digits_net.to(dtype), batch[0].to(dtype)).dtype == dtype


def test_copies_and_repr(digits_net, batch):
    budget = PixelBudget(target_layers=digits_net.features)
    assert repr(budget) == (
        f"PixelBudget(eps={8 / 255}, eps_low={7 / 255}, cam=gradcam, target_layers=Sequential, "
        "rule=Threshold(1), target=predicted)"
    )
    plain = PixelBudget()
    plain(digits_net, batch[0])
    for twin in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert torch.equal(twin(digits_net, batch[0]), plain(digits_net, batch[0]))


def test_fixed_budgets(digits_net):
    images = torch.rand(2, 3, 4, 6)
    assert (FixedBudget(0.1)(digits_net, images) == 0.1).all()
    per_channel = FixedBudget(torch.tensor([0.1, 0.2, 0.3])[:, None, None])
    assert per_channel(digits_net, images).shape == (2, 3, 4, 6)
    assert per_channel.eps == pytest.approx(0.3)
    quarter = FixedBudget.quadrant("bottom-left", eps=0.2, eps_low=0.1, size=(4, 6))(digits_net, images)
    expected = torch.full((2, 1, 4, 6), 0.1)
    expected[:, :, 2:, :3] = 0.2
    assert torch.equal(quarter, expected)
    with pytest.raises(ValueError, match=r"eps of shape \(5, 6\) does not fit images of shape \(2, 3, 4, 6\)"):
        FixedBudget(torch.ones(5, 6))(digits_net, images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PixelBudget(eps=0.1, eps_low=0.2), "eps_low=0.2 is larger than eps=0.1; it must be <= eps"),
        (lambda: PixelBudget(eps=-0.1), "eps=-0.1 is not allowed; it must be >= 0"),
        (lambda: PixelBudget(eps_low=-1), "eps_low=-1 is not allowed; it must be >= 0"),
        (lambda: PixelBudget(eps=float("nan")), "eps=nan is not allowed"),
        (lambda: PixelBudget(target="label"), "target='label' is not known; choose from 'predicted', 'true'"),
        (lambda: PixelBudget(cam="nope"), "cam='nope' is not known; choose from 'gradcam'"),
        (lambda: FixedBudget(-1.0), "eps=-1.0 is not allowed; every radius must be finite and >= 0"),
        (lambda: FixedBudget.quadrant("left", 1, 0, (4, 4)), "name='left' is not known; choose from 'top-left'"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_eps_that_is_no_number():
    with pytest.raises(TypeError, match="eps='8/255' is a str; a number is needed"):
        PixelBudget(eps="8/255")


def test_radii_are_checked_again_when_they_are_used(digits_net, batch):
    budget = PixelBudget(eps=0.2, eps_low=0.1)
    budget.eps = 0.05
    with pytest.raises(ValueError, match="eps_low=0.1 is larger than eps=0.05"):
        budget(digits_net, batch[0])
