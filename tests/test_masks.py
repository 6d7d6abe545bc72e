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
    memory.put([7, 3, 0, 12, 5], masks)
    assert len(memory) == 5
    assert [index for index in range(15) if index in memory] == [0, 3, 5, 7, 12]
    for index, mask in zip([7, 3, 0, 12, 5], masks, strict=True):
        found = memory.get(index, (3, 7))
        assert found.dtype == torch.bool
        assert torch.equal(found, mask)
    unknown = memory.get(99, (3, 7))
    assert unknown.dtype == torch.bool
    assert torch.equal(unknown, torch.ones(1, 3, 7, dtype=torch.bool))
    memory.put([3], ~masks[1:2])
    assert torch.equal(memory.get(3, (3, 7)), ~masks[1])


def test_a_renewal_forgets_and_the_same_one_does_not():
    memory = MaskMemory()
    memory.renew(0)
    memory.put([1], random_masks(1))
    memory.renew(0)
    assert 1 in memory
    memory.renew(1)
    assert (len(memory), memory.since, memory.size) == (0, 1, None)
    memory.put([1], random_masks(1, (4, 4)))
    assert memory.size == (4, 4)


@pytest.mark.parametrize("n", [0, 4])
def test_state_goes_through_a_file(tmp_path, n):
    memory, masks = MaskMemory(), random_masks(n)
    memory.renew(2)
    if n:
        memory.put(range(10, 10 + n), masks)
    assert memory.state_dict()["masks"].nbytes == n * 3  # 21 bits
    assert (memory.state_dict()["masks"].dtype, memory.state_dict()["mask_keys"].dtype) == (torch.uint8, torch.long)
    torch.save(memory.state_dict(), tmp_path / "state.pt")
    other = MaskMemory()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (len(other), other.since, other.size) == (n, 2, (3, 7) if n else None)
    for index in range(n):
        assert torch.equal(other.get(10 + index, (3, 7)), masks[index])
    other.renew(2)
    assert len(other) == n
    other.put([99], random_masks(1))
    assert len(memory) == n


def test_masks_of_images_of_another_size():
    memory = MaskMemory()
    memory.put([0], random_masks(1))
    message = "masks are remembered of images of (3, 7), and these are (4, 4); sizes must agree"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        memory.get(0, (4, 4))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        memory.put([1], random_masks(1, (4, 4)))
    assert len(memory) == 1
    assert memory.get(1, (4, 4)).shape == (1, 4, 4)  # nothing is remembered of this one


def test_as_many_numbers_as_masks():
    for numbers in ([0], [0, 1, 2]):
        with pytest.raises(ValueError, match="zip"):
            MaskMemory().put(numbers, random_masks(2))
    memory = MaskMemory()
    memory.put([0, 1], random_masks(2))
    with pytest.raises(ValueError, match="zip"):
        MaskMemory().load_state_dict(memory.state_dict() | {"mask_keys": torch.tensor([0])})


def test_numbers_are_remembered_in_255_steps(tmp_path):
    memory, weights = MaskMemory(), torch.rand(5, 1, 3, 7, generator=torch.Generator().manual_seed(0))
    weights[0, 0, 0, :3] = torch.tensor([0.0, 1.0, 0.5])
    memory.renew(0)
    memory.put(range(5), weights)
    assert memory.state_dict()["masks"].nbytes == 5 * 21
    torch.save(memory.state_dict(), tmp_path / "state.pt")
    other = MaskMemory()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for index, weight in enumerate(weights):
        for each in (memory, other):
            found = each.get(index, (3, 7))
            assert found.dtype == torch.float32
            assert torch.equal(found, torch.round(weight.double() * 255).float() / 255)
    assert torch.equal(memory.get(99, (3, 7)), torch.ones(1, 3, 7))
    memory.renew(1)
    assert memory.get(0, (3, 7)).dtype == torch.bool


def test_a_rule_that_changes_its_kind():
    for first, then, message in (
        (random_masks(1), torch.rand(1, 1, 3, 7), "the rule gives torch.float32 weights, and bool before"),
        (torch.rand(1, 1, 3, 7), random_masks(1), "the rule gives torch.bool weights, and numbers before"),
    ):
        memory = MaskMemory()
        memory.put([0], first)
        before = memory.get(0, (3, 7))
        with pytest.raises(ValueError, match=f"^{message}; it must give one kind$"):
            memory.put([0], then)
        assert torch.equal(memory.get(0, (3, 7)), before)
