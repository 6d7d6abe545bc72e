"""Which layer a map is taken from."""

import logging
import re

import pytest
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from torch import nn

from part_plugin import class_activation_map
from part_plugin.adapters.robustbench import build_model
from part_plugin.target_layers import _found, as_maps, layer_names, resolve_target_layers


def found(model, images):
    _found._known.clear()
    (name,) = resolve_target_layers(model, None, images)
    return name


@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), 64, "layer4"),
        (lambda: torchvision.models.vgg11_bn(num_classes=10), 64, "features"),
        (lambda: torchvision.models.densenet121(num_classes=10), 64, "features"),
        (lambda: torchvision.models.mobilenet_v3_small(num_classes=10), 64, "features"),
        (lambda: nn.Sequential(nn.Upsample(64), torchvision.models.resnet18(num_classes=10)), 32, "1.layer4"),
        (lambda: torchvision.models.squeezenet1_1(num_classes=10), 64, "classifier.2"),
    ],
    ids=["resnet", "vgg", "densenet", "mobilenet", "sequential", "squeezenet"],
)
def test_the_last_layer_with_spatial_extent_is_found(make, size, expected):
    torch.manual_seed(0)
    model = make().eval()
    images = torch.rand(2, 3, size, size)
    assert found(model, images) == expected
    maps = class_activation_map(model, images)
    assert maps.shape == (2, 1, size, size)
    assert maps.isfinite().all()


def test_vgg_on_images_too_small_for_its_pooling_grid():
    """At 32x32 VGG's last features are 1x1, which its pooling only repeats: the layer before is found."""
    torch.manual_seed(0)
    model = torchvision.models.vgg11_bn(num_classes=10).eval()
    assert found(model, torch.rand(2, 3, 32, 32)) == "features.27"


def test_tokens_of_a_layer_that_is_named():
    """Read by themselves as with the reshape_transform that pytorch-grad-cam's users write."""
    torch.manual_seed(0)
    model = torchvision.models.vit_b_16(image_size=64, num_classes=10).eval()
    images, layer = torch.rand(2, 3, 64, 64), "encoder.layers.encoder_layer_10"

    def grid(tokens):
        return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    ours = class_activation_map(model, images, target_layers=layer)
    assert torch.equal(ours, class_activation_map(model, images, target_layers=layer, reshape_transform=grid))
    library = GradCAM(model, [model.get_submodule(layer)], reshape_transform=grid)
    torch.testing.assert_close(ours[:, 0], torch.from_numpy(library(images, None)), atol=1e-4, rtol=0)
    theirs = class_activation_map(model, images, cam="GradCAM", target_layers=layer)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_names_with_prefixes_of_wrappers(digits_net, batch):
    expected = class_activation_map(digits_net, batch[0], target_layers="features.2")
    wrapped = nn.DataParallel(digits_net)
    for layer in ("features.2", "module.features.2", digits_net.features[2]):
        assert torch.equal(class_activation_map(wrapped, batch[0], target_layers=layer), expected)
    compiled = torch.compile(digits_net, backend="eager")
    compiled(batch[0])
    assert torch.equal(class_activation_map(compiled, batch[0], target_layers="_orig_mod.features.2"), expected)


def test_a_target_layer_that_is_no_layer(digits_net, batch):
    with pytest.raises(TypeError, match="target_layers holds a int"):
        class_activation_map(digits_net, batch[0], target_layers=[3])


def test_a_model_without_spatial_layers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match="Sequential has no module with an .N, C, h, w. output"):
        class_activation_map(model, torch.rand(2, 1, 8, 8))


def test_wide_resnet_layer_is_found(photos):
    model = build_model("wide_resnet.WideResNet", {"depth": 10, "widen_factor": 1}).eval()
    assert found(model, photos) == "relu"


def test_the_layer_is_looked_for_again_at_another_size():
    """At 64x64 VGG's last features are 2x2, at 32x32 only the layer before has any extent."""
    torch.manual_seed(0)
    model = torchvision.models.vgg11_bn(num_classes=10).eval()
    large, small = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 32, 32)
    names = [next(iter(resolve_target_layers(model, None, images))) for images in (large, small, large, small)]
    assert names == ["features", "features.27", "features", "features.27"]


def test_the_layer_is_looked_for_once_and_said_once(digits_net, batch, caplog):
    calls = []
    digits_net.head.register_forward_hook(lambda *call: calls.append(len(call[1][0])))
    with caplog.at_level(logging.INFO, logger="part_plugin"):
        for _ in range(2):
            assert resolve_target_layers(digits_net, None, batch[0]) == {"features": digits_net.features}
    assert calls == [5]  # an image, and it with each quadrant replaced
    assert [record.getMessage() for record in caplog.records] == [
        "target_layers=None: 'features' of SmallNet is mapped, (N, C, h, w)"
    ]


def test_looking_for_the_layer_changes_no_image(digits_net, batch):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net

        def forward(self, x):
            return self.net(x.sub_(0.5))

    images = batch[0].clone()
    assert found(InPlace(), images) == "net.features"
    assert torch.equal(images, batch[0])


def test_layers_by_name_and_by_module(digits_net, batch):
    layers = resolve_target_layers(nn.DataParallel(digits_net), ["features.2", digits_net.features], batch[0])
    assert list(layers.items()) == [("features.2", digits_net.features[2]), ("features", digits_net.features)]


def test_the_nearest_names_are_told(digits_net, batch):
    message = "target_layers='feature' is no module of the model; the nearest are ['features', "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        resolve_target_layers(digits_net, "feature", batch[0])
    with pytest.raises(ValueError, match="^target_layers='zzz' is no module of the model; the nearest are ") as raised:
        resolve_target_layers(digits_net, "zzz", batch[0])
    near = str(raised.value).split("the nearest are ")[1]
    assert len(near.split(",")) == 5
    message = "target_layers='' is no module of the model; the nearest are "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        resolve_target_layers(digits_net, "", batch[0])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_what_a_layer_gives_as_maps(dtype, expected):
    tensor = torch.rand(2, 4, 6, dtype=torch.float64).to(dtype)
    maps = as_maps("x", tensor, lambda tokens: tokens.permute(0, 2, 1).unflatten(2, (2, 2)))
    assert maps.dtype == expected
    assert torch.equal(maps, tensor.permute(0, 2, 1).reshape(2, 6, 2, 2).to(expected))
    with pytest.raises(
        ValueError, match=r"^target layer 'x' gives \(2, 4, 6\); \(N, C, h, w\) is needed: pass reshape_transform$"
    ):
        as_maps("x", tensor, None)


def test_names_of_layers():
    relu = nn.ReLU()
    assert [layer_names(layers) for layers in (None, "a.b", relu, ["a.b", relu])] == ["auto", "a.b", "ReLU", "a.b+ReLU"]
