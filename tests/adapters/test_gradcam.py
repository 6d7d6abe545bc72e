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


def test_the_methods_are_the_library_s_cam_classes():
    names = library_methods()
    assert names == sorted(names)
    assert {"GradCAM", "GradCAMPlusPlus", "EigenCAM", "ScoreCAM"} <= set(names)
    for name in dir(pytorch_grad_cam):
        value = getattr(pytorch_grad_cam, name)
        assert (name in names) == (isinstance(value, type) and issubclass(value, BaseCAM)), name


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
