import re

import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from torch import nn
from torch.nn.functional import interpolate

from part_plugin import PixelBudget, class_activation_map
from part_plugin.adapters.robustbench import build_model
from part_plugin.cam import map_and_logits
from part_plugin.map_sources import cam_name

LIBRARY = {"gradcam": GradCAM, "xgradcam": XGradCAM, "layercam": LayerCAM}


@pytest.fixture(scope="module")
def wide_resnet():
    torch.manual_seed(0)
    return build_model("wide_resnet.WideResNet", {"depth": 34, "widen_factor": 1}).eval()


@pytest.fixture(params=["resnet18", "wide_resnet"])
def network_and_layers(request, cifar_net):
    if request.param == "resnet18":
        return cifar_net, [cifar_net.layer4], [cifar_net.layer3, cifar_net.layer4]
    net = request.getfixturevalue("wide_resnet")
    # after a ReLU: before it XGradCAM divides by sums close to zero, in the library as well as here
    return net, [net.relu], [net.block2.layer[4].relu2, net.relu]


@pytest.mark.parametrize("cam", LIBRARY)
def test_maps_and_masks_agree_with_pytorch_grad_cam(network_and_layers, photos, cam):
    net, one, two = network_and_layers
    for layers in (one, two):
        ours = class_activation_map(net, photos, cam=cam, target_layers=layers)[:, 0]
        library = LIBRARY[cam](net, layers)
        theirs = torch.from_numpy(library(photos, None))
        library.activations_and_grads.release()
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)

        mean, std = theirs.mean((1, 2), keepdim=True), theirs.std((1, 2), keepdim=True, correction=0)
        weight = (theirs - mean) / std
        mask = PixelBudget(cam=cam, target_layers=layers).weights(net, photos)[0][:, 0]
        decided = (weight - 1).abs() > 1e-4
        assert decided.float().mean() > 0.99
        assert torch.equal(mask[decided], weight[decided] > 1)
        assert 0.02 < mask.float().mean() < 0.5


@pytest.mark.parametrize("cam", LIBRARY)
def test_maps_follow_the_class_that_is_asked_for(cifar_net, photos, cam):
    classes = torch.arange(8)
    ours = class_activation_map(cifar_net, photos, classes, cam=cam)
    library = LIBRARY[cam](cifar_net, [cifar_net.layer4])
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    theirs = torch.from_numpy(library(photos, [ClassifierOutputTarget(c) for c in range(8)]))
    library.activations_and_grads.release()
    torch.testing.assert_close(ours[:, 0], theirs, atol=1e-5, rtol=0)
    assert not torch.allclose(ours, class_activation_map(cifar_net, photos, classes.flip(0), cam=cam), atol=0.1)


def test_gradcam_equals_its_definition_image_by_image(digits_net, batch):
    maps = class_activation_map(digits_net, batch[0], target_layers="features")
    assert maps.amax((1, 2, 3)).gt(0).sum() > 10  # GradCAM finds nothing in a few of these digits
    for image, scaled in zip(batch[0], maps, strict=True):
        features = digits_net.features(image[None]).detach().requires_grad_()
        logits = digits_net.head(digits_net.pool(features))
        (gradient,) = torch.autograd.grad(logits.max(), features)
        expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
        expected = expected - expected.min()
        torch.testing.assert_close(scaled[None], expected / (expected.max() + 1e-7), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cam", [GradCAMPlusPlus, "GradCAMPlusPlus", EigenCAM, GradCAM])
def test_any_class_of_the_library_serves(cifar_net, photos, cam):
    maps = class_activation_map(cifar_net, photos, cam=cam, target_layers="layer4")
    method = GradCAMPlusPlus if isinstance(cam, str) else cam
    library = method(cifar_net, [cifar_net.layer4])
    theirs = torch.from_numpy(library(photos, None))
    library.activations_and_grads.release()
    assert maps.shape == (8, 1, 32, 32)
    torch.testing.assert_close(maps[:, 0], theirs, atol=1e-5, rtol=0)


class Outputs(nn.Module):
    def __init__(self, net, form):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        logits = self.net(x)
        return {"tuple": (logits, x), "dict": {"logits": logits}}[self.form]


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_models_that_return_more_than_logits(digits_net, batch, form):
    ours = class_activation_map(Outputs(digits_net, form), batch[0])
    assert torch.equal(ours, class_activation_map(digits_net, batch[0]))


def test_contexts_in_which_the_map_still_works(digits_net, batch):
    expected = class_activation_map(digits_net, batch[0])
    for parameter in digits_net.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(class_activation_map(digits_net, batch[0]), expected)
    with torch.no_grad():
        assert torch.equal(class_activation_map(digits_net, batch[0]), expected)
    with torch.inference_mode():
        maps = class_activation_map(digits_net, batch[0] * 1)
    assert torch.equal(maps, expected)
    assert not maps.is_inference()


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16(digits_net, batch, how):
    expected = class_activation_map(digits_net, batch[0])
    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            maps = class_activation_map(digits_net, batch[0])
    else:
        maps = class_activation_map(digits_net.bfloat16(), batch[0].bfloat16())
    assert maps.dtype == torch.float32
    correlation = torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.98


@pytest.mark.parametrize("cam", ["gradcam", "layercam", "GradCAMPlusPlus", "AblationCAM"])
def test_no_trace_on_the_model(lived_in, batch, cam):
    before = snapshot(lived_in)
    random_state = torch.random.get_rng_state()
    images = batch[0].clone().requires_grad_()
    maps = class_activation_map(lived_in, images, cam=cam, target_layers="features.2")
    assert maps.amax() > 0
    assert not maps.requires_grad
    assert images.grad is None
    assert torch.equal(images, batch[0])
    with pytest.raises(ValueError, match="class 99"):
        class_activation_map(lived_in, images, torch.full((16,), 99), cam=cam)
    lived_in.head.forward = None  # any exception in the middle of the forward pass
    with pytest.raises(TypeError):
        class_activation_map(lived_in, images, cam=cam)
    del lived_in.head.forward
    assert_untouched(lived_in, before)
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_weights_made_under_inference_mode_are_refused(batch):
    with torch.inference_mode():
        model = SmallNet()
    with pytest.raises(RuntimeError, match="weights were created under inference_mode"):
        class_activation_map(model, batch[0])


def test_a_head_of_zeros_gives_maps_without_signal(digits_net, batch):
    nn.init.zeros_(digits_net.head.weight)
    assert class_activation_map(digits_net, batch[0]).count_nonzero() == 0


def test_a_map_constant_up_to_rounding_has_no_signal():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            flat = x.mean((2, 3), keepdim=True) + torch.zeros_like(x)
            flat[..., 0, 0] += 1e-7
            return self.layer(flat).mean((2, 3))

    maps = class_activation_map(Flat(), torch.rand(3, 2, 4, 4) + 0.5, target_layers="layer")
    assert maps.count_nonzero() == 0


def test_the_map_is_resized_like_torch_does(digits_net, batch):
    strided = nn.Sequential(nn.AvgPool2d(2), digits_net.features, nn.Flatten(), nn.Linear(32 * 16, 10)).eval()
    maps = class_activation_map(strided, batch[0], target_layers="1")
    small = maps[:, :, ::7, ::7]  # corners are not interpolated
    assert maps.shape[-2:] == (8, 8)
    assert small.shape[-2:] == (2, 2)
    native = interpolate(maps, (4, 4), mode="area")
    assert (native.std((1, 2, 3)) > 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cam": "gradcan"}, r"cam='gradcan' is not known; choose from 'gradcam', 'xgradcam'"),
        ({"target_layers": "feature"}, r"target_layers='feature' is no module.*'features'"),
        ({"target_layers": []}, "target_layers is empty"),
        ({"target_layers": nn.ReLU()}, "ReLU that is not part of the model"),
        ({"target_layers": "head"}, r"target layer 'head' gives \(16, 10\)"),
        ({"target_layers": "spare"}, "'spare' is not reached"),
        ({"classes": torch.full((16,), 10)}, "labels contain class 10; allowed is 0 to 9"),
        ({"classes": torch.zeros(1).long()}, r"labels have shape \(1,\); expected \(16,\)"),
        ({"images": torch.rand(1, 8, 8)}, r"images have shape \(1, 8, 8\); \(N, C, H, W\) with N >= 1 is needed"),
    ],
)
def test_wrong_arguments(digits_net, batch, options, message):
    digits_net.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(ValueError, match=message):
        class_activation_map(digits_net, **({"images": batch[0]} | options))


# Every source of maps


@pytest.mark.parametrize("missing", [None, "target_layers", "reshape_transform", "classes"])
def test_the_library_gets_what_our_own_methods_get(digits_net, batch, missing):
    def mirrored(maps):
        return maps.flip(3)

    options = {"target_layers": "features.2", "reshape_transform": mirrored, "classes": torch.arange(16) % 10}
    wanted = class_activation_map(digits_net, batch[0], cam="layercam", **options)
    some = {name: value for name, value in options.items() if name != missing}
    for cam in ("layercam", "LayerCAM", LayerCAM):
        close = torch.isclose(class_activation_map(digits_net, batch[0], cam=cam, **some), wanted, atol=1e-5)
        assert bool(close.all()) == (missing is None)


@pytest.mark.parametrize("cam", ["gradcam", GradCAMPlusPlus, lambda model, images, classes: images[:, 0] * classes[0]])
@pytest.mark.parametrize("classes", [None, torch.arange(16) % 10])
def test_the_logits_come_along(digits_net, batch, cam, classes):
    maps, logits = map_and_logits(digits_net, batch[0], classes, cam)
    with torch.no_grad():
        assert torch.equal(logits, digits_net(batch[0]))
    assert not logits.requires_grad
    assert torch.equal(maps, class_activation_map(digits_net, batch[0], classes, cam))


class InPlace(nn.Module):
    """A network that normalises its input in place."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.sub_(0.2).mul_(1.5))


@pytest.mark.parametrize("cam", ["gradcam", lambda model, images, classes: images.mul_(2)])
def test_a_model_that_works_in_place_on_its_input(digits_net, batch, cam):
    images = batch[0].clone()
    maps, logits = map_and_logits(InPlace(digits_net), images, cam=cam)
    assert torch.equal(images, batch[0])
    expected = (batch[0] - 0.2) * 1.5
    with torch.no_grad():
        assert torch.equal(logits, digits_net(expected))
    if cam == "gradcam":
        assert torch.equal(maps, class_activation_map(digits_net, expected))
    else:
        assert torch.equal(maps, class_activation_map(digits_net, images, cam=lambda *of: batch[0]))


def test_several_layers_are_averaged_after_scaling(digits_net, batch):
    parts = [class_activation_map(digits_net, batch[0], target_layers=name) for name in ("features.2", "features")]
    mean = (parts[0] + parts[1]) / 2
    low, high = mean.amin((1, 2, 3), keepdim=True), mean.amax((1, 2, 3), keepdim=True)
    found = class_activation_map(digits_net, batch[0], target_layers=["features.2", "features"])
    torch.testing.assert_close(found, (mean - low) / (high - low + 1e-7), rtol=1e-5, atol=1e-5)
    assert (found - parts[0]).abs().max() > 0.1


# A source of the user's own


def own(maps):
    """A source that gives these maps whatever it is asked."""
    return lambda model, images, classes: maps


@pytest.mark.parametrize("cam", LIBRARY)
@pytest.mark.parametrize("target", ["predicted", "true"])
def test_our_own_maps_as_a_source_give_the_same_radii(digits_net, batch, cam, target):
    def source(model, images, classes):
        return class_activation_map(model, images, classes, cam, "features.2")

    ours, theirs = (
        PixelBudget(cam=cam, target_layers="features.2", target=target),
        PixelBudget(cam=source, target=target),
    )
    radii = theirs(digits_net, *batch)
    assert torch.equal(radii, ours(digits_net, *batch))
    assert 0.02 < (radii == radii.max()).float().mean() < 0.6
    assert theirs.no_signal == ours.no_signal


def test_maps_of_any_shape(digits_net, batch):
    generator = torch.Generator().manual_seed(0)
    for shape, size in (((16, 4, 5), 8), ((16, 1, 4, 4), 8), ((16, 3, 2, 2), 8), ((16, 8, 8), 8), ((16, 2, 20, 20), 8)):
        maps = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.3
        small = maps[:, None] if maps.dim() == 3 else sum(maps[:, [c]] for c in range(shape[1])) / shape[1]
        expected = interpolate(small, (size, size), mode="bilinear", align_corners=False)
        low, high = expected.amin((1, 2, 3), keepdim=True), expected.amax((1, 2, 3), keepdim=True)
        found = class_activation_map(digits_net, batch[0], cam=own(maps))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, (expected - low) / (high - low), rtol=0, atol=1e-6)


@pytest.mark.parametrize("change", [1e-30, 1e-38, 1e30, -1.0, "shift", "far shift", "uint8", "half"])
def test_maps_of_any_scale_give_the_same_mask(digits_net, batch, change):
    """Multiples, and what differs by a constant; a negative map is as good as a positive one."""
    maps = torch.randint(0, 200, (16, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    changed, maps = {
        "shift": (maps - 300, maps),
        "far shift": (maps + 2**20, maps),
        "uint8": (maps.byte(), maps),
        "half": (maps.half(), maps),
        -1.0: (-maps, 200 - maps),
    }.get(change) or (maps * change, maps)
    weights, expected = (PixelBudget(cam=own(m)).weights(digits_net, batch[0])[0] for m in (changed, maps))
    assert torch.equal(weights, expected)
    assert 0.05 < weights.float().mean() < 0.4


def test_maps_without_signal_are_counted_and_spoil_no_other(digits_net, batch):
    maps = torch.rand(16, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = PixelBudget(cam=own(maps)).weights(digits_net, batch[0])[0]
    broken = maps.clone()
    broken[0, 3, 3] = torch.nan
    broken[1] = torch.nan
    broken[2] = 0.1
    broken[3] = -0.1
    broken[4] = 0
    broken[5, 0, 0] = torch.inf
    broken[6, 0, 0] = -torch.inf
    broken[7] = 0.7 * (1 + torch.finfo(torch.float32).eps * torch.randint(0, 2, (8, 8)))  # constant up to rounding
    budget = PixelBudget(cam=own(broken))
    weights = budget.weights(digits_net, batch[0])[0]
    assert weights[:8].all()
    assert torch.equal(weights[8:], expected[8:])
    assert (budget.no_signal, budget.images) == (8, 16)
    assert class_activation_map(digits_net, batch[0], cam=own(broken))[:8].count_nonzero() == 0


def test_maps_of_the_library_that_are_not_finite_have_no_signal(digits_net, batch):
    class Broken(GradCAM):
        def get_cam_image(self, *args, **options):
            maps = super().get_cam_image(*args, **options)
            maps[3:5] = float("nan")
            return maps

    budget = PixelBudget(cam=Broken, target_layers="features")
    weights = budget.weights(digits_net, batch[0])[0]
    expected = PixelBudget(cam=GradCAM, target_layers="features")
    signal = expected.weights(digits_net, batch[0])[0]
    assert weights[3:5].all()
    assert budget.no_signal > expected.no_signal
    assert torch.equal(weights[5:], signal[5:])


def test_what_a_source_is_called_with(lived_in, batch):
    """The model in eval mode, its gradients nobody's business, images as they are, the classes to map."""
    seen = []

    def saliency(model, images, classes):
        seen.append((model, images.clone(), classes, model.training, torch.is_grad_enabled()))
        images.requires_grad_()
        model(images).gather(1, classes[:, None]).sum().backward()
        return images.grad.abs()

    before = snapshot(lived_in)
    with torch.inference_mode():
        maps = class_activation_map(lived_in, batch[0] * 1, cam=saliency)
        class_activation_map(lived_in, batch[0], batch[1], cam=saliency)
    assert_untouched(lived_in, before)
    assert not maps.is_inference()
    assert not maps.requires_grad
    assert (maps.amax((1, 2, 3)) > 0.99).all()
    lived_in.eval()
    with torch.no_grad():
        predicted = lived_in(batch[0]).argmax(1)
    for (model, images, classes, training, gradients), expected in zip(seen, (predicted, batch[1]), strict=True):
        assert model is lived_in
        assert torch.equal(images, batch[0])
        assert torch.equal(classes, expected)
        assert (training, gradients) == (False, True)


def test_a_source_that_fails_leaves_no_trace(lived_in, batch):
    def broken(model, images, classes):
        model(images).sum().backward()
        raise ArithmeticError

    before = snapshot(lived_in)
    with pytest.raises(ArithmeticError):
        class_activation_map(lived_in, batch[0], cam=broken)
    assert_untouched(lived_in, before)


@pytest.mark.parametrize(
    ("maps", "found"),
    [
        (torch.rand(15, 8, 8), "(15, 8, 8)"),
        (torch.rand(16, 8), "(16, 8)"),
        (torch.rand(16, 1, 1, 8, 8), "(16, 1, 1, 8, 8)"),
        (torch.rand(16, 0, 8), "(16, 0, 8)"),
        (torch.rand(16, 8, 8).numpy(), "ndarray"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_map(digits_net, batch, maps, found):
    message = f"cam returned {found}; maps (N, h, w) or (N, C, h, w) of the 16 images are needed"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        class_activation_map(digits_net, batch[0], cam=own(maps))


def test_a_source_is_not_asked_for_a_class_that_is_not_there(digits_net, batch):
    with pytest.raises(ValueError, match="^labels contain class 10; allowed is 0 to 9$"):
        class_activation_map(digits_net, batch[0], torch.full((16,), 10), cam=own(None))


def test_names_of_sources():
    class Source:
        def __call__(self, model, images, classes):
            return images

    def attention(model, images, classes):
        return images

    assert [cam_name(cam) for cam in ("layercam", GradCAM, attention, Source())] == [
        "layercam",
        "GradCAM",
        "attention",
        "Source",
    ]


# A network that gives no map


class Odd(nn.Module):
    """A layer that gives a pair, one on which nothing depends, and an output that is cut off."""

    def __init__(self):
        super().__init__()
        self.pair, self.idle, self.body = Pair(), nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1)
        self.cut = False

    def forward(self, x):
        self.idle(x)
        logits = self.body(self.pair(x)[0]).mean((2, 3))
        return logits.detach() if self.cut else logits


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_layers_that_give_no_map(batch):
    odd = Odd()
    for name, message in (
        ("pair", "target layer 'pair' returns a tuple; a tensor is needed"),
        (
            "idle",
            "the model's output carries no gradient to target layer 'idle': it does not depend on it, or its forward "
            "pass is not differentiable",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            class_activation_map(odd, batch[0], target_layers=name)
    odd.cut = True
    message = (
        "the model's output carries no gradient to target layer 'body': it does not depend on it, or its forward "
        "pass is not differentiable"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        class_activation_map(odd, batch[0], target_layers="body")
