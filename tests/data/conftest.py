"""Datasets that tests share and do not change."""

import pytest

from attention_lab.data.bundled.digits import Digits
from attention_lab.data.bundled.g2p import G2P


@pytest.fixture(scope="session")
def g2p() -> G2P:
    """All of CMUdict."""
    data = G2P()
    data.setup()
    return data


@pytest.fixture(scope="session")
def small_g2p() -> G2P:
    """A limited one."""
    data = G2P(limit=400, evaluation_limit=50)
    data.setup()
    return data


@pytest.fixture(scope="session")
def digits() -> Digits:
    """All images."""
    data = Digits()
    data.setup()
    return data
