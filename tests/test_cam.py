import pytest
import torch
from conftest import SmallNet, assert_untouched, snapshot
from pytorch_grad_cam import EigenCAM, GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from torch import nn
from torch.nn.functional import interpolate

from part_plugin import PixelBudget, class_activation_map
from part_plugin.adapters.robustbench import build_model

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

    assert class_activation_map(Flat(), torch.rand(3, 2, 4, 4) + 0.5).count_nonzero() == 0


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
