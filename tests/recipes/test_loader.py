"""A loader that goes on with the next batch, and deals batches out among ranks and parts."""

import numpy as np
import pytest
import torch

from part_plugin.recipes.loader import ResumableBatches, ResumableLoader


def order(samples, seed, epoch):
    key = int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(samples, generator=torch.Generator().manual_seed(key))


def epoch_of(batches, epoch):
    batches.set_epoch(epoch)
    return list(batches)


@pytest.mark.parametrize(("samples", "batch_size"), [(40, 8), (43, 8), (5, 8), (1, 1)])
def test_an_epoch_is_a_permutation_of_seed_and_epoch_in_pieces(samples, batch_size):
    batches = ResumableBatches(samples, batch_size, seed=3)
    for epoch in (0, 1, 7):
        expected = [part.tolist() for part in order(samples, 3, epoch).split(batch_size)]
        assert epoch_of(batches, epoch) == expected
        assert len(batches) == len(expected)
    assert epoch_of(ResumableBatches(40, 8, seed=4), 0) != epoch_of(ResumableBatches(40, 8, seed=3), 0)


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("samples", [40, 43, 3])
def test_all_ranks_and_parts_have_the_batches_of_one(samples, world, accumulate):
    """As many batches each, of equal sizes, and together the batch of one process, the last one filled up."""
    whole = epoch_of(ResumableBatches(samples, 8, seed=0), 2)
    ranks = [
        epoch_of(ResumableBatches(samples, 8, 0, rank, world * accumulate, accumulate), 2) for rank in range(world)
    ]
    assert {len(rank) for rank in ranks} == {len(whole) * accumulate}
    for number, batch in enumerate(whole):
        parts = [rank[number * accumulate + part] for rank in ranks for part in range(accumulate)]
        assert len({len(part) for part in parts}) == 1
        dealt = [one for part in parts for one in part]
        more = len(dealt) - len(batch)
        assert 0 <= more < world * accumulate
        first = order(samples, 0, 2).repeat(8)[:more].tolist() if number == len(whole) - 1 else []
        assert sorted(dealt) == sorted(batch + first)


def test_it_goes_on_after_what_was_handed_out():
    """Not after what was prepared by workers; after the last of an epoch with the first of the next."""
    data = torch.arange(20)
    for workers in (0, 1):
        loader = ResumableLoader(data, ResumableBatches(20, 6, 0), num_workers=workers)
        for given in range(1, 5):
            loader.batches.set_epoch(1)
            iterator = iter(loader)
            handed = [next(iterator).tolist() for _ in range(given)]
            state = loader.state_dict()
            assert state == ({"epoch": 1, "given": given} if given < 4 else {"epoch": 2, "given": 0})
            other = ResumableLoader(data, ResumableBatches(20, 6, 0), num_workers=workers)
            other.load_state_dict(state)
            assert other.state_dict() == state
            rest = [batch.tolist() for batch in other]
            expected = [part.tolist() for part in order(20, 0, 1).split(6)]
            assert handed + rest == (
                expected if given < 4 else expected + [p.tolist() for p in order(20, 0, 2).split(6)]
            )
            assert other.state_dict()["given"] == 0


def test_the_epoch_is_read_with_the_first_batch():
    """Lightning makes the iterator before it tells the epoch."""
    loader = ResumableLoader(torch.arange(8), ResumableBatches(8, 8, 0))
    iterator = iter(loader)
    loader.batches.sampler.set_epoch(5)
    assert next(iterator).tolist() == order(8, 0, 5).tolist()
