"""Mixup and CutMix of torchvision before PART: a line more in the loop, as labels may be probabilities."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torchvision.transforms import v2

from part_plugin import PART

EPOCHS = 5


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
    mix = v2.RandomChoice([v2.MixUp(alpha=0.2, num_classes=10), v2.CutMix(num_classes=10), v2.Identity()])  # new
    part = PART("trades", beta=6.0, eps=0.1, alpha=0.025, burn_in=1, cam="layercam")  # or "at", "mart"

    for epoch in range(EPOCHS):
        part.set_epoch(epoch)
        for rows in torch.randperm(1400).split(100):
            images, labels = mix(x[rows], y[rows])  # was: images, labels = x[rows], y[rows]
            loss = part.loss(model.train(), images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    accuracy = (model.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean()
    print(f"natural accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
