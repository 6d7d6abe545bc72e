"""PART in a loop with Accelerate: torchrun --nproc-per-node 2 examples/engines/accelerate_loop.py."""

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import PART  # was: from torch.nn.functional import cross_entropy

EPOCHS = 5


def main():
    # on GPUs without cpu=True, and with accelerate launch
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x[:1400], y[:1400]), 50, shuffle=True)
    # a scheduler stays out of `prepare`, which would step it once for every process
    model, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    part = PART(eps=0.1, alpha=0.025, burn_in=1, seed=0)  # new

    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        part.set_epoch(epoch)  # new
        model.train()
        for images, labels in loader:
            loss = part.loss(model, images, labels)  # was: loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()

    if accelerator.is_main_process:
        accuracy = (network.eval()(x[1400:].to(images.device)).argmax(1).cpu() == y[1400:]).float().mean()
        print(f"natural accuracy {accuracy:.1%}, {accelerator.num_processes} processes")
    accelerator.end_training()


if __name__ == "__main__":
    main()
