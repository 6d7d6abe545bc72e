"""Networks and attacks for tests in which they go to other processes, which import them from here."""

import os
import signal
import time

from torch import nn


class Deadly(nn.Module):
    """A network that kills the process that runs it, as often as there are marks in a folder.

    Only in the middle of an attack, and only in another process than the one that made it.
    """

    def __init__(self, net, folder):
        super().__init__()
        self.net, self.folder, self.home = net, str(folder), os.getpid()

    def forward(self, x):
        if x.requires_grad and os.getpid() != self.home:
            for mark in os.listdir(self.folder):
                try:
                    os.remove(os.path.join(self.folder, mark))
                except FileNotFoundError:  # another was faster
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return self.net(x)


class ByProcess(nn.Module):
    """A network with other logits in another process than the one that made it."""

    def __init__(self, net):
        super().__init__()
        self.net, self.home = net, os.getpid()

    def forward(self, x):
        return self.net(x) * (1 if os.getpid() == self.home else 2)


class Homeless(nn.Module):
    """A network that cannot be made again in another process."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def __setstate__(self, state):
        raise OSError("no place")

    def forward(self, x):
        return self.net(x)


class Refusing(nn.Module):
    """A network that may raise an error in the middle of an attack."""

    def __init__(self, net, refuses=True):
        super().__init__()
        self.net, self.refuses = net, refuses

    def forward(self, x):
        if x.requires_grad and self.refuses:
            raise ArithmeticError("not a third time")
        return self.net(x)


class Chatty(nn.Module):
    """A network that prints."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        print("forward")
        return self.net(x)


class Sleeping:
    """An attack that takes ten minutes a batch."""

    portable = True

    def piece(self, model, images, labels, attack):
        time.sleep(600)

    def checked(self, piece, rows):
        return piece


def brightness(model, images, classes):
    return images.mean(1)
