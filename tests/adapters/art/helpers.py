"""Classifiers and attacks of ART on digits."""

import io

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from conftest import SmallNet
from torch import nn

EPS = 0.1


class Terminal(io.StringIO):
    """A stream that says that somebody is looking."""

    def isatty(self):
        return True


def classify(net, clip_values=(0.0, 1.0), preprocessing=(0.0, 1.0), optimizer=True, loss=None, **options):
    shape = (net.features[0].in_channels, 8, 8)
    return PyTorchClassifier(
        net,
        loss=loss or nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=net.head.out_features,
        optimizer=torch.optim.SGD(net.parameters(), 0.05, momentum=0.9) if optimizer else None,
        clip_values=clip_values,
        preprocessing=preprocessing,
        **options,
    )


def run(attack, *arguments, seed=0, **options):
    np.random.seed(seed)
    torch.manual_seed(seed)
    return attack.generate(*arguments, **options)


def fresh(seed=0, **options):
    torch.manual_seed(seed)
    np.random.seed(seed)
    return classify(SmallNet(), **options)


def pgd(classifier, **options):
    settings = {
        "eps": EPS,
        "eps_step": EPS / 4,
        "max_iter": 5,
        "num_random_init": 1,
        "batch_size": 128,
        "verbose": False,
    }
    return ProjectedGradientDescent(classifier, **(settings | options))
