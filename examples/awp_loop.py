"""Adversarial weight perturbation beside PART: a helper, made once, and two lines more in the loop."""

import copy

import torch
from sklearn.datasets import load_digits
from torch import nn

from part_plugin import PART

EPOCHS = 5


class AWP:
    """Moves the weights to where the loss of a batch is larger, and back (Wu et al. 2020, gamma 0.005 for TRADES)."""

    def __init__(self, model, part, gamma=0.01):
        self.model, self.part, self.gamma = model, part, gamma
        self.proxy = copy.deepcopy(model)  # whose batch-norm statistics the additional pass may move
        self.moves = []

    def perturb(self, x, adv, y):
        self.proxy.load_state_dict(self.model.state_dict())
        loss = self.part.training_pass(self.proxy.train(), x, adv, y).loss
        named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        layers = [name for name, weight in named if "weight" in name and weight.dim() > 1]
        gradients = torch.autograd.grad(loss, [self.proxy.get_parameter(name) for name in layers])
        for weight, gradient in zip(map(self.model.get_parameter, layers), gradients, strict=True):
            move = self.gamma * weight.detach().norm() * gradient / (gradient.norm() + 1e-20)
            weight.data += move
            self.moves.append((weight, move))

    def restore(self):
        while self.moves:
            weight, move = self.moves.pop()
            weight.data -= move


def main():
    torch.manual_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    part = PART("trades", beta=6.0, eps=0.1, alpha=0.025, burn_in=1, cam="layercam")
    awp = AWP(model, part, gamma=0.005)  # new

    for epoch in range(EPOCHS):
        part.set_epoch(epoch)
        for rows in torch.randperm(1400).split(100):
            adv = part.perturb(model, x[rows], y[rows])
            awp.perturb(x[rows], adv, y[rows])  # new
            loss = part.training_pass(model.train(), x[rows], adv, y[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            awp.restore()  # new
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

    accuracy = (model.eval()(x[1400:]).argmax(1) == y[1400:]).float().mean()
    print(f"natural accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
