"""Trains on two ranks and writes down what each step saw; run by test_lightning.py, which is told by its argument."""

import sys
from pathlib import Path

import torch
from adapters.test_lightning import MASKS, fresh, sgd, trainer
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from part_plugin import PART, PARTModule


class Noting(PARTModule):
    """Writes a file for each step of each rank."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        weights = torch.cat([parameter.detach().flatten() for parameter in self.network.parameters()])
        note = {"index": batch[2], "part": self.part.state_dict(), "loss": loss.detach(), "weights": weights}
        torch.save(note, self.folder / f"{self.global_rank}-{batch_idx}.pt")
        return loss


def main(folder):
    x, y = load_digits(return_X_y=True)
    images = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    samples = TensorDataset(images[:96], torch.tensor(y)[:96], torch.arange(96))
    module = Noting(fresh(), PART(**MASKS), sgd, dataset=samples)
    module.folder = Path(folder)
    trainer(folder, strategy="ddp", devices=2, max_epochs=1).fit(module, DataLoader(samples, 16))


if __name__ == "__main__":
    main(sys.argv[1])
