"""ART's own trainers with a radius per pixel: two lines change (each notes what it was), those of the attack.

So in all that take an attack: `AdversarialTrainer` and the TRADES, AWP and OAAT trainers. OAAT changes eps on its way:
leave eps_low to its ratio; from `alternate_iter_eps` on it makes every other batch by itself, with eps everywhere.
`AdversarialTrainerMadryPGD` makes its attack itself, see below. FBF has none; `PARTTrainer` with an attack of one step,
max_iter=1 and eps_step=1.25*eps, is next to it.
"""

import numpy as np
import torch
from art.defences.trainer import (
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from torch import nn

from part_plugin import PixelProjectedGradientDescent  # was: from art.attacks.evasion import ProjectedGradientDescent

SETTINGS = {"eps": 0.1, "eps_step": 0.025, "max_iter": 5, "num_random_init": 1}


class Network(nn.Module):  # ART's TRADES trainer takes no nn.Sequential
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(nn.functional.adaptive_avg_pool2d(self.features(x), 2).flatten(1))


def classifier():
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0, 1))


def pgd(net):
    return PixelProjectedGradientDescent(net, **SETTINGS)  # was: return ProjectedGradientDescent(net, **SETTINGS)


def trades():
    trained = classifier()
    return AdversarialTrainerTRADESPyTorch(trained, pgd(trained), beta=6.0)


def awp():
    trained = classifier()
    return AdversarialTrainerAWPPyTorch(trained, classifier(), pgd(trained), "PGD", gamma=0.01, beta=6.0, warmup=0)


def madry():
    trainer = AdversarialTrainerMadryPGD(classifier(), **SETTINGS)
    trainer.trainer.attacks = [pgd(trainer.get_classifier())]  # `trainer.attack` is never read
    return trainer


def main():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    for made in (trades, awp, madry):
        torch.manual_seed(0)
        np.random.seed(0)
        trainer = made()
        trainer.fit(x[:1400], y[:1400], batch_size=100, nb_epochs=4)
        accuracy = np.mean(trainer.get_classifier().predict(x[1400:]).argmax(axis=1) == y[1400:])
        print(f"{made.__name__}: natural accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
