"""PART in a loop with Fabric, which starts the processes itself: python examples/engines/fabric_loop.py."""

import torch
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import PART  # was: from torch.nn.functional import cross_entropy

EPOCHS = 5


def main():
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    model, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=0.01))
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(x[:1400], y[:1400]), 50, shuffle=True))
    part = PART(eps=0.1, alpha=0.025, burn_in=1, seed=0)  # new

    for epoch in range(EPOCHS):
        part.set_epoch(epoch)  # new
        model.train()
        for images, labels in loader:
            loss = part.loss(model, images, labels)  # was: loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()

    if fabric.is_global_zero:
        accuracy = (network.eval()(x[1400:].to(images.device)).argmax(1).cpu() == y[1400:]).float().mean()
        print(f"natural accuracy {accuracy:.1%}, {fabric.world_size} processes")


if __name__ == "__main__":
    main()
