"""Adversarial training with torchattacks: two lines change (each notes what it was) and it is PART."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from part_plugin import PixelPGD  # was: from torchattacks import PGD

EPOCHS = 8


def main():
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    attack = PixelPGD(model, eps=0.1, alpha=0.025)  # was: attack = PGD(model, eps=0.1, alpha=0.025)

    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(1400).split(100):
            adv = attack(x[rows], y[rows])
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(adv), y[rows])
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss on adversarial examples {loss.item():.3f}")

    model.eval()
    accuracy = (model(x[1400:]).argmax(1) == y[1400:]).float().mean()
    print(f"natural accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
