"""Full eps where a map is high, eps_low elsewhere; and the budget that arguments ask for."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

from part_plugin import FixedBudget, PixelBudget, Soft, Threshold, TopShare, class_activation_map
from part_plugin.budget import AdoptedBudget
from part_plugin.pixel_budget import make_budget


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


def test_soft_radii_are_those_written_by_hand(digits_net, batch):
    """eps_low + map * (eps - eps_low), and eps where there is no map."""
    net, images = digits_net.double(), batch[0].double()
    maps = class_activation_map(net, images)
    radii = PixelBudget(eps=0.2, eps_low=0.05, rule=Soft())(net, images)
    expected = torch.where(maps.amax((1, 2, 3), keepdim=True) == 0, 0.2, 0.05 + 0.15 * maps)
    torch.testing.assert_close(radii, expected, rtol=1e-14, atol=0)
    assert ((radii > 0.06) & (radii < 0.19)).float().mean() > 0.2


def test_top_share_counts_pixels(digits_net, batch):
    radii = PixelBudget(eps=0.2, eps_low=0.05, rule=TopShare(0.25))(digits_net, *batch)
    signal = class_activation_map(digits_net, batch[0]).amax((1, 2, 3)) > 0
    assert 10 < signal.sum() < 16
    assert (radii == 0.2).flatten(1).sum(1).tolist() == torch.where(signal, 16, 64).tolist()


def test_the_rule_sees_the_map_at_the_size_of_the_images(digits_net, batch):
    seen = []

    def rule(maps):
        seen.append(maps)
        return maps > 0.5

    radii = PixelBudget(eps=0.2, eps_low=0.05, rule=rule)(digits_net, *batch)
    maps = class_activation_map(digits_net, batch[0])
    assert torch.equal(seen[0], maps)
    without = maps.amax((1, 2, 3), keepdim=True) == 0
    assert torch.equal(radii, torch.where(without | (maps > 0.5), 0.2, 0.05))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_0_and_1_give_the_two_radii_exactly_and_none_lies_outside_of_them(dtype):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(4, 1, 50, 50, generator=generator, dtype=torch.float64)
    weights[:, :, 0], weights[:, :, 1] = 0, 1
    images = torch.zeros(4, 3, 50, 50, dtype=dtype)
    for eps, eps_low in ((8 / 255, 7 / 255), (0.3, 0.1), (1.0, 0.0), (0.1, 0.1 * (1 - 1e-7))):
        budget = PixelBudget(eps, eps_low)
        radii = budget.radii_of(weights, images)
        low, high = (torch.tensor(value, dtype=dtype) for value in (eps_low, eps))
        assert radii.dtype == dtype
        assert (radii[:, :, 0] == low).all()
        assert (radii[:, :, 1] == high).all()
        assert ((radii >= low) & (radii <= high)).all()
        torch.testing.assert_close(
            radii.double(), eps_low + weights * (eps - eps_low), rtol=2 * torch.finfo(dtype).eps, atol=0
        )
        assert torch.equal(budget.radii_of(weights > 0.5, images), torch.where(weights > 0.5, high, low))


def test_the_true_class_can_be_mapped(digits_net, batch):
    true = PixelBudget(target="true")
    images = batch[0]
    predicted = digits_net(images).argmax(1)
    assert torch.equal(true(digits_net, images, predicted), PixelBudget()(digits_net, images))
    other = (predicted + 1) % 10
    assert not torch.equal(true(digits_net, images, other), true(digits_net, images, predicted))
    assert torch.equal(PixelBudget()(digits_net, images, other), PixelBudget()(digits_net, images))
    expected = Threshold()(class_activation_map(digits_net, images, other))
    signal = class_activation_map(digits_net, images, other).amax((1, 2, 3)) > 0
    assert torch.equal(true.weights(digits_net, images, other)[0][signal], expected[signal])
    one_hot = nn.functional.one_hot(other, 10)
    assert torch.equal(true(digits_net, images, one_hot), true(digits_net, images, other))
    assert torch.equal(true.radii(digits_net, images, other), true(digits_net, images, other))
    with pytest.raises(
        ValueError, match="^labels=None does not go with target='true'; pass labels or target='predicted'$"
    ):
        true(digits_net, images)


def test_a_map_without_signal_keeps_eps_and_is_counted(digits_net, batch):
    budget = PixelBudget(eps=0.2, eps_low=0.05)
    budget(digits_net, *batch)
    some = int((class_activation_map(digits_net, batch[0]).amax((1, 2, 3)) == 0).sum())
    assert (budget.no_signal, budget.images) == (some, 16)
    nn.init.zeros_(digits_net.head.weight)
    assert (budget(digits_net, *batch) == 0.2).all()
    assert (budget.no_signal, budget.images) == (some + 16, 32)
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
    assert torch.equal(budget(no_cam_possible, torch.rand(2, 3, 8, 8)), torch.full((2, 1, 8, 8), 0.1))
    assert budget.images == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radii_come_in_the_dtype_of_the_images(digits_net, batch, dtype):
    budget = PixelBudget()
    radii = budget.radii(digits_net.to(dtype), batch[0].to(dtype))
    assert radii.dtype == dtype
    assert torch.equal(radii, budget(digits_net, batch[0].to(dtype)))


def test_the_logits_come_along(digits_net, batch):
    with torch.no_grad():
        expected = digits_net(batch[0])
    assert torch.equal(PixelBudget().weights(digits_net, batch[0])[1], expected)


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
        assert twin.images == 32


def test_layer_and_transform_are_those_it_was_given(digits_net, batch):
    def mirrored(maps):
        return maps.flip(3)

    options = {"cam": "layercam", "target_layers": "features.2", "reshape_transform": mirrored}
    maps = class_activation_map(digits_net, batch[0], **options)
    assert torch.equal(PixelBudget(rule=Soft(), **options).weights(digits_net, batch[0])[0], maps)
    for missing in options:
        others = {name: value for name, value in options.items() if name != missing}
        assert not torch.equal(class_activation_map(digits_net, batch[0], **others), maps)


# The radii, when they are changed


def test_eps_low_follows_eps_unless_it_was_given():
    budget = PixelBudget()
    assert (budget.eps, budget.eps_low) == (8 / 255, 7 / 255)
    budget.eps = 0.16
    assert budget.eps_low == 0.14
    budget.eps_low = 0.1
    budget.eps = 0.2
    assert (budget.eps, budget.eps_low) == (0.2, 0.1)
    budget.eps_low = None
    assert budget.eps_low == pytest.approx(0.175, rel=1e-15)
    budget.eps = 0.08
    assert budget.eps_low == 0.07


def test_radii_are_checked_when_they_are_set(digits_net, batch):
    budget = PixelBudget(eps=0.2, eps_low=0.1)
    for name, value, error, message in (
        ("eps", 0.05, ValueError, "eps_low=0.1 is larger than eps=0.05; it must be <= eps"),
        ("eps_low", 0.3, ValueError, "eps_low=0.3 is larger than eps=0.2; it must be <= eps"),
        ("eps_low", -0.1, ValueError, "eps_low=-0.1 is not allowed; it must be >= 0"),
        ("eps", float("nan"), ValueError, "eps=nan is not allowed; it must be >= 0"),
        ("eps", float("inf"), ValueError, "eps=inf is not allowed; it must be finite and >= 0"),
        ("eps", None, TypeError, "eps=None is a NoneType; a number is needed"),
        ("eps_low", "7/255", TypeError, "eps_low='7/255' is a str; a number is needed"),
    ):
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            setattr(budget, name, value)
    assert (budget.eps, budget.eps_low) == (0.2, 0.1)
    budget.eps, budget.eps_low = 0.4, 0.3
    assert budget(digits_net, *batch).unique().tolist() == torch.tensor([0.3, 0.4]).tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"eps": 0.1, "eps_low": 0.2}, ValueError, "eps_low=0.2 is larger than eps=0.1; it must be <= eps"),
        ({"eps": -0.1}, ValueError, "eps=-0.1 is not allowed; it must be >= 0"),
        ({"eps_low": -1}, ValueError, "eps_low=-1 is not allowed; it must be >= 0"),
        ({"eps": float("nan")}, ValueError, "eps=nan is not allowed; it must be >= 0"),
        ({"eps": "8/255"}, TypeError, "eps='8/255' is a str; a number is needed"),
        ({"target": "label"}, ValueError, "target='label' is not known; choose from 'predicted', 'true'"),
        (
            {"cam": 3},
            TypeError,
            "cam=3 is a int; a name, a pytorch-grad-cam class or a function (model, images, classes) -> maps is needed",
        ),
        ({"rule": 1.0}, TypeError, "rule=1.0 is a float; a function of maps is needed, such as Threshold(1.0)"),
        (
            {"cam": lambda model, images, classes: images, "target_layers": "features"},
            ValueError,
            "target_layers and reshape_transform do not go with a cam of your own, which needs none",
        ),
        (
            {"cam": lambda model, images, classes: images, "reshape_transform": lambda tokens: tokens},
            ValueError,
            "target_layers and reshape_transform do not go with a cam of your own, which needs none",
        ),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        PixelBudget(**options)


def test_a_cam_that_is_not_known():
    with pytest.raises(ValueError, match="^cam='nope' is not known; choose from 'gradcam', 'xgradcam', 'layercam', "):
        PixelBudget(cam="nope")
    with pytest.raises(ValueError, match="^cam=Linear is no CAM class; "):
        PixelBudget(cam=nn.Linear)


# What arguments ask for


def test_make_budget_passes_everything_on():
    options = {"cam": "layercam", "target_layers": "features", "rule": Soft(), "target": "true"}

    def transform(tokens):
        return tokens

    budget = make_budget(0.2, 0.1, reshape_transform=transform, **options)
    assert type(budget) is PixelBudget
    assert (budget.eps, budget.eps_low, budget.reshape_transform) == (0.2, 0.1, transform)
    assert {name: getattr(budget, name) for name in options} == options
    assert make_budget(0.16).eps_low == 0.14


def test_make_budget_takes_a_budget_as_it_is():
    for budget in (FixedBudget(0.1), PixelBudget()):
        assert make_budget(0.3, budget=budget) is budget

    class Own:
        eps = 0.1

        def __call__(self, model, images, labels=None):
            return images

    own = Own()
    adopted = make_budget(0.3, None, own)
    assert isinstance(adopted, AdoptedBudget)
    assert adopted.inner is own


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"budget": 0.1},
            TypeError,
            "budget=0.1 is a float; a Budget or an object with eps and a call (model, images, labels) -> radii is "
            "needed (for one radius everywhere: FixedBudget)",
        ),
        (
            {"budget": PixelBudget},
            TypeError,
            f"budget={PixelBudget!r} is a ABCMeta; a Budget or an object with eps and a call (model, images, labels) "
            "-> radii is needed (for one radius everywhere: FixedBudget)",
        ),
        (
            {"budget": len},
            TypeError,
            "budget=<built-in function len> is a builtin_function_or_method; a Budget or an object with eps and a call "
            "(model, images, labels) -> radii is needed (for one radius everywhere: FixedBudget)",
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
    ],
)
def test_wrong_budgets(options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        make_budget(0.3, **options)


def test_an_option_that_there_is_not():
    known = "cam, target_layers, reshape_transform, rule, target"
    message = f"treshold=2 is no argument here and no option of a budget, which are {known}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make_budget(0.3, treshold=2)
    message = "burn_in=20 is not for attacks, which count no epochs; PART and PARTTrainer take it"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        make_budget(0.3, burn_in=20)


def test_maps_without_signal_are_warned_of_once(digits_net, batch, caplog):
    nn.init.zeros_(digits_net.head.weight)
    for options, source in (
        ({}, "cam=gradcam at 'features'"),
        ({"target_layers": ["features.0", digits_net.features[3]]}, "cam=gradcam at 'features.0' and 'features.3'"),
        ({"cam": "EigenCAM"}, None),  # needs no gradient
        ({"cam": "FullGrad"}, "cam=FullGrad"),
        ({"cam": lambda model, images, classes: 0 * images}, "cam=<lambda>"),
    ):
        caplog.clear()
        budget = PixelBudget(0.2, 0.1, **options)
        for _ in range(3):
            budget(nn.DataParallel(digits_net), *batch)
        said = [record.getMessage() for record in caplog.records]
        expected = f"100% of the maps had no signal (16 of 16, {source}); those images keep the full eps everywhere"
        assert said == ([expected] if source else [])


def test_a_few_maps_without_signal_are_not_worth_a_warning(digits_net, batch, caplog):
    """And the count is looked at anew when there are twice as many, for the sake of a GPU."""
    budget = PixelBudget(0.2, 0.1, cam=lambda model, images, classes: images)
    images = torch.rand(24, 1, 8, 8)
    images[0] = 0
    budget(digits_net, images)
    budget(digits_net, images[:3] * 0)
    assert (budget.no_signal, budget.images) == (4, 27)
    assert caplog.records == []
    budget(digits_net, images)
    (record,) = caplog.records
    assert record.getMessage().startswith("10% of the maps had no signal (5 of 51, cam=<lambda>)")
