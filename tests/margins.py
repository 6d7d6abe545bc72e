"""What tests of minimum-margin attacks measure."""

import torch


def run(attack, *inputs, seed=0):
    torch.manual_seed(seed)
    return attack(*inputs)


def margins(net, images, labels):
    """max_{k != y} z_k - z_y of each image, positive where the network errs."""
    logits = net(images).detach()
    true = logits[range(len(labels)), labels]
    logits[range(len(labels)), labels] = -torch.inf
    return logits.amax(1) - true


def accuracy(net, images, labels):
    return float((net(images).argmax(1) == labels).float().mean())
