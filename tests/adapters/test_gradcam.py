"""Maps by the classes of pytorch-grad-cam, without its traces."""

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from conftest import assert_untouched, snapshot
from pytorch_grad_cam import EigenCAM, GradCAM, LayerCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from part_plugin import class_activation_map
from part_plugin.adapters.gradcam import check_library_method, library_maps, library_methods

WITHOUT_BASE = ("FinerCAM", "RefineCAM", "SESS")
"""Classes of the library that are CAMs and no subclass of its base."""


def test_the_methods_are_the_library_s_cam_classes():
    names = library_methods()
    assert names == sorted(names)
    assert {"GradCAM", "GradCAMPlusPlus", "EigenCAM", "ScoreCAM"} <= set(names)
    for name in dir(pytorch_grad_cam):
        value = getattr(pytorch_grad_cam, name)
        is_cam = isinstance(value, type) and (issubclass(value, BaseCAM) or name in WITHOUT_BASE)
        assert (name in names) == is_cam, name


@pytest.mark.parametrize("cam", [GradCAM, LayerCAM, "GradCAM", "EigenCAM"])
@pytest.mark.parametrize("layers", [[0], [0, 3]])
def test_maps_are_those_of_the_library_itself(digits_net, batch, cam, layers):
    chosen = [digits_net.features[index] for index in layers]
    classes = (batch[1] + 1) % 10
    method = getattr(pytorch_grad_cam, cam) if isinstance(cam, str) else cam
    with method(digits_net, chosen) as library:
        expected = library(batch[0].clone(), [ClassifierOutputTarget(int(c)) for c in classes])
    maps = library_maps(digits_net, batch[0], classes, cam, chosen, None)
    assert maps.shape == (16, 1, 8, 8)
    assert np.array_equal(maps[:, 0].numpy(), expected)


@pytest.mark.parametrize("cam", ["GradCAM", "EigenCAM"])
def test_frozen_weights_do_not_change_a_map(digits_net, batch, cam):
    layers = [digits_net.features[3]]
    free = library_maps(digits_net, *batch, cam, layers, None)
    assert free.amax() > 0
    digits_net.requires_grad_(False)
    assert torch.equal(library_maps(digits_net, *batch, cam, layers, None), free)
    assert not batch[0].requires_grad
    assert not any(parameter.requires_grad for parameter in digits_net.parameters())


def test_tokens_are_reshaped(digits_net, batch):
    """A layer whose output is (N, 64, 16), as a transformer's, mapped as if it were (N, 16, 8, 8)."""

    class Tokens(nn.Module):
        def forward(self, x):
            return x.flatten(2).transpose(1, 2)

    class Back(nn.Module):
        def forward(self, x):
            return x.transpose(1, 2).unflatten(2, (8, 8)).clone()  # the ReLU after it works in place

    tokens = Tokens()
    net = nn.Sequential(
        digits_net.features[:2], tokens, Back(), digits_net.features[2:], nn.Flatten(), nn.Linear(2048, 10)
    )
    torch.manual_seed(0)
    nn.init.normal_(net[-1].weight)
    plain = library_maps(net, *batch, "GradCAM", [net[0]], None)
    reshaped = library_maps(net, *batch, "GradCAM", [tokens], lambda x: x.transpose(1, 2).unflatten(2, (8, 8)))
    assert plain.amax() > 0
    torch.testing.assert_close(reshaped, plain)


def test_no_trace_on_the_model(lived_in, batch):
    before = snapshot(lived_in)
    class_activation_map(lived_in, batch[0], cam="GradCAMPlusPlus", target_layers="features")
    assert_untouched(lived_in, before)

    calls = iter(range(1))  # the logits; the library's own pass breaks
    forward = lived_in.head.forward

    def breaks(x):
        if next(calls, None) is None:
            raise ArithmeticError("broken in the middle")
        return forward(x)

    lived_in.head.forward = breaks
    with pytest.raises(ArithmeticError):
        class_activation_map(lived_in, batch[0], cam=EigenCAM, target_layers="features")
    del lived_in.head.forward
    assert_untouched(lived_in, before)


@pytest.mark.parametrize(
    ("cam", "message"),
    [
        (
            "EigenCam",
            "cam='EigenCam' is not known; choose from 'own', " + ", ".join(map(repr, library_methods())),
        ),
        (nn.Linear, "cam=Linear is no CAM class; a name or a subclass of pytorch-grad-cam's BaseCAM is needed"),
    ],
)
def test_what_is_no_method(cam, message):
    with pytest.raises(ValueError) as caught:
        check_library_method(cam, ["own"])
    assert str(caught.value) == message


@pytest.mark.parametrize("cam", ["own", "EigenCAM", EigenCAM])
def test_what_is_a_method(cam):
    check_library_method(cam, ["own"])


@pytest.mark.parametrize("name", [name for name in library_methods() if name != "RandomCAM"])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_class_gives_the_library_s_own_map_and_prints_nothing(digits_net, batch, capfd, name, frozen):
    """FinerCAM finds classes to compare with by itself, so it is asked for the predicted ones, as are all here."""
    method, layers = getattr(pytorch_grad_cam, name), [] if name == "FullGrad" else [digits_net.features[3]]
    digits_net.features[5].inplace = False  # or the library maps what is after the ReLU
    digits_net.features[2].inplace = False
    images = batch[0][:3].clone()
    with torch.no_grad():
        classes = digits_net(images).argmax(1)
    targets = None if name == "FinerCAM" else [ClassifierOutputTarget(int(c)) for c in classes]
    library = method(digits_net, layers)
    expected = torch.from_numpy(library(images.clone(), targets))
    del library
    capfd.readouterr()
    before = snapshot(digits_net.requires_grad_(not frozen))
    given = {} if name == "FullGrad" else {"target_layers": "features.3"}
    maps = class_activation_map(digits_net, images, classes, cam=name, **given)
    assert capfd.readouterr() == ("", "")
    assert_untouched(digits_net, before)
    assert float(expected.max()) > 0.5
    torch.testing.assert_close(maps[:, 0], expected, atol=1e-4, rtol=0)


def test_finer_maps_of_another_class_than_the_predicted_one(digits_net, batch):
    """The map of class c is GradCAM's for its logit minus the three nearest ones, weighted by their probability."""

    class Finer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net

        def forward(self, x):
            logits = self.net(x)
            chosen = (logits.argmax(1, keepdim=True) + 1) % 10
            own = logits.gather(1, chosen)
            near = (logits - own).abs().scatter(1, chosen, torch.inf).topk(3, largest=False).indices
            weights = logits.softmax(1).gather(1, near)
            finer = (weights * (own - logits.gather(1, near))).sum(1) / (weights.sum(1) + 1e-9)
            return finer[:, None].expand(-1, 10)

    classes = (digits_net(batch[0]).argmax(1) + 1) % 10
    expected = class_activation_map(Finer(), batch[0], classes, target_layers="net.features.3")
    maps = class_activation_map(digits_net, batch[0], classes, cam="FinerCAM", target_layers="features.3")
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["GradCAM", "AblationCAM", "SESS"])
def test_models_that_return_more_than_logits(digits_net, batch, name):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = digits_net

        def forward(self, x):
            return self.net(x), x

    images = batch[0][:3]
    expected = class_activation_map(digits_net, images, cam=name, target_layers="features.3")
    assert torch.equal(class_activation_map(Pair(), images, cam=name, target_layers="net.features.3"), expected)


def test_the_library_s_own_progress_bars_stay(digits_net, batch, capfd):
    pytorch_grad_cam.ScoreCAM(digits_net, [digits_net.features])(batch[0][:1], [ClassifierOutputTarget(0)])
    assert "it/s" in capfd.readouterr().err


class Twice(nn.Module):
    """One convolution, called twice or two of the same weights, called once each."""

    def __init__(self, shared):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10)
        self.second = self.first if shared else nn.Conv2d(8, 8, 3)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x):
        return self.head(self.second(self.first(self.stem(x).relu()).relu()).mean((2, 3)))


def test_a_layer_that_is_called_twice(batch):
    """Our own methods map its last call; the library would map its first, so its classes are refused."""
    shared, apart = Twice(True), Twice(False)
    classes = batch[1]
    for cam in ("gradcam", "xgradcam", "layercam"):
        for layers, same in (("first", "second"), (["first", "stem"], ["second", "stem"])):
            maps = class_activation_map(shared, batch[0], classes, cam, layers)
            assert maps.amax() > 0.5
            torch.testing.assert_close(maps, class_activation_map(apart, batch[0], classes, cam, same))
    message = (
        "^target layer 'first' is called 2 times in a pass, of which pytorch-grad-cam maps the first; "
        "'gradcam', 'xgradcam', 'layercam' map the last$"
    )
    with pytest.raises(ValueError, match=message):
        class_activation_map(shared, batch[0], classes, "GradCAM", "first")


def test_a_relu_in_place_after_the_layer(digits_net, batch):
    """Ours is the map of the layer itself; on a CPU the library's has the activations of after the ReLU."""
    options = {"classes": batch[1], "target_layers": "features.4"}
    in_place = class_activation_map(digits_net, batch[0], **options)
    library = class_activation_map(digits_net, batch[0], cam="GradCAM", **options)
    digits_net.features[5].inplace = False
    assert torch.equal(class_activation_map(digits_net, batch[0], **options), in_place)
    apart = class_activation_map(digits_net, batch[0], cam="GradCAM", **options)
    torch.testing.assert_close(apart, in_place, atol=1e-5, rtol=0)
    assert (library - apart).abs().max() > 0.1


def test_second_derivatives_where_there_are_none(digits_net, batch):
    """A mean and one layer come after the last ReLU: it is linear there, and ShapleyCAM fails in the library too."""
    torch.manual_seed(0)
    net = nn.Sequential(digits_net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()
    message = (
        "cam=ShapleyCAM takes second derivatives, and the network is linear after its target layer; "
        "name an earlier one in target_layers"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        class_activation_map(net, batch[0], cam="ShapleyCAM", target_layers="0.5")
    assert class_activation_map(net, batch[0], cam="ShapleyCAM", target_layers="0.2").max() > 0.5
