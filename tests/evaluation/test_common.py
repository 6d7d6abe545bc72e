"""Flags, random starts, seeds, checksums, progress."""

import hashlib
import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from evaluation.conftest import Terminal
from torch import nn

from part_plugin.evaluation import common


def test_where_a_network_is():
    assert common.device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")
    assert common.device_of(nn.Flatten()) == torch.device("cpu")


def test_right_or_wrong():
    net = nn.Flatten()  # the pixels themselves are the logits
    images = torch.tensor([[1.0, 0.0], [0.2, 0.3], [0.6, 0.5]]).reshape(3, 2, 1, 1).requires_grad_()
    flags = common.correct(net, images, torch.tensor([0, 1, 1]))
    assert flags.tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("seed", [0, 5, 2**32 + 5])
def test_a_random_start_is_drawn_for_each_image_from_seed_and_content(digits, dtype, seed):
    """Uniform in the budget, by a generator that is seeded with the CRC of seed and pixels."""
    images = digits[0][:5].to(dtype)
    radii = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    start = common.random_start(images, radii, seed)
    for image, radius, got in zip(images, radii, start, strict=True):
        key = zlib.crc32(image.contiguous().view(torch.uint8).numpy().tobytes(), seed % 2**32)
        noise = torch.empty(1, 8, 8, dtype=dtype).uniform_(-1, 1, generator=torch.Generator().manual_seed(key))
        assert torch.equal(got, (image + noise * radius).clamp(0, 1))
    other = common.random_start(images, radii, 7)
    shuffled = common.random_start(images.flip(0).permute(0, 1, 3, 2).contiguous(), radii.flip(0), seed)
    assert not torch.equal(start, other)
    assert torch.equal(common.random_start(images.flip(0), radii.flip(0), seed).flip(0), start)
    assert not torch.equal(shuffled.flip(0), start)


def test_random_starts_are_uniform_and_differ_between_images():
    images = torch.full((50, 1, 20, 20), 0.5) + 1e-4 * torch.arange(50.0)[:, None, None, None]
    moves = (common.random_start(images, torch.full((1,), 0.25), 0) - images).flatten(1)
    assert float(moves.abs().max()) <= 0.25 + 1e-6
    deciles = torch.histc(moves, 10, -0.25, 0.25) / moves.numel()
    assert torch.allclose(deciles, torch.full((10,), 0.1), atol=0.01)
    assert (moves.amax(0) - moves.amin(0) > 0.3).all()  # at no pixel do the images start alike
    zero = torch.zeros(2, 1, 4, 4)
    assert (common.random_start(zero, torch.ones(1), 0) >= 0).all()
    assert (common.random_start(zero + 1, torch.ones(1), 0) <= 1).all()


def draw_and_fail():
    with common.seeded(9, torch.device("cpu")):
        raise ValueError(f"inside {torch.rand(1)} {np.random.rand(1)}")


@pytest.mark.parametrize("seed", [0, 3, 2**32 + 3])
def test_global_generators_are_seeded_and_put_back(seed):
    torch.manual_seed(11)
    np.random.seed(11)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(11)
    np.random.seed(11)
    with common.seeded(seed, torch.device("cpu")):
        drawn = torch.rand(3), np.random.rand(3)
    with pytest.raises(ValueError, match="inside"):
        draw_and_fail()
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    assert torch.equal(torch.rand(3), drawn[0])
    assert np.array_equal(np.random.rand(3), drawn[1])


def test_checksums():
    tensor = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected = hashlib.sha256(b"ab" + tensor.numpy().tobytes()).hexdigest()[:16]
    assert common.digest(["ab", tensor]) == expected
    assert common.digest(["a", "b", tensor.T.contiguous().T.requires_grad_()]) == expected
    assert common.digest(["ab", tensor.T]) != expected


def test_a_fingerprint_is_of_layers_and_weights():
    def net(*layers):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 3), *layers)

    assert common.fingerprint(net()) == common.fingerprint(net())
    assert len(common.fingerprint(net())) == 16
    changed = net()
    with torch.no_grad():
        changed[0].bias[1] += 1e-6
    renamed = nn.Sequential()
    renamed.add_module("first", net()[0])
    everything = [net(), net(nn.ReLU()), net(nn.Tanh()), changed, renamed]
    assert len({common.fingerprint(one) for one in everything}) == 5


@pytest.mark.parametrize(
    ("stream", "verbose", "shown"),
    [(Terminal, True, True), (Terminal, False, False), (io.StringIO, True, False), (io.StringIO, False, False)],
)
def test_progress_is_for_terminals(monkeypatch, stream, verbose, shown):
    """A log is not flooded with it, and no line is left behind."""
    stderr = stream()
    monkeypatch.setattr("sys.stderr", stderr)
    with common.progress(verbose, 3, "img", "pgd20") as bar:
        bar.update(2)
    assert bool(stderr.getvalue()) == shown
    if shown:
        assert "pgd20:   0%|" in stderr.getvalue()
        assert (bar.total, bar.unit, bar.n) == (3, "img", 2)
        assert stderr.getvalue().endswith("\r")


def test_two_threads_seed_the_global_generators_in_turns():
    """Each draws what it draws alone, and the generators are as they were after the last."""

    def draw(seed):
        with common.seeded(seed, torch.device("cpu")):
            return [(float(torch.rand(())), float(np.random.rand())) for _ in range(200)]

    torch.manual_seed(5)
    before = torch.get_rng_state()
    expected = {seed: draw(seed) for seed in range(4)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(draw, list(range(4)) * 8))
    assert found == [expected[seed] for seed in list(range(4)) * 8]
    assert torch.equal(torch.get_rng_state(), before)
