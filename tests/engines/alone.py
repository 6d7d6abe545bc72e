"""What several ranks ought to give, computed by one process: a network for each, gradients averaged by hand."""

from engines.ranks import EPOCHS, SETTINGS, WAYS, batches, fresh, sgd
from torch import nn

from part_plugin import PART


class Rank(nn.Module):
    """The network of one rank; before a forward pass it takes the buffers that rank 0 has before the same one.

    Args:
        network: of that rank.
        sent: buffers of rank 0 before each pass of this step: rank 0 writes them down, the others read them.
        first: whether it is rank 0.
    """

    def __init__(self, network, sent, first):
        super().__init__()
        self.network, self.sent, self.first, self.passes = network, sent, first, 0

    def receive(self):
        if self.first:
            self.sent.append([buffer.clone() for buffer in self.network.buffers()])
        for buffer, value in zip(self.network.buffers(), self.sent[self.passes], strict=True):
            buffer.data.copy_(value)  # unseen by autograd, as what DDP does
        self.passes += 1

    def forward(self, images):
        self.receive()
        return self.network(images)


def alone(way, ranks, broadcast, monkeypatch):
    """Return the state of each rank's network after training with gradients averaged over ranks.

    Buffers are those of rank 0 at every training "pass", as of DDP, from the beginning of every "step" on, or "never".
    """
    networks = [fresh() for _ in range(ranks)]
    optimizers = [sgd(network) for network in networks]
    parts = [PART(**SETTINGS | WAYS[way]) for _ in range(ranks)]
    for epoch in range(EPOCHS):
        for step in zip(*(batches(rank, ranks) for rank in range(ranks)), strict=True):
            gradients, sent = [], []
            for rank, (x, y, index) in enumerate(step):
                monkeypatch.setenv("RANK", str(rank))
                part, network = parts[rank], networks[rank]
                part.set_epoch(epoch)
                listening = Rank(network, sent, rank == 0)
                if broadcast == "step":
                    listening.receive()
                adv = part.perturb(network, x, y, index if way == "masks" else None)
                part.training_pass(listening if broadcast == "pass" else network, x, adv, y).loss.backward()
                gradients.append([parameter.grad / ranks for parameter in network.parameters()])
            for network, optimizer in zip(networks, optimizers, strict=True):
                for parameter, first, *others in zip(network.parameters(), *gradients, strict=True):
                    parameter.grad = sum(others, first)
                optimizer.step()
                optimizer.zero_grad()
    return [network.state_dict() for network in networks]
