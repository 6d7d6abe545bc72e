"""The layer to map is found in networks of tokens and of channels last, by what it does and by no name."""

import re

import pytest
import timm
import torch
from conftest import SmallNet, assert_untouched, snapshot
from pytorch_grad_cam import GradCAM
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from part_plugin import PART, PixelPGD, class_activation_map
from part_plugin.layer_search import find_layer
from part_plugin.network.replica import replicate

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 10, "in_chans": 1}


def found(network, size, channels=1):
    replica = replicate(network)
    name, layout = find_layer(replica, replica, torch.rand(1, channels, *size))
    return f"{name}: {layout}"


def vit(size=(8, 8), **options):
    torch.manual_seed(0)
    return VisionTransformer(img_size=size, patch_size=2, **SMALL | options).eval()


def swin(size=(32, 32), **options):
    torch.manual_seed(0)
    options = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "num_classes": 10} | options
    return SwinTransformer(img_size=size, patch_size=2, in_chans=1, **options).eval()


@pytest.mark.parametrize(
    ("make", "size", "layer"),
    [
        (vit, (8, 8), "blocks.2.norm1: 1 + 4x4 tokens"),
        (lambda: vit((8, 12)), (8, 12), "blocks.2.norm1: 1 + 4x6 tokens"),
        (lambda: vit((4, 4)), (4, 4), "blocks.2.norm1: 1 + 2x2 tokens"),  # as many as rows are sent through
        (lambda: vit(reg_tokens=4), (8, 8), "blocks.2.norm1: 5 + 4x4 tokens"),
        (lambda: vit(weight_init="skip", global_pool="avg"), (8, 8), "norm: 1 + 4x4 tokens"),
        (lambda: vit(class_token=False, global_pool="avg"), (8, 8), "norm: 4x4 tokens"),
        (swin, (32, 32), "norm: (N, h, w, C)"),
        (lambda: swin((32, 48)), (32, 48), "norm: (N, h, w, C)"),
        (SmallNet, (8, 8), "features: (N, C, h, w)"),
    ],
)
def test_layers_and_layouts(make, size, layer):
    assert found(make(), size) == layer


@pytest.mark.parametrize(
    ("name", "options", "size", "layer"),
    [
        ("deit_tiny_distilled_patch16_224", {"img_size": 64}, 64, "blocks.11.norm1: 2 + 4x4 tokens"),
        ("eva02_tiny_patch14_224", {"img_size": 56, "depth": 3}, 56, "norm: 1 + 4x4 tokens"),
        ("cait_xxs24_224", {"img_size": 64, "depth": 3}, 64, "blocks: 4x4 tokens"),
        ("convit_tiny", {"img_size": 64, "depth": 4}, 64, "blocks.3.norm1: 4x4 tokens"),
        ("pit_ti_224", {}, 224, "transformers.2.blocks.3.norm1: 1 + 7x7 tokens"),
        ("mobilevit_xxs", {}, 64, "final_conv: (N, C, h, w)"),
        ("pvt_v2_b0", {}, 64, "stages: (N, C, h, w)"),
        ("resnet18", {}, 64, "layer4: (N, C, h, w)"),
    ],
)
def test_networks_of_timm(name, options, size, layer):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10, **options).eval()
    assert found(network, (size, size), 3) == layer


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("crossvit_tiny_240", {}, 240), ("tnt_s_patch16_224", {"img_size": 64, "depth": 3}, 64)],
)
def test_networks_that_cannot_be_read_are_refused(name, options, size):
    network = timm.create_model(name, num_classes=10, **options).eval()
    with pytest.raises(ValueError, match="pass target_layers"):
        found(network, (size, size), 3)


def shuffled(tokens):
    return tokens[:, torch.cat([torch.tensor([0]), 1 + torch.randperm(16, generator=torch.Generator().manual_seed(1))])]


def transposed(tokens):
    """Columns before rows."""
    return torch.cat([tokens[:, :1], tokens[:, 1:].unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)], 1)


@pytest.mark.parametrize("order", [shuffled, transposed, lambda tokens: tokens.roll(-1, 1)])
def test_tokens_in_another_order_are_refused(order):
    network = vit()
    embed = network._pos_embed
    network._pos_embed = lambda x: order(embed(x))
    with pytest.raises(ValueError, match="whose layout cannot be told: the best reading puts .* in their place"):
        find_layer(network, network, torch.rand(1, 1, 8, 8))


class Twin(nn.Module):
    """A small network, channels first or last: the same weights, the same logits, and as wide as high as deep."""

    def __init__(self, last):
        super().__init__()
        self.last = last
        self.embed, self.mix = nn.Conv2d(1, 4, 2, 2), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.stage, self.head = nn.LayerNorm(4), nn.Identity(), nn.Linear(4, 10)

    def forward(self, x):
        x = self.norm(self.mix(self.embed(x).relu()).permute(0, 2, 3, 1))
        x = self.stage(x if self.last else x.permute(0, 3, 1, 2))
        return self.head(x.mean((1, 2) if self.last else (2, 3)))


def test_a_network_with_channels_last_has_the_map_of_its_twin():
    torch.manual_seed(0)
    first, last = Twin(False).eval(), Twin(True).eval()
    last.load_state_dict(first.state_dict())
    images = torch.rand(6, 1, 8, 8)
    torch.testing.assert_close(first(images), last(images))
    assert found(first, (8, 8)) == "stage: (N, C, h, w)"
    assert found(last, (8, 8)) == "stage: (N, h, w, C)"
    for layer in (None, "stage"):
        maps = [class_activation_map(net, images, target_layers=layer) for net in (first, last)]
        torch.testing.assert_close(*maps)


def test_the_map_of_a_vit_is_that_of_pytorch_grad_cam_with_the_documented_reshape():
    network, images = vit(), torch.rand(4, 1, 8, 8)
    reshape = lambda tokens: tokens[:, 1:].reshape(-1, 4, 4, 32).permute(0, 3, 1, 2)  # noqa: E731
    library = GradCAM(network, [network.blocks[-1].norm1], reshape_transform=reshape)(images, None)
    ours = class_activation_map(network, images)
    torch.testing.assert_close(ours[:, 0], torch.from_numpy(library), atol=1e-5, rtol=0)
    torch.testing.assert_close(class_activation_map(network, images, cam="GradCAM"), ours, atol=1e-5, rtol=0)


def test_the_map_of_a_swin_is_that_of_pytorch_grad_cam_with_the_documented_reshape():
    network, images = swin(), torch.rand(4, 1, 32, 32)
    reshape = lambda maps: maps.permute(0, 3, 1, 2)  # noqa: E731
    library = GradCAM(network, [network.norm], reshape_transform=reshape)(images, None)
    ours = class_activation_map(network, images)
    torch.testing.assert_close(ours[:, 0], torch.from_numpy(library), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", ["blocks.2", "blocks.2.norm2", "norm"])
def test_a_layer_behind_which_nothing_mixes_tokens_is_refused(layer):
    message = f"target layer {layer!r} can carry no signal: behind it nothing mixes tokens, and the class token alone "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}decides; name an earlier one"):
        class_activation_map(vit(), torch.rand(2, 1, 8, 8), target_layers=layer)
    averaging = vit(weight_init="skip", global_pool="avg")
    assert class_activation_map(averaging, torch.rand(2, 1, 8, 8), target_layers="norm").any()


def test_a_head_of_zeros_hides_nothing():
    network = vit()
    with torch.no_grad():
        network.head.weight.zero_()
    before = snapshot(network)
    assert found(network, (8, 8)) == "blocks.2.norm1: 1 + 4x4 tokens"
    find_layer(network, network, torch.rand(1, 1, 8, 8))
    assert_untouched(network, before)


def test_a_trained_vit(digits):
    """Where each token knows much of the others, the layer and its layout are found all the same."""
    torch.manual_seed(0)
    network, (x, y) = vit(depth=4).train(), digits
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    for _ in range(25):
        for rows in torch.randperm(1400).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    network.eval()
    assert (network(x[1400:]).argmax(1) == y[1400:]).float().mean() > 0.7
    assert found(network, (8, 8)) == "blocks.3.norm1: 1 + 4x4 tokens"
    images, labels = x[1400:1416], y[1400:1416]
    adv = PixelPGD(network, 0.1, 0.05, 3, eps_low=0.05)(images, labels)
    moved = (adv - images).abs()
    assert 0.05 < moved.max() <= 0.1 + 1e-6
    assert (moved > 0.051).any((1, 2, 3)).float().mean() > 0.5  # a map lets some pixels move further
    assert (moved.flatten(1) <= 0.051).any(1).all()
    assert PART(eps=0.1, eps_low=0.05, burn_in=0).loss(network, images, labels).isfinite()


def test_one_of_several_outputs_of_an_operation_is_no_way_around():
    """Keys and values that `unbind` gives are outputs of one node of the graph: keys alone do not decide."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(1, 32, 2, 2), nn.Sequential(*(nn.LayerNorm(32) for _ in range(8)))
            self.kv, self.keys = nn.Linear(32, 64), nn.Identity()
            self.query, self.head = nn.Parameter(torch.randn(1, 2, 1, 16)), nn.Linear(32, 10)

        def forward(self, images):
            tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))
            keys, values = self.kv(tokens).unflatten(2, (2, 2, 16)).permute(2, 0, 3, 1, 4).unbind()
            return self.head((self.query @ self.keys(keys).mT).softmax(-1).matmul(values).flatten(1))

    torch.manual_seed(0)
    assert found(Pooled().eval(), (8, 8)) == "norm: 4x4 tokens"
