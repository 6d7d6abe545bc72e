"""A moving average of the weights beside PART: a line in the loop; the average may make the maps as well."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from part_plugin import PART, class_activation_map

EPOCHS = 5


def maps_of(network):
    """A source of maps of this network, whichever is attacked; without it, those of the network that is trained."""
    return lambda model, images, classes: class_activation_map(network, images, classes, "layercam")


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
    # use_buffers: the statistics of batch norm are averaged with the weights that they belong to
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95), use_buffers=True)
    part = PART(eps=0.1, alpha=0.025, burn_in=1, cam=maps_of(average))

    for epoch in range(EPOCHS):
        part.set_epoch(epoch)
        for rows in torch.randperm(1400).split(100):
            loss = part.loss(model.train(), x[rows], y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    for name, network in (("last", model), ("averaged", average)):
        accuracy = (network.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean()
        print(f"{name}: natural accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
