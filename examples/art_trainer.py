"""Adversarial training with ART: two lines change (each notes what it was) and it is PART."""

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from torch import nn

from part_plugin import PARTTrainer  # was: from art.defences.trainer import AdversarialTrainer

EPS, EPOCHS = 0.1, 8


def main():
    torch.manual_seed(0)
    np.random.seed(0)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    classifier = PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        clip_values=(0, 1),
    )
    pgd = ProjectedGradientDescent(
        classifier, eps=EPS, eps_step=EPS / 4, max_iter=10, num_random_init=1, batch_size=128
    )
    trainer = PARTTrainer(classifier, pgd, ratio=1.0)  # was: trainer = AdversarialTrainer(classifier, pgd, ratio=1.0)
    trainer.fit(x[:1400], y[:1400], batch_size=100, nb_epochs=EPOCHS)

    accuracy = np.mean(classifier.predict(x[1400:]).argmax(axis=1) == y[1400:])
    print(f"natural accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
