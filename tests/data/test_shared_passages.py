"""Shared passages: the counts equal those of comparing all pairs."""

import numpy as np
import pytest

from attention_lab.data.files import shared_passages as module
from attention_lab.data.files.shared_passages import PASSAGE_LENGTH as LENGTH
from attention_lab.data.files.shared_passages import shared_passages


def shared(text: np.ndarray, other: np.ndarray) -> int:
    """The number of passages of another text in a text, by comparing bytes."""
    known = {text[at : at + LENGTH].tobytes() for at in range(len(text) - LENGTH + 1)}
    return sum(other[at : at + LENGTH].tobytes() in known for at in range(len(other) - LENGTH + 1))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("block", [1, 64, 2**13])
def test_every_shared_passage_is_counted(
    kind: type, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK_SIZE", block)
    random = np.random.default_rng(0)
    text = random.integers(2, size=700).astype(kind)
    some = np.concatenate([text[33:133], random.integers(2, size=70), text[200:249]]).astype(kind)
    others = [
        some,
        text[600:],
        random.integers(2, size=90).astype(kind),
        text[:LENGTH],
        text[:49],
    ]
    found = shared_passages(text, others)
    assert [each.found for each in found] == [shared(text, other) for other in others]
    assert [each.passages for each in found] == [170, 51, 41, 1, 0]
    assert found[0].found >= 51
    assert shared_passages(text[:10], others[:1])[0].found == 0


def test_passages_with_the_same_tokens_in_another_order_are_not_shared() -> None:
    """Passages that differ in one token are not shared, either."""
    text = np.arange(1, 200, dtype=np.uint8)
    assert shared_passages(text, [text[::-1].copy(), np.roll(text, 1)]) == [(0, 150), (149, 150)]
    holes = text.copy()
    holes[LENGTH - 1 :: LENGTH] = 0
    assert shared_passages(text, [holes]) == [(0, 150)]


def test_a_sample_of_a_long_text_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    text, other = random.integers(200, size=(2, 6000)).astype(np.uint8)
    other[1000:3000] = text[3000:5000]
    monkeypatch.setattr(module, "_MAX_PASSAGES", 300)
    monkeypatch.setattr(module, "_CHUNK_SIZE", 64)
    ((found, compared),) = shared_passages(text, [other])
    assert 280 < compared <= 300
    assert found / compared == pytest.approx((2000 - LENGTH + 1) / (6000 - LENGTH + 1), abs=0.01)
