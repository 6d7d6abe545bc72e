"""Masks remembered per sample."""

import re

import pytest
import torch

from part_plugin.masks import MaskMemory


def random_masks(n=5, size=(3, 7), seed=0):
    return torch.rand(n, 1, *size, generator=torch.Generator().manual_seed(seed)) > 0.5


def test_what_is_put_is_got():
    """Of a size that fills no whole number of bytes."""
    memory, masks = MaskMemory(), random_masks()
    assert (memory.since, memory.size, len(memory)) == (None, None, 0)
    memory.renew(0)
    numbers = torch.tensor([7, 3, 0, 12, 5])
    memory.put(numbers, masks)
    assert len(memory) == 5
    known = memory.knows(torch.arange(-2, 30))
    assert known.dtype == torch.bool
    assert (known.nonzero()[:, 0] - 2).tolist() == [0, 3, 5, 7, 12]
    for order in ([0, 1, 2, 3, 4], [4, 2, 2, 0], []):
        found = memory.get(numbers[order], (3, 7))
        assert found.dtype == torch.bool
        assert torch.equal(found, masks[order])
    for unknown in (4, 99, -1):
        with pytest.raises(KeyError, match=f"no mask is remembered of sample {unknown}"):
            memory.get(torch.tensor([3, unknown]), (3, 7))
    memory.put(torch.tensor([3]), ~masks[1:2])
    assert torch.equal(memory.get(torch.tensor([3, 7]), (3, 7)), torch.stack([~masks[1], masks[0]]))
    with pytest.raises(ValueError, match="^index has -1; samples are numbered from 0$"):
        memory.put(torch.tensor([2, -1]), masks[:2])
    assert len(memory) == 5


def test_a_row_for_each_sample_in_any_order():
    """As samples of a data set come, in batches of it."""
    memory, masks = MaskMemory(), random_masks(1000, (4, 4))
    for batch in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).split(96):
        memory.put(batch, masks[batch])
    assert len(memory) == 1000
    assert torch.equal(memory.get(torch.arange(1000), (4, 4)), masks)
    assert memory.state_dict()["masks"].nbytes == 2000


def test_a_renewal_forgets_and_the_same_one_does_not():
    memory = MaskMemory()
    memory.renew(0)
    memory.put(torch.tensor([1]), random_masks(1))
    memory.renew(0)
    assert memory.knows(torch.tensor([1]))
    memory.renew(1)
    assert (len(memory), memory.since, memory.size) == (0, 1, None)
    memory.put(torch.tensor([1]), random_masks(1, (4, 4)))
    assert memory.size == (4, 4)


@pytest.mark.parametrize("n", [0, 4])
def test_state_goes_through_a_file(tmp_path, n):
    memory, masks = MaskMemory(), random_masks(n)
    memory.renew(2)
    if n:
        memory.put(torch.arange(10, 10 + n), masks)
    assert memory.state_dict()["masks"].nbytes == n * 3  # 21 bits
    assert (memory.state_dict()["masks"].dtype, memory.state_dict()["mask_keys"].dtype) == (torch.uint8, torch.long)
    torch.save(memory.state_dict(), tmp_path / "state.pt")
    other = MaskMemory()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (len(other), other.since, other.size) == (n, 2, (3, 7) if n else None)
    if n:
        assert torch.equal(other.get(torch.arange(10, 10 + n), (3, 7)), masks)
    other.renew(2)
    assert len(other) == n
    other.put(torch.tensor([99]), random_masks(1))
    assert len(memory) == n


def test_masks_of_images_of_another_size():
    memory = MaskMemory()
    memory.put(torch.tensor([0]), random_masks(1))
    message = "masks are remembered of images of (3, 7), and these are (4, 4); sizes must agree"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        memory.get(torch.tensor([0]), (4, 4))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        memory.put(torch.tensor([1]), random_masks(1, (4, 4)))
    assert len(memory) == 1


def test_as_many_numbers_as_masks():
    for numbers in ([0], [0, 1, 2]):
        for masks in (2, 4 - len(numbers)):
            with pytest.raises(
                ValueError, match=f"^masks of {masks} samples do not fit the numbers of {len(numbers)}$"
            ):
                MaskMemory().put(torch.tensor(numbers), random_masks(masks))
    memory = MaskMemory()
    memory.put(torch.tensor([0, 1]), random_masks(2))
    with pytest.raises(ValueError, match="^masks of 2 samples do not fit the numbers of 1$"):
        MaskMemory().load_state_dict(memory.state_dict() | {"mask_keys": torch.tensor([0])})


def test_numbers_are_remembered_in_255_steps(tmp_path):
    memory, weights = MaskMemory(), torch.rand(5, 1, 3, 7, generator=torch.Generator().manual_seed(0))
    weights[0, 0, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    memory.renew(0)
    memory.put(torch.arange(5), weights)
    assert memory.state_dict()["masks"].nbytes == 5 * 21
    torch.save(memory.state_dict(), tmp_path / "state.pt")
    other = MaskMemory()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (memory, other):
        found = each.get(torch.arange(5), (3, 7))
        assert found.dtype == torch.float32
        assert torch.equal(found, torch.round(weights.double() * 255).float() / 255)
    memory.renew(1)
    memory.put(torch.tensor([0]), random_masks(1))
    assert memory.get(torch.tensor([0]), (3, 7)).dtype == torch.bool


def test_a_rule_that_changes_its_kind():
    for first, then, message in (
        (random_masks(1), torch.rand(1, 1, 3, 7), "the rule gives torch.float32 weights, and bool before"),
        (torch.rand(1, 1, 3, 7), random_masks(1), "the rule gives torch.bool weights, and numbers before"),
    ):
        memory = MaskMemory()
        memory.put(torch.tensor([0]), first)
        before = memory.get(torch.tensor([0]), (3, 7))
        with pytest.raises(ValueError, match=f"^{message}; it must give one kind$"):
            memory.put(torch.tensor([0]), then)
        assert torch.equal(memory.get(torch.tensor([0]), (3, 7)), before)
