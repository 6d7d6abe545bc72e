"""A model and images that do not go together: one sentence instead of torch's."""

import logging
import re

import pytest
import torch
from conftest import SmallNet
from torch import nn

from part_plugin import PART, PixelPGD, class_activation_map, evaluate
from part_plugin.mismatch import (
    are_probabilities,
    check_model,
    explained,
    warn_of_one_device,
    warn_of_outputs,
    warn_of_probabilities,
)
from part_plugin.network.view import ModelView


class Changed(nn.Module):
    """A network whose input or output is changed."""

    def __init__(self, net, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


def said_by(model, images, error=ValueError):
    labels = torch.zeros(len(images), dtype=torch.long)
    calls = (
        lambda: PART(burn_in=0).loss(model, images, labels),
        lambda: PixelPGD(model)(images, labels),
        lambda: evaluate(model, images, labels, attacks=["natural", "pgd1"], verbose=False),
        lambda: class_activation_map(model, images),
        lambda: class_activation_map(model, images, cam="GradCAM", target_layers="features"),
    )
    said = []
    for call in calls:
        with pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error
        said.append(str(raised.value))
        assert isinstance(raised.value.__cause__, RuntimeError)  # torch's own words are not lost
    assert len(set(said)) == 1
    return said[0]


def test_channels():
    net, images = SmallNet(3).eval(), torch.rand(2, 3, 8, 8)
    assert said_by(net, images.permute(0, 2, 3, 1)) == (
        "images have shape (2, 8, 8, 3), (N, H, W, C); (N, C, H, W) is needed: images.permute(0, 3, 1, 2)"
    )
    assert said_by(net, images[:, :1]) == (
        "images have shape (2, 1, 8, 8), one channel; the model takes 3: images.expand(-1, 3, -1, -1)"
    )
    assert said_by(net, images[:, :2]) == "images have shape (2, 2, 8, 8), 2 channels; the model takes 3"


def test_sizes():
    fixed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(4), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(4, 10))
    for net, size in ((fixed, 9), (fixed, 2), (pooled, 8)):
        message = f"images have shape (2, 1, {size}, {size}), of a height and width that the model does not take"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            PART(burn_in=0).loss(net, torch.rand(2, 1, size, size), torch.tensor([0, 1]))
    PART(burn_in=0).loss(fixed, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    message = f"images are {dtype} and the model's weights torch.float32; pass images.to(torch.float32)"
    assert said_by(SmallNet().eval(), torch.rand(2, 1, 8, 8).to(dtype), TypeError) == message


def test_what_works_is_let_through(batch):
    """A network that makes of its input what it needs: nothing is known of it beforehand."""
    net = SmallNet().eval()
    expected = class_activation_map(net, batch[0])
    cast = Changed(net, lambda x: x.float())
    assert torch.equal(class_activation_map(cast, batch[0].double()), expected)
    grey = Changed(net, lambda x: x.mean(1, keepdim=True))
    maps = class_activation_map(grey, batch[0].expand(-1, 3, -1, -1))
    torch.testing.assert_close(maps, expected, atol=1e-3, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        class_activation_map(net, batch[0].bfloat16())


def test_devices():
    net, images, labels = SmallNet().to("meta"), torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="^images are on cpu and the model is on meta; one of them must move$"):
        PART(burn_in=0).loss(net, images, labels)


@pytest.mark.parametrize("after", [torch.Tensor.detach, lambda z: torch.from_numpy(z.detach().numpy())])
def test_a_model_that_is_cut_off(batch, after):
    net = Changed(SmallNet(), after=after).eval()
    message = (
        "^the model's output carries no gradient to the images: its forward pass detaches it, by no_grad, detach or "
        "quantised layers$"
    )
    for call in (
        lambda: PART(eps_low=8 / 255, burn_in=0).loss(net, *batch),
        lambda: PixelPGD(net, eps_low=8 / 255)(*batch),
        lambda: evaluate(net, *batch, attacks=["natural", "pgd1"], verbose=False),
        lambda: evaluate(net, *batch, attacks=["natural", "mma1"], verbose=False),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_no_network(batch):
    for model, kind in ((lambda x: x, "function"), (None, "NoneType"), ("resnet18", "str")):
        for call in (
            lambda: PART(burn_in=0).loss(model, *batch),  # noqa: B023
            lambda: class_activation_map(model, batch[0]),  # noqa: B023
            lambda: PixelPGD(model),  # noqa: B023
        ):
            with pytest.raises(TypeError, match=f"^model is a {kind}; a torch.nn.Module is needed$"):
                call()


@pytest.mark.parametrize("words", ["out of memory", "something of another type", "too many channels on this device"])
def test_other_errors_stay_torch_s(words):
    images = torch.rand(2, 1, 8, 8)
    for model in (SmallNet(), nn.Flatten(), ModelView(SmallNet())):
        with pytest.raises(RuntimeError, match=f"^{words}$"), explained(model, images):
            raise RuntimeError(words)
    with pytest.raises(ZeroDivisionError), explained(SmallNet(), images.double()):
        raise ZeroDivisionError("type")


def test_probabilities():
    logits = torch.randn(4, 10)
    assert are_probabilities(logits.softmax(1))
    assert are_probabilities(torch.eye(3))
    for other in (logits, logits.abs(), logits.softmax(0), logits.log_softmax(1), logits.softmax(1) - 0.1):
        assert not are_probabilities(other)
    assert are_probabilities(logits.softmax(1).bfloat16())
    assert not are_probabilities(logits.bfloat16())
    mixed = logits.softmax(1)
    mixed[2] *= 2
    assert not are_probabilities(mixed)


def test_a_model_with_a_softmax_is_warned_of_once_in_training(batch, caplog):
    net = Changed(SmallNet(), after=lambda z: z.softmax(1))
    part = PART("trades", burn_in=0, steps=1)
    for _ in range(2):
        part.loss(nn.DataParallel(net), *batch)
    warn_of_probabilities(ModelView(net), torch.eye(10))
    (record,) = caplog.records
    assert record.getMessage() == (
        "Changed returns probabilities; losses and attacks need the logits: remove its softmax"
    )
    assert (record.name, record.levelno) == ("part_plugin.mismatch", logging.WARNING)
    caplog.clear()
    PART(burn_in=0, steps=1).loss(SmallNet(), *batch)
    assert caplog.records == []


def test_the_look_at_outputs_is_taken_once(batch, monkeypatch):
    """As a GPU must be waited for."""
    looks = []
    monkeypatch.setattr("part_plugin.mismatch.are_probabilities", lambda outputs: looks.append(len(outputs)))
    net, part = SmallNet(), PART(burn_in=0, steps=1)
    for _ in range(3):
        part.loss(net, *batch)
    assert looks == [16]


def test_data_parallel_is_warned_of_once(digits_net, batch, caplog):
    several, one = nn.DataParallel(digits_net), nn.DataParallel(digits_net)
    several.device_ids = [0, 1, 2]
    assert PixelPGD(several).model is several
    warn_of_one_device(ModelView(several))
    warn_of_outputs(several, torch.rand(2, 10))
    (record,) = caplog.records
    assert record.getMessage() == (
        "the attack on DataParallel over 3 devices uses one of them; DistributedDataParallel uses all"
    )
    caplog.clear()
    for net in (one, digits_net):
        PixelPGD(net, eps_low=8 / 255)(*batch)
    assert caplog.records == []


def test_images_that_look_normalised_get_the_remedy(digits_net, batch):
    normalised, labels = (batch[0] - 0.3) / 0.4, batch[1]
    span = f"images span [{normalised.min():.4g}, {normalised.max():.4g}]; allowed is [0, 1]; "
    for call, remedy in (
        (
            lambda: PART(burn_in=0).loss(digits_net, normalised, labels),
            "clip=(smallest, largest) tells the range of normalised images, and eps and alpha are in their units",
        ),
        (
            lambda: PixelPGD(digits_net)(normalised, labels),
            "call set_normalization_used(mean, std) or move the normalisation into the model",
        ),
        (
            lambda: evaluate(digits_net, normalised, labels, verbose=False),
            "move their normalisation into the model: nn.Sequential(Normalize(mean, std), model)",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(span + remedy)}$"):
            call()


def test_a_model_is_a_network():
    check_model("model", nn.Flatten())
    with pytest.raises(TypeError, match=r"^surrogate is a str; a torch\.nn\.Module is needed$"):
        check_model("surrogate", "net")
