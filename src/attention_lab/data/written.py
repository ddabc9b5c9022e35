"""Error rates of written sequences, which may have several right answers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate

#: A right answer as token ids, without BOS, EOS and PAD.
Reference = tuple[int, ...]


def token_errors(predicted: Sequence[int], references: Sequence[Reference]) -> tuple[int, int]:
    """Edit distance to the closest reference, and the length of that reference.

    Of equally close references the longest counts, which is the lowest error rate.

    Raises:
        ValueError: if there is no reference, or an empty one.
    """
    if not references or not all(references):
        raise ValueError(f"each example needs references of at least one token, got {references}")
    if tuple(predicted) in references:
        return 0, len(predicted)
    edits = [_edit_distance(predicted, reference) for reference in references]
    closest = min(edits)
    return closest, max(len(r) for r, n in zip(references, edits, strict=True) if n == closest)


class WrittenErrors(Metric):
    """Counts wrong tokens and wrong sequences; subclasses say how the rates are called.

    The token error rate is the sum over sequences of the edit distance to the closest reference,
    divided by the sum of the lengths of those closest ones.
    """

    is_differentiable = False
    full_state_update = False

    edits: Tensor
    reference_length: Tensor
    wrong: Tensor
    sequences: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("edits", "reference_length", "wrong", "sequences"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, predicted: Sequence[Sequence[int]], references: Sequence[Sequence[Reference]]
    ) -> None:
        """Count some sequences.

        Args:
            predicted: what was written for each example, without BOS, EOS and PAD.
            references: the right answers to each example, likewise.
        """
        errors = [token_errors(*each) for each in zip(predicted, references, strict=True)]
        self.edits += sum(edits for edits, _ in errors)
        self.reference_length += sum(length for _, length in errors)
        self.wrong += sum(edits > 0 for edits, _ in errors)
        self.sequences += len(errors)

    def rates(self) -> tuple[Tensor, Tensor]:
        """The error rates of tokens and of sequences, of all so far."""
        return self.edits / self.reference_length, self.wrong / self.sequences


class PronunciationErrors(WrittenErrors):
    """Phoneme and word error rate, as grapheme-to-phoneme papers report them (Yao & Zweig 2015).

    >>> errors = PronunciationErrors()
    >>> errors.update([[7, 8, 9], [7]], [[(7, 8), (7, 9, 9, 9)], [(7,), (8,)]])
    >>> {name: round(float(rate), 3) for name, rate in errors.compute().items()}
    {'per': 0.333, 'wer': 0.5}
    """

    higher_is_better = False

    def compute(self) -> dict[str, Tensor]:
        """The two rates, ``per`` and ``wer``."""
        per, wer = self.rates()
        return {"per": per, "wer": wer}


class SequenceAccuracy(WrittenErrors):
    """How many sequences were written without any error, and the rate of wrong tokens.

    >>> accuracy = SequenceAccuracy()
    >>> accuracy.update([[7, 8, 9], [7]], [[(7, 8)], [(7,)]])
    >>> {name: round(float(rate), 3) for name, rate in accuracy.compute().items()}
    {'sequence_accuracy': 0.5, 'token_error_rate': 0.333}
    """

    higher_is_better = True

    def compute(self) -> dict[str, Tensor]:
        """``sequence_accuracy`` and ``token_error_rate``."""
        tokens, sequences = self.rates()
        return {"sequence_accuracy": 1 - sequences, "token_error_rate": tokens}


def _edit_distance(predicted: Sequence[int], reference: Sequence[int]) -> int:
    # torchmetrics compares strings, so each id becomes a character. Its edit_distance looks only at
    # a band around the diagonal; the character error rate looks everywhere, so it is exact.
    hypothesis, truth = ("".join(map(chr, ids)) for ids in (predicted, reference))
    return round(float(char_error_rate(hypothesis, truth)) * len(reference))
