"""Error rates of pronunciations that may have several right answers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate

#: Phoneme ids, without BOS, EOS and PAD.
Pronunciation = tuple[int, ...]


def phoneme_errors(
    predicted: Sequence[int], references: Sequence[Pronunciation]
) -> tuple[int, int]:
    """Edit distance to the closest reference, and the length of that reference.

    Of equally close references the longest counts, which is the lowest error rate.

    Raises:
        ValueError: if there is no reference, or an empty one.
    """
    if not references or not all(references):
        raise ValueError(f"each word needs references of at least one phoneme, got {references}")
    if tuple(predicted) in references:
        return 0, len(predicted)
    edits = [_edit_distance(predicted, reference) for reference in references]
    closest = min(edits)
    return closest, max(len(r) for r, n in zip(references, edits, strict=True) if n == closest)


class PronunciationErrors(Metric):
    """Phoneme and word error rate, as grapheme-to-phoneme papers report them (Yao & Zweig 2015).

    ``per`` is the sum over words of the edit distance to the closest accepted pronunciation,
    divided by the sum of the lengths of those closest ones. ``wer`` is the fraction of words that
    equal none of their accepted pronunciations.

    >>> errors = PronunciationErrors()
    >>> errors.update([[7, 8, 9], [7]], [[(7, 8), (7, 9, 9, 9)], [(7,), (8,)]])
    >>> {name: round(float(rate), 3) for name, rate in errors.compute().items()}
    {'per': 0.333, 'wer': 0.5}
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    edits: Tensor
    reference_length: Tensor
    wrong_words: Tensor
    words: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("edits", "reference_length", "wrong_words", "words"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, predicted: Sequence[Sequence[int]], references: Sequence[Sequence[Pronunciation]]
    ) -> None:
        """Count some words.

        Args:
            predicted: the predicted phoneme ids of each word, without BOS, EOS and PAD.
            references: the accepted pronunciations of each word, likewise.
        """
        errors = [phoneme_errors(*word) for word in zip(predicted, references, strict=True)]
        self.edits += sum(edits for edits, _ in errors)
        self.reference_length += sum(length for _, length in errors)
        self.wrong_words += sum(edits > 0 for edits, _ in errors)
        self.words += len(errors)

    def compute(self) -> dict[str, Tensor]:
        """The two rates, ``per`` and ``wer``, of all words so far."""
        return {
            "per": self.edits / self.reference_length,
            "wer": self.wrong_words / self.words,
        }


def _edit_distance(predicted: Sequence[int], reference: Sequence[int]) -> int:
    # torchmetrics compares strings, so each id becomes a character. Its edit_distance looks only at
    # a band around the diagonal; the character error rate looks everywhere, so it is exact.
    hypothesis, truth = ("".join(map(chr, ids)) for ids in (predicted, reference))
    return round(float(char_error_rate(hypothesis, truth)) * len(reference))
