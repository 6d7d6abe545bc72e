"""PART in a loop with DistributedDataParallel: torchrun --nproc-per-node 2 examples/engines/ddp_loop.py."""

import torch
from sklearn.datasets import load_digits
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from part_plugin import PART  # was: from torch.nn.functional import cross_entropy

EPOCHS = 5


def main():
    distributed.init_process_group("gloo")  # on GPUs "nccl", and DistributedDataParallel(network.to(device))
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    model = DistributedDataParallel(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    samples = TensorDataset(x[:1400], y[:1400])
    sampler = DistributedSampler(samples)
    loader = DataLoader(samples, 50, sampler=sampler)
    part = PART(eps=0.1, alpha=0.025, burn_in=1, seed=0)  # new

    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        part.set_epoch(epoch)  # new
        model.train()
        for images, labels in loader:
            loss = part.loss(model, images, labels)  # was: loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    if distributed.get_rank() == 0:
        accuracy = (network.eval()(x[1400:].to(images.device)).argmax(1).cpu() == y[1400:]).float().mean()
        print(f"natural accuracy {accuracy:.1%}, {distributed.get_world_size()} processes")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
