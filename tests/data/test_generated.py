"""Generated examples are assigned to disjoint splits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.splits import SPLITS
from attention_lab.data.synthetic.generated import SHARES, GeneratedDataModule, split_of


class Coins(GeneratedDataModule[LabelledPositions], LanguageModelDataModule):
    """Rows of ones and twos, of which there are few."""

    monitor, mode = "accuracy", "max"

    def __init__(self, width: int, examples: int = 50) -> None:
        super().__init__(examples, 20, batch_size=5, draw_seed=0, seed=0)
        self.width = width

    def draw(self, random: np.random.Generator, count: int, split: str) -> LabelledPositions:
        inputs = torch.from_numpy(random.integers(1, 3, (count, self.width)))
        labels = torch.full_like(inputs, IGNORE)
        return LabelledPositions(inputs, labels, torch.full((count,), self.width))

    def identity(self, batch: LabelledPositions) -> Tensor:
        return batch.inputs

    def model_arguments(self) -> dict[str, int]:
        return {"vocab_size": 3, "max_length": self.width}

    def trivial_baseline(self, split: str) -> dict[str, float]:
        return {"accuracy": 0.5}

    def position_labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        return []


def test_splits_are_disjoint_and_have_the_configured_sizes() -> None:
    data = Coins(width=8)
    data.setup()
    rows = {split: set(map(tuple, data.split(split).inputs.tolist())) for split in SPLITS}
    assert [len(data.split(split).inputs) for split in SPLITS] == [50, 20, 20]
    for one in SPLITS:
        for other in SPLITS:
            assert one == other or not rows[one] & rows[other]


def test_too_few_possible_examples_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"of \d+ (validation|test) examples, since"):
        Coins(width=1).setup()


def test_at_most_max_draws_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, counts, draw = Coins(width=8), [], Coins.draw
    data.max_draws = 7

    def counted(self: Coins, random: np.random.Generator, count: int, split: str) -> Any:
        counts.append(count)
        return draw(self, random, count, split)

    monkeypatch.setattr(Coins, "draw", counted)
    data.setup()
    assert max(counts) == 7
    rows = {split: set(map(tuple, data.split(split).inputs.tolist())) for split in SPLITS}
    assert [len(data.split(split).inputs) for split in SPLITS] == [50, 20, 20]
    assert len(set.union(*rows.values())) == sum(map(len, rows.values()))
    for number, split in enumerate(SPLITS):
        assert (split_of(data.split(split).inputs.numpy()) == number).all()


def test_the_split_of_a_row_depends_on_the_row_only() -> None:
    rows = np.random.default_rng(0).integers(0, 50, (5000, 6))
    dealt = split_of(rows)
    shares = np.bincount(dealt) / len(rows)
    assert shares == pytest.approx(SHARES, abs=0.02)
    assert np.array_equal(split_of(rows[::-1]), dealt[::-1])
    assert np.array_equal(split_of(np.pad(rows, ((0, 0), (0, 3)))), dealt)
    assert dealt[:30].tolist() == FROZEN


FROZEN = [0, 2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "change", [lambda rows: rows[:, ::-1], lambda rows: rows + 1, lambda rows: rows[:, :5]]
)
def test_every_value_of_a_row_changes_its_split(change: Callable[[np.ndarray], np.ndarray]) -> None:
    rows = np.random.default_rng(0).integers(1, 50, (5000, 6))
    assert (split_of(change(rows)) == split_of(rows)).mean() == pytest.approx(0.66, abs=0.03)
