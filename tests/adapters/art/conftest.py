"""Digits as ART takes them."""

import pytest


@pytest.fixture
def arrays(batch):
    """Sixteen digits that no network here was trained on, and their classes."""
    return batch[0].numpy(), batch[1].numpy()


@pytest.fixture(scope="session")
def dataset(digits):
    """All digits, (1797, 1, 8, 8), and their classes."""
    return digits[0].numpy(), digits[1].numpy()
