"""PART in a loop of your own, with PyTorch alone: TRADES with a radius per pixel, after an epoch of burn-in."""

import torch
from torch import nn

from part_plugin import PART


def data():
    """2,000 images of a bright square on noise; the class is the corner that it is in."""
    generator = torch.Generator().manual_seed(0)
    x = 0.3 * torch.rand(2000, 1, 12, 12, generator=generator)
    y = torch.randint(4, (2000,), generator=generator)
    for image, corner in zip(x, y.tolist(), strict=True):
        row, column = 1 + 6 * (corner // 2), 1 + 6 * (corner % 2)
        image[0, row : row + 4, column : column + 4] += 0.3
    return x, y


def main():
    torch.manual_seed(0)
    x, y = data()
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    part = PART("trades", beta=6.0, eps=0.1, alpha=0.025, burn_in=1, seed=0)

    for epoch in range(4):
        model.train()
        part.set_epoch(epoch)
        for rows in torch.randperm(1600).split(100):
            loss = part.loss(model, x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {part.budget.images} maps so far")

    model.eval()
    adv = part.perturb(model, x[1600:], y[1600:])
    for name, images in (("natural", x[1600:]), ("Pixel-AG", adv)):
        print(f"{name} accuracy {(model(images).argmax(1) == y[1600:]).float().mean():.1%}")


if __name__ == "__main__":
    main()
