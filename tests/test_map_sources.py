"""What a source of maps may be, and what is said of one that is called otherwise or asks for what is not there."""

import re
from functools import partial

import pytest
import torch
from captum.attr import Saliency
from conftest import SmallNet, assert_untouched, snapshot
from torch import nn

from part_plugin import PART, PixelBudget, PixelPGD, class_activation_map
from part_plugin.map_sources import cam_name, check_cam
from part_plugin.network.view import logits_of


class Source:
    def __init__(self, layer="features"):
        self.layer = layer

    def __call__(self, model, images, classes):
        return model.get_submodule(self.layer)(images)

    def method(self, model, images, classes):
        return self(model, images, classes)

    @classmethod
    def of_class(cls, model, images, classes):
        return cls()(model, images, classes)

    @staticmethod
    def static(model, images, classes, *, layer="features"):
        return Source(layer)(model, images, classes)


class AsModule(nn.Module):
    def forward(self, model, images, classes):
        return model.features(images)


SOURCES = {
    "object": (Source(), "Source"),
    "method": (Source().method, "method"),
    "class method": (Source.of_class, "of_class"),
    "static method": (Source.static, "static"),
    "partial": (partial(Source.static, layer="features"), "static"),
    "partial of a partial": (partial(partial(Source.static), layer="features"), "static"),
    "partial of an object": (partial(Source()), "Source"),
    "module": (AsModule(), "AsModule"),
}


@pytest.mark.parametrize(("cam", "name"), SOURCES.values(), ids=SOURCES)
def test_whatever_can_be_called_is_a_source(digits_net, batch, cam, name):
    assert cam_name(cam) == name
    assert f"cam={name}," in repr(PixelBudget(cam=cam))
    expected = class_activation_map(digits_net, batch[0], cam=lambda model, images, classes: model.features(images))
    assert torch.equal(class_activation_map(digits_net, batch[0], cam=cam), expected)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda net: Saliency(net), "Saliency"),
        (lambda net: Saliency(net).attribute, "attribute"),
        (lambda net: partial(Saliency(net).attribute, target=1), "attribute"),
        (lambda net: Saliency, "Saliency"),
    ],
)
@pytest.mark.parametrize("taken", [PixelBudget, PART, partial(PixelPGD, SmallNet()), check_cam])
def test_what_a_library_calls_otherwise_is_refused_before_work(digits_net, made, name, taken):
    message = (
        f"cam={name} is of captum, which calls its own otherwise; a function (model, images, classes) -> maps "
        "around it is needed, see examples/map_sources.py"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        taken(cam=made(digits_net))


def test_a_source_made_of_a_librarys_object_is_none_of_the_librarys(digits_net):
    def around(model, images, classes):
        return Saliency(model).attribute(images.requires_grad_(), target=classes)

    check_cam(around)
    check_cam(partial(around))


class Pair(SmallNet):
    def forward(self, x):
        return super().forward(x), "more than logits"


def test_logits_of_a_network_that_returns_more(digits_net, batch):
    def saliency(model, images, classes):
        return Saliency(partial(logits_of, model)).attribute(images.requires_grad_(), target=classes)

    expected = class_activation_map(digits_net, batch[0], cam=saliency)
    digits_net.__class__ = Pair
    assert torch.equal(class_activation_map(digits_net, batch[0], cam=saliency), expected)


# Gradients of what requires none


def careless(model, images, classes):
    return torch.autograd.grad(model(images).sum(), images)[0]


def without_gradients(model, images, classes):
    with torch.no_grad():
        scores = model(images.requires_grad_()).sum()
    return torch.autograd.grad(scores, images)[0]


@pytest.mark.parametrize("cam", [careless, without_gradients, partial(careless)])
def test_a_gradient_that_is_not_there(lived_in, batch, cam):
    lived_in.requires_grad_(False)
    before = snapshot(lived_in)
    message = (
        f"cam={cam_name(cam)} takes a gradient of what requires none: call images.requires_grad_() in it first; a "
        "forward pass under no_grad or with detach gives none either"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        class_activation_map(lived_in, batch[0], cam=cam)
    assert_untouched(lived_in, before)


def test_other_errors_of_a_source_are_told_as_they_are(digits_net, batch):
    def broken(model, images, classes):
        raise RuntimeError("the maps are sold out") from KeyError("maps")

    with pytest.raises(RuntimeError, match="^the maps are sold out$"):
        class_activation_map(digits_net, batch[0], cam=broken)
