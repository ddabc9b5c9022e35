"""The tests between all pairs of groups equal those computed pair by pair."""

import random
from itertools import combinations

import numpy as np
import pytest

from attention_lab.reports.pairwise_tests import PairwiseTests
from attention_lab.reports.stats import holm_factors, paired_p_value
from tests.reports.conftest import Compared


def test_all_pairs_equal_the_tests_pair_by_pair(compared: Compared) -> None:
    """Groups with missing seeds, with too few seeds, and without a spread of the differences."""
    noise = random.Random(0)
    scores: dict[str, list[float | None]] = {
        f"g{i}": [i // 3 / 10 + noise.uniform(0, 0.01) for _ in range(5)] for i in range(9)
    }
    scores["g1"][0] = scores["g4"][3] = scores["g4"][4] = None
    scores |= {"few": [0.1, 0.2], "same": [0.3] * 5, "lower": [0.2] * 5, "late": [None] * 5 + [0.5]}
    groups = compared(scores).groups
    tests = PairwiseTests(groups, "per")
    pairs = [
        (one, other)
        for one, other in combinations(groups, 2)
        if one.scores("per").keys() & other.scores("per").keys()
    ]
    p_values = [paired_p_value(one.scores("per"), other.scores("per")) for one, other in pairs]
    factors = holm_factors(p_values)
    found = [tests.factor(one, other) for one, other in pairs]
    assert found == pytest.approx(list(factors), nan_ok=True)

    signs = tests.signs(groups)
    expected = np.zeros_like(signs)
    for (one, other), p, factor in zip(pairs, p_values, factors, strict=True):
        if p * factor < 0.05:
            shared = one.scores("per").keys() & other.scores("per").keys()
            gain = sum(one.scores("per")[seed] - other.scores("per")[seed] for seed in shared)
            row, column = groups.index(one), groups.index(other)
            expected[row, column], expected[column, row] = np.sign(gain), -np.sign(gain)
    assert np.array_equal(signs, expected)
    assert 10 < np.count_nonzero(expected) < expected.size / 2
