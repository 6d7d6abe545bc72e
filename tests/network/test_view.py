"""The network under its wrappers, behind its normalisation, and its logits."""

import copy
import re
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from conftest import SmallNet
from torch import nn

from part_plugin.network.view import ModelView, logits_of, network_of, without_replicas, without_wrappers

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def logits(images):
    return images.flatten(1)[:, :5]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: {"logits": z, "aux": None},
        lambda z: OrderedDict(other=0, logits=z),
        lambda z: SimpleNamespace(logits=z, loss=0),
        lambda z: (z, "features"),
        lambda z: [z],
    ],
)
def test_logits_of_any_kind_of_output(wrap):
    assert torch.equal(logits_of(lambda images: wrap(logits(images)), IMAGES), logits(IMAGES))


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (torch.zeros(3, 5, 1), "(3, 5, 1)"),
        (torch.zeros(3), "(3,)"),
        (torch.zeros(2, 5), "(2, 5)"),
        (None, "NoneType"),
        ({"scores": torch.zeros(3, 5)}, "dict"),
        ((), "tuple"),
        (SimpleNamespace(logits=3), "SimpleNamespace"),
    ],
)
def test_outputs_that_are_no_logits(output, found):
    message = f"the model's output is {found}; logits of shape (3, K) are needed"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        logits_of(lambda images: output, IMAGES)


def test_the_images_are_left_alone_and_have_a_gradient():
    images = IMAGES.clone().requires_grad_()
    found = logits_of(lambda x: x.mul_(2).flatten(1), images)
    assert torch.equal(images, IMAGES)
    assert torch.equal(found, 2 * IMAGES.flatten(1))
    assert torch.equal(torch.autograd.grad(found.sum(), images)[0], torch.full_like(images, 2.0))


def test_a_view_normalises(digits_net):
    assert torch.equal(ModelView(digits_net)(IMAGES), digits_net(IMAGES))
    assert torch.equal(ModelView(digits_net, lambda x: 2 * x - 1)(IMAGES), digits_net(2 * IMAGES - 1))


def test_wrappers_of_every_order(digits_net):
    parallel, compiled = nn.DataParallel(digits_net), torch.compile(digits_net, backend="eager")
    assert without_replicas(parallel) is without_replicas(nn.DataParallel(parallel)) is digits_net
    assert without_replicas(compiled) is compiled
    both = torch.compile(parallel, backend="eager"), nn.DataParallel(compiled)
    for model in (digits_net, parallel, compiled, *both):
        assert without_wrappers(model) is digits_net
        assert network_of(model) is digits_net

        def double(images):
            return 2 * images

        view = without_wrappers(ModelView(model, double))
        assert isinstance(view, ModelView)
        assert view.module is digits_net
        assert view.preprocess is double
        assert network_of(ModelView(ModelView(model))) is digits_net


def test_a_view_answers_for_its_network(digits_net):
    """Layers go by their names, also behind several views; what the network has not, the view has not either."""
    view = ModelView(ModelView(digits_net, lambda images: images + 1), lambda images: images * 2)
    assert view.features is digits_net.features
    assert view.get_submodule("features.3") is digits_net.features[3]
    assert view.pool == digits_net.pool
    assert view.preprocess(torch.ones(())) == 2
    assert ModelView(digits_net.features)[3] is digits_net.features[3]
    assert not hasattr(view, "blocks")
    with pytest.raises(AttributeError, match="'SmallNet' object has no attribute 'blocks'"):
        view.blocks  # noqa: B018


def test_a_view_is_copied_as_itself(digits_net, batch):
    """Also where its network has its own way of being copied."""

    class Copied(SmallNet):
        def __deepcopy__(self, memo):
            return self

    digits_net.__class__ = Copied
    view = copy.deepcopy(ModelView(digits_net, torch.sin))
    assert type(view) is ModelView
    assert view.module is digits_net
    assert torch.equal(view(batch[0]), digits_net(batch[0].sin()))
    with pytest.raises(AttributeError):
        ModelView.__new__(ModelView).module  # noqa: B018
