"""Small networks of the real libraries: what names each, and its arguments."""

import timm
import torch
import torchvision
import transformers
from conftest import SmallNet

from part_plugin.adapters.robustbench import build_model

CLASSES = 4
RESNET = {"channels": [8, 8, 16, 16], "stem_width": 8}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 8,
}
MOBILE = {"width_mult": 0.1}
WIDE = {"width": 4, "num_classes": CLASSES}


def made_by_timm():
    return timm.create_model("resnet10t", num_classes=CLASSES, **RESNET)


def made_by_torchvision():
    return torchvision.models.mobilenet_v2(num_classes=CLASSES, **MOBILE)


def made_by_transformers():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, num_labels=CLASSES))


def made_by_robustbench():
    return build_model("resnet.ResNet18", WIDE)


def made_here(channels=3, num_classes=CLASSES, width=4):
    return SmallNet(channels, num_classes, width)


NETWORKS = {  # how it is named -> how the library itself makes it, and the arguments
    "timm:resnet10t": (made_by_timm, RESNET),
    "torchvision:mobilenet_v2": (made_by_torchvision, MOBILE),
    "transformers:ViTForImageClassification": (made_by_transformers, VIT),
    "robustbench:resnet.ResNet18": (made_by_robustbench, {"width": 4}),
    "foreign:made_here": (made_here, {"width": 4}),
}


def lived(make, seed=0):
    """A network whose statistics are not those of a new one, in eval mode."""
    torch.manual_seed(seed)
    network = make()
    network(torch.rand(16, 3, 32, 32))
    return network.eval()


def logits(network, images):
    output = network(images)
    return getattr(output, "logits", output)
