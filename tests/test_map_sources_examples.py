"""The sources of maps of examples/map_sources.py: they give what their library gives, everywhere a map is taken."""

import copy
import re
import sys
from functools import partial

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from captum.attr import IntegratedGradients, Saliency
from conftest import SmallNet, assert_untouched, snapshot
from test_examples import EXAMPLES, run
from test_recipe_examples import example
from test_traces import Fuse, Ticking, walk
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, softmax
from torchattacks import FGSM
from torchvision import models

from part_plugin import (
    PART,
    PARTTrainer,
    PixelAttack,
    PixelBudget,
    PixelMMA,
    PixelPGD,
    PixelProjectedGradientDescent,
    PixelTPGD,
    class_activation_map,
)

if sys.version_info < (3, 11):
    pytest.skip("torch-cam 0.5 needs Python 3.11", allow_module_level=True)
from torchcam.methods import LayerCAM, LeGrad

sources = example("map_sources")


class Tick(nn.Module):
    """Does nothing, but an exception may be raised in it, in both directions."""

    def forward(self, x):
        return Ticking.apply(x)


def bright(images):
    return nn.functional.avg_pool2d(images, 3, 1, 1)


def nets():
    torch.manual_seed(0)
    cnn = SmallNet()
    torchvision_vit = models.VisionTransformer(8, 2, 2, 2, hidden_dim=32, mlp_dim=64, num_classes=10)
    torchvision_vit.conv_proj = nn.Conv2d(1, 32, 2, 2)
    timm_vit = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2
    )
    cnn.features.append(Tick())
    torchvision_vit.encoder.layers[1].dropout = Tick()
    timm_vit.blocks[1].drop_path2 = Tick()
    return {"cnn": cnn, "torchvision": torchvision_vit, "timm": timm_vit}


@pytest.fixture(scope="module")
def trained(digits):
    """A network of convolutions and two transformers, trained on digits."""
    Fuse.set(-1)
    networks = nets()
    for network in networks.values():
        optimizer = torch.optim.Adam(network.parameters(), 0.003)
        for rows in torch.arange(1400).repeat(3).split(25):
            optimizer.zero_grad()
            cross_entropy(network(digits[0][rows]), digits[1][rows]).backward()
            optimizer.step()
        accuracy = (network.eval()(digits[0][1400:]).argmax(1) == digits[1][1400:]).float().mean()
        assert accuracy > 0.25
    return {name: network.state_dict() for name, network in networks.items()}


# By hand: what each library gives, called as its documentation does, on a network in eval mode


def saliency_by_hand(net, images, classes):
    return Saliency(net).attribute(images.clone().requires_grad_(), target=classes).mean(1)


def integrated_by_hand(net, images, classes):
    found = [
        IntegratedGradients(net).attribute(image[None].clone().requires_grad_(), target=int(label), n_steps=16)
        for image, label in zip(images, classes, strict=True)
    ]
    return torch.cat(found).abs().mean(1)


def gradient_by_hand(net, images, classes):
    def score(image, label):
        return net(image[None])[0, label]

    gradients = [
        torch.autograd.functional.jacobian(partial(score, label=label), image)
        for image, label in zip(images, classes, strict=True)
    ]
    return torch.stack(gradients).abs().mean(1)


def layercam_by_hand(net, images, classes, layer):
    found = []
    for image, label in zip(images, classes.tolist(), strict=True):
        with LayerCAM(net, layer) as maps:
            scores = net(image[None].clone().requires_grad_())
            found.append(maps(label, scores)[0])
    return torch.cat(found)


def legrad_by_hand(net, images, classes):
    found = []
    for image, label in zip(images, classes.tolist(), strict=True):
        with LeGrad(net, [f"encoder.layers.encoder_layer_{number}" for number in (0, 1)]) as maps:
            net(image[None])
            found.append(maps(label)[0])
    return torch.cat(found)


def rollout_by_hand(net, images, classes):
    """From the weights of each block, without a hook."""
    tokens = net.norm_pre(net._pos_embed(net.patch_embed(images)))
    whole = torch.eye(tokens.shape[1])
    for block in net.blocks:
        layer, rows = block.attn, block.norm1(tokens)
        heads = layer.qkv(rows).detach().unflatten(2, (3, layer.num_heads, layer.head_dim))
        queries, keys = heads[:, :, 0].transpose(1, 2), heads[:, :, 1].transpose(1, 2)
        attention = softmax(queries @ keys.transpose(2, 3) / layer.head_dim**0.5, dim=-1).mean(1)
        whole = (0.5 * attention + 0.5 * torch.eye(tokens.shape[1])) @ whole
        tokens = block(tokens)
    return whole[:, 0, 1:].reshape(-1, 4, 4)


def pooled(net, images, classes):
    return bright(images).mean(1)


def scaled(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def at_size(maps, images):
    return scaled(interpolate(scaled(maps)[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0])


def mean_by_hand(net, images, classes):
    """Of the gradient and of torch-cam's LayerCAM; torch-cam's scaling leaves out a constant of 1e-8."""
    two = gradient_by_hand(net, images, classes), layercam_by_hand(net, images, classes, "features")
    return sum(at_size(maps, images) for maps in two) / 2


SOURCES = {
    "captum's saliency": ("cnn", sources.saliency, saliency_by_hand),
    "captum's integrated gradients": ("cnn", sources.integrated_gradients, integrated_by_hand),
    "gradient": ("cnn", sources.gradient, gradient_by_hand),
    "torch-cam's LayerCAM": (
        "cnn",
        partial(sources.layercam, layer="features"),
        partial(layercam_by_hand, layer="features"),
    ),
    "torch-cam's LeGrad": ("torchvision", sources.legrad, legrad_by_hand),
    "rollout": ("timm", sources.attention_rollout, rollout_by_hand),
    "network": ("cnn", sources.of_network(nn.AvgPool2d(3, 1, 1)), pooled),
    "average": (
        "cnn",
        sources.average(sources.gradient, partial(sources.layercam, layer="features")),
        mean_by_hand,
    ),
}


@pytest.fixture(params=SOURCES)
def source(request, trained):
    """A fresh copy of a trained network, a source of its maps, and what the library gives by hand."""
    Fuse.set(-1)
    name, cam, by_hand = SOURCES[request.param]
    net = nets()[name]
    net.load_state_dict(trained[name])
    return net.eval(), cam, by_hand


def live_in(net, batch):
    """Leave `net` as in the middle of a training: training, gradients accumulated, a layer frozen."""
    cross_entropy(net.train()(batch[0]), batch[1]).backward()
    next(net.parameters()).requires_grad_(False)
    return net


def traces(net):
    return snapshot(net), [module.fused_attn for module in net.modules() if hasattr(module, "fused_attn")]


def assert_no_trace(net, before):
    assert_untouched(net, before[0])
    assert traces(net)[1] == before[1]


@pytest.mark.parametrize("classes", ["predicted", "true"])
def test_maps_are_those_of_the_library(source, batch, classes):
    net, cam, by_hand = source
    with torch.no_grad():
        labels = net(batch[0]).argmax(1) if classes == "predicted" else (batch[1] + 1) % 10
    found = class_activation_map(net, batch[0], None if classes == "predicted" else labels, cam)
    assert found.shape == batch[0].shape
    expected = at_size(by_hand(net, batch[0], labels), batch[0])
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=1e-4)
    assert (found.std((1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("name", ["captum's saliency", "gradient", "layercam"])
def test_maps_of_a_trained_resnet(cifar_net, photos, name):
    cam, by_hand = {
        **{key: value[1:] for key, value in SOURCES.items()},
        "layercam": (partial(sources.layercam, layer="layer4"), partial(layercam_by_hand, layer="layer4")),
    }[name]
    before = snapshot(cifar_net)
    found = class_activation_map(cifar_net, photos[:2], cam=cam)
    with torch.no_grad():
        labels = cifar_net(photos[:2]).argmax(1)
    expected = at_size(by_hand(cifar_net, photos[:2], labels), photos[:2])
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=2e-4)
    assert_untouched(cifar_net, before)


OPTIONS = {"eps": 0.1, "eps_low": 0.05, "alpha": 0.05, "steps": 2}


def remembered(net, cam, x, y):
    """Masks of the first epoch are those of the second."""
    part, index = PART(cam=cam, mask_every=2, burn_in=0, seed=0, **OPTIONS), torch.arange(len(x))
    adv = []
    for epoch in range(2):
        part.set_epoch(epoch)
        adv.append(part.perturb(net, x, y, index))
    assert part.budget.images == len(x)
    return torch.cat(adv)


def classifier(net, **options):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    return PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer, clip_values=(0, 1), device_type="cpu", **options
    )


def art(net, cam, x, y, **options):
    settings = {"eps": 0.1, "eps_step": 0.05, "max_iter": 2, "num_random_init": 1, "verbose": False}
    attack = PixelProjectedGradientDescent(classifier(net, **options), eps_low=0.05, cam=cam, **settings)
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def fitted(net, cam, x, y):
    estimator = classifier(net)
    attack = PixelProjectedGradientDescent(estimator, eps=0.1, eps_step=0.05, max_iter=2, eps_low=0.05, cam=cam)
    PARTTrainer(estimator, attack, ratio=1.0, burn_in=0).fit(x.numpy(), y.numpy(), len(x), 1, verbose=False)
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


ENTRIES = {
    "class_activation_map": lambda net, cam, x, y: class_activation_map(net, x, cam=cam),
    "PixelBudget": lambda net, cam, x, y: PixelBudget(0.1, 0.05, cam=cam, target="true")(net, x, y),
    "PART": lambda net, cam, x, y: PART(cam=cam, burn_in=0, seed=0, **OPTIONS).perturb(net, x, y),
    "PART, TRADES": lambda net, cam, x, y: PART("trades", cam=cam, burn_in=0, **OPTIONS).perturb(net, x, y),
    "PART, masks remembered": remembered,
    "PixelPGD": lambda net, cam, x, y: PixelPGD(net, cam=cam, **OPTIONS)(x, y),
    "PixelTPGD": lambda net, cam, x, y: PixelTPGD(net, cam=cam, **OPTIONS)(x),
    "PixelMMA": lambda net, cam, x, y: PixelMMA(net, cam=cam, **OPTIONS)(x, y),
    "PixelAttack": lambda net, cam, x, y: PixelAttack(FGSM(net, 0.1), eps_low=0.05, cam=cam)(x, y),
    "ART": art,
}
TRAININGS = {
    "PART.loss": lambda net, cam, x, y: PART(cam=cam, burn_in=0, seed=0, **OPTIONS).loss(net, x, y).detach(),
    "PARTTrainer": fitted,
}


def seeded(call, *arguments, **options):
    torch.manual_seed(0)
    np.random.seed(0)
    return call(*arguments, **options)


def of_a_copy(net, cam):
    """The same source, of a copy of the network as it is now, in eval mode."""
    copied = copy.deepcopy(net).eval()
    return lambda model, images, classes: cam(copied, images, classes)


@pytest.mark.parametrize("state", ["training", "frozen"])
def test_wherever_maps_are_taken(source, batch, state):
    """The network is seen in eval mode, with gradients on, also where it is frozen, under no_grad, and left alone."""
    net, cam, _ = source
    x, y = batch[0][:6], batch[1][:6]
    net = live_in(net, (x, y)) if state == "training" else net.requires_grad_(False)
    for name, entry in ENTRIES.items():
        expected, before = seeded(entry, net, of_a_copy(net, cam), x, y), traces(net)
        with torch.set_grad_enabled(state == "training"):
            found = seeded(entry, net, cam, x, y)
        assert torch.equal(found, expected), name
        assert_no_trace(net, before)
        if name != "class_activation_map":
            plain = seeded(entry, net, lambda model, images, classes: torch.eye(8).expand(len(images), 8, 8), x, y)
            assert not torch.equal(found, plain), name


@pytest.mark.parametrize("training", TRAININGS)
def test_trainings(source, batch, training):
    net, cam, _ = source
    twin = copy.deepcopy(net)
    for each in (net, twin):
        live_in(each, batch)
    found = seeded(TRAININGS[training], net, cam, *batch)
    assert torch.equal(found, seeded(TRAININGS[training], twin, of_a_copy(twin, cam), *batch))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))


def test_behind_a_normalisation_of_art(source, batch):
    """The source sees the images as they are, and finds the layers of the network by their names."""
    net, cam, _ = source
    copied = copy.deepcopy(net)

    def normal(images):
        return (images - 0.3) / 0.5

    def of_normalised(model, images, classes):
        if cam is sources.integrated_gradients:  # from a black image
            ends = normal(images), normal(torch.zeros_like(images))
            return IntegratedGradients(copied).attribute(*ends, target=classes, n_steps=16).abs()
        return cam(copied, images if cam is SOURCES["network"][1] else normal(images), classes)

    before = traces(net)
    found, expected = (seeded(art, net, each, *batch, preprocessing=(0.3, 0.5)) for each in (cam, of_normalised))
    assert (found == expected).float().mean() > 0.98  # a map rounded otherwise may tip a pixel over the threshold
    assert_no_trace(net, before)


@pytest.mark.parametrize("name", ["gradient", "torch-cam's LayerCAM", "captum's saliency"])
def test_a_network_that_is_frozen_itself_while_it_is_attacked(trained, batch, name):
    """Its forward pass is a closure, so that it has no replica; its weights ask for no gradient meanwhile."""
    nets_, cam = [nets()["cnn"] for _ in range(2)], SOURCES[name][1]
    for net in nets_:
        net.load_state_dict(trained["cnn"])
    closed = nets_[0]
    closed.forward = lambda x: SmallNet.forward(closed, x)
    before = traces(closed)
    found, expected = (PART(cam=cam, burn_in=0, seed=0, **OPTIONS).perturb(net, *batch) for net in nets_)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert_no_trace(closed, before)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["parallel", "compile"]
)
def test_under_wrappers(source, batch, wrap):
    """The source gets the network itself, whose layers have their names."""
    net, cam, _ = source
    expected, wrapped = class_activation_map(net, *batch, cam), wrap(net)
    before = traces(net)
    assert torch.equal(class_activation_map(wrapped, *batch, cam), expected)
    assert_no_trace(net, before)


@pytest.mark.parametrize("context", [torch.inference_mode, partial(torch.autocast, "cpu", torch.bfloat16)])
def test_contexts(source, batch, context):
    net, cam, _ = source
    expected = class_activation_map(net, *batch, cam)
    with context():
        found = class_activation_map(net, batch[0] * 1, batch[1], cam)
    assert not found.is_inference()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0 if context is torch.inference_mode else 0.2)


def test_an_exception_anywhere_leaves_no_trace(source, batch):
    net, cam, _ = source
    x, y = batch[0][:3], batch[1][:3]
    live_in(net, (x, y))
    before = traces(net)

    def check(net):
        assert_no_trace(net, before)
        assert torch.is_grad_enabled()

    walk(lambda net: class_activation_map(net, x, y, cam), net, check)


@pytest.mark.parametrize("made", [lambda net: LayerCAM(net, "features"), lambda net: LayerCAM])
def test_what_torch_cam_calls_otherwise_is_refused(digits_net, made):
    message = (
        "cam=LayerCAM is of torchcam, which calls its own otherwise; a function (model, images, classes) -> maps "
        "around it is needed, see examples/map_sources.py"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        PART(cam=made(digits_net))


def test_torch_cam_on_frozen_weights_without_gradients_of_the_images(digits_net, batch):
    def forgetful(model, images, classes):
        with LayerCAM(model, "features") as maps:
            return maps(classes.tolist(), model(images))[0]

    expected = class_activation_map(digits_net, batch[0], cam=partial(sources.layercam, layer="features"))
    assert torch.equal(class_activation_map(digits_net, batch[0], cam=forgetful), expected)
    message = "cam=forgetful takes a gradient of what requires none: call images.requires_grad_() in it first; a"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        class_activation_map(digits_net.requires_grad_(False), batch[0], cam=forgetful)


def test_attention_rollout_of_a_transformer_without_class_token(trained, batch):
    net = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=2, num_heads=2, class_token=False,
        global_pool="avg", dynamic_img_size=True,
    )  # fmt: skip
    for size in ((8, 8), (12, 8)):
        images = interpolate(batch[0], size)
        maps = sources.attention_rollout(net.eval(), images, None)
        assert maps.shape == (16, size[0] // 2, size[1] // 2)
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(16))  # shares of what all tokens see


def test_a_network_of_maps_is_left_alone(digits_net, batch):
    teacher = SmallNet().features
    before = snapshot(teacher.eval())
    maps = class_activation_map(digits_net, batch[0], cam=sources.of_network(teacher.train()))
    assert_untouched(teacher, before)
    assert not sources.of_network(teacher)(digits_net, batch[0], None).requires_grad
    torch.testing.assert_close(maps[:, 0], at_size(teacher(batch[0]).mean(1), batch[0]), rtol=0, atol=1e-5)


def test_names_are_sources_too(digits_net, batch):
    found = class_activation_map(digits_net, batch[0], cam=sources.average("gradcam", sources.gradient))
    two = [class_activation_map(digits_net, batch[0], cam=cam)[:, 0] for cam in ("gradcam", sources.gradient)]
    torch.testing.assert_close(found[:, 0], scaled(two[0] / 2 + two[1] / 2), rtol=0, atol=1e-5)


def test_the_script(tmp_path):
    script = EXAMPLES / "map_sources.py"
    assert len(script.read_text().splitlines()) < 120
    printed = run(script, cwd=tmp_path)
    shares = [float(share) for share in re.findall(r"full eps for +(\d+\.\d)% of the pixels", printed)]
    assert len(shares) == 8
    assert min(shares) > 3
    assert max(shares) < 50
    assert (tmp_path / "map_sources.png").stat().st_size > 1000
