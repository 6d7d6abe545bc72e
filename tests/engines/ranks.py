"""Trains on several ranks with one engine after another and writes down what came of it; run by test_engines.py."""

import sys
from pathlib import Path

import torch
from conftest import SmallNet
from sklearn.datasets import load_digits
from torch import distributed, multiprocessing, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from part_plugin import PART
from part_plugin.attacks.projection import seeded_generator

EPOCHS, STEPS, ROWS = 2, 2, 8
SETTINGS = {"eps": 0.2, "eps_low": 0.05, "alpha": 0.1, "steps": 2, "burn_in": 0, "seed": 5, "target_layers": "features"}
WAYS = {
    "at": {"target_layers": None},
    "trades": {"objective": "trades"},
    "mart": {"objective": "mart"},
    "mma": {"attack": "mma"},
    "fold": {"fast": "fold"},
    "masks": {"mask_every": 2},
}


def fresh():
    torch.manual_seed(0)
    network = SmallNet(width=4)
    network.dropout.p = 0.0
    return network.train()


def sgd(network):
    return torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)


def batches(rank, ranks):
    """Images, labels and numbers of each batch of a rank, the same in each epoch."""
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    for step in range(STEPS):
        rows = torch.arange(ROWS) + ROWS * (ranks * step + rank)
        yield images[rows], labels[rows], rows


class Step(nn.Module):
    """A whole step as one forward pass, as Lightning makes it one."""

    def __init__(self, network, part):
        super().__init__()
        self.network, self.part = network, part

    def forward(self, *batch):
        return self.part.loss(self.network, *batch)


def fabric(ranks):
    from lightning.fabric import Fabric

    made = Fabric(accelerator="cpu", devices=ranks, strategy="ddp")
    made.launch()
    return made


def sharded(network):
    fully_shard(network.features)
    return fully_shard(network)


def set_up(engine, network, part):
    """Return batch -> loss, and the optimizer."""
    optimizer = sgd(network)
    if engine == "ddp, a step a pass":
        return DistributedDataParallel(Step(network, part)), optimizer
    if engine == "fsdp2":
        model = sharded(network)
        optimizer = sgd(model)
    elif engine == "accelerate":
        from accelerate import Accelerator

        model, optimizer = Accelerator(cpu=True).prepare(network, optimizer)
    elif engine == "fabric":
        model, optimizer = fabric(distributed.get_world_size()).setup(network, optimizer)
    else:
        model = DistributedDataParallel(network)
    return lambda *batch: part.loss(model, *batch), optimizer


def whole(network):
    """The state of a network, sharded or not."""
    state = network.state_dict()
    return {name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in state.items()}


def train(engine, way):
    network, part = fresh(), PART(**SETTINGS | WAYS[way])
    loss, optimizer = set_up(engine, network, part)
    for epoch in range(EPOCHS):
        part.set_epoch(epoch)
        for x, y, index in batches(distributed.get_rank(), distributed.get_world_size()):
            optimizer.zero_grad()
            loss(x, y, *([index] if way == "masks" else [])).backward()
            optimizer.step()
    return whole(network)


def accelerated_schedule():
    """How far a scheduler has come after 3 steps: one that was prepared, and one that was not."""
    from accelerate import Accelerator

    network = fresh()
    optimizer, accelerator = sgd(network), Accelerator(cpu=True)
    network, prepared_optimizer = accelerator.prepare(network, optimizer)
    kept = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    prepared = accelerator.prepare(torch.optim.lr_scheduler.StepLR(optimizer, 10))
    for _ in range(3):
        prepared_optimizer.step()
        kept.step()
        prepared.step()
    return {"kept": kept.last_epoch, "prepared": prepared.scheduler.last_epoch}


def accelerated_orders():
    """Samples of epoch 1 after epoch 0, and in a new loader, as after a resume; with and without a seedable sampler."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    orders = {}
    for seedable in (False, True):
        torch.manual_seed(0)
        settings = DataLoaderConfiguration(use_seedable_sampler=seedable)
        accelerator = Accelerator(cpu=True, dataloader_config=settings)
        for epochs in ((0, 1), (1,)):
            loader = accelerator.prepare(DataLoader(torch.arange(64), 8, shuffle=True))
            for epoch in epochs:
                loader.set_epoch(epoch)
                orders[seedable, len(epochs)] = torch.cat(list(loader)).tolist()
    return orders


def masks_of_few():
    """Of a sharded network; only rank 0 has new samples in the second step, and neither in the third."""
    network, part = sharded(fresh()), PART(**SETTINGS | WAYS["masks"])
    part.set_epoch(0)
    first, second = batches(distributed.get_rank(), distributed.get_world_size())
    for batch in (first, second if distributed.get_rank() == 0 else first, first):
        part.perturb(network, *batch)
    return part.state_dict()


def write(folder, found):
    distributed_rank = distributed.get_rank()
    seed = seeded_generator(torch.device("cpu"), 5, 0).initial_seed()
    torch.save(found | {"seed": seed}, Path(folder) / f"{distributed_rank}.pt")
    distributed.destroy_process_group()


def spawned(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    write(folder, {})


def main(launcher, folder, *tasks):
    if launcher == "spawn":
        multiprocessing.spawn(spawned, (folder,), 2)
        return
    if launcher == "fabric":
        fabric(2)
    else:
        distributed.init_process_group("gloo")
    others = {"masks of few": masks_of_few, "schedule": accelerated_schedule, "orders": accelerated_orders}
    write(folder, {task: others[task]() if task in others else train(*task.split("/")) for task in tasks})


if __name__ == "__main__":
    main(*sys.argv[1:])
