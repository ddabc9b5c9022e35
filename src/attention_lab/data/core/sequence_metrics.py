"""Error rates of written sequences, which may have several right answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate
from torchmetrics.text import SacreBLEUScore

from attention_lab.data.core.vocabulary import TextVocabulary

#: How long the n-grams of chrF are, and how many times as much recall counts as precision.
CHRF_ORDER, CHRF_BETA = 6, 2

#: A right answer as token ids, without BOS, EOS and PAD.
Reference = tuple[int, ...]


class Answer(Reference):
    """A right answer as token ids that knows its text, which may hold what the ids do not."""

    text: str

    def __new__(cls, ids: Iterable[int], text: str) -> "Answer":
        answer = super().__new__(cls, ids)
        answer.text = text
        return answer

    def __getnewargs__(self) -> tuple[Reference, str]:
        return tuple(self), self.text  # copies need both


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
    #: The smallest and the greatest value of each metric; None where there is none.
    bounds: ClassVar[Mapping[str, tuple[float, float | None]]]

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
    # Writing too much takes more edits than the reference is long.
    bounds: ClassVar = {"per": (0.0, None), "wer": (0.0, 1.0)}

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
    bounds: ClassVar = {"sequence_accuracy": (0.0, 1.0), "token_error_rate": (0.0, None)}

    def compute(self) -> dict[str, Tensor]:
        """``sequence_accuracy`` and ``token_error_rate``."""
        tokens, sequences = self.rates()
        return {"sequence_accuracy": 1 - sequences, "token_error_rate": tokens}


#: The metrics of :class:`SequenceMetrics`, and the end of each one's range that is good.
MODES: dict[str, Literal["min", "max"]] = {
    "token_error_rate": "min",
    "sequence_error_rate": "min",
    "sequence_accuracy": "max",
    "per": "min",
    "wer": "min",
    "bleu": "max",
    "chrf": "max",
}
#: Those that compare texts made of words.
OF_TEXT = ("bleu", "chrf")


class SequenceMetrics(WrittenErrors):
    """Chosen metrics of generated sequences.

    ``token_error_rate``, ``sequence_error_rate`` (the share of sequences with any error) and
    ``sequence_accuracy`` (1 minus that) are about tokens; the first two are called ``per`` and
    ``wer`` where sequences are the phonemes of a word (Yao & Zweig 2015). ``bleu`` is BLEU
    (Papineni et al. 2002) as Post 2018, "A Call for Clarity in Reporting BLEU Scores", has it: of
    the corpus, its words taken apart as in WMT ("13a"), without smoothing. ``chrf`` is chrF2 of the
    corpus (:func:`chrf`). Both compare with the text of an :class:`Answer`; of other references it
    is made from their ids.

    Args:
        names: the metrics, keys of ``MODES``.
        vocabulary: makes text of ids, for ``bleu`` and ``chrf``.
    """

    bounds: ClassVar = {
        **dict.fromkeys(MODES, (0.0, 1.0)),
        # Predicting too much takes more edits than the reference is long.
        **dict.fromkeys(("token_error_rate", "per"), (0.0, None)),
    }

    #: Of each order: n-grams that agree, n-grams predicted, n-grams of the closest references.
    ngrams: Tensor

    def __init__(self, names: Sequence[str], vocabulary: TextVocabulary) -> None:
        super().__init__()
        self.names, self.vocabulary = names, vocabulary
        self.bleu = SacreBLEUScore()
        self.add_state(
            "ngrams", torch.zeros(3, CHRF_ORDER, dtype=torch.int64), dist_reduce_fx="sum"
        )

    def update(
        self, predicted: Sequence[Sequence[int]], references: Sequence[Sequence[Reference]]
    ) -> None:
        super().update(predicted, references)
        if not set(OF_TEXT) & set(self.names):
            return
        texts = [self.vocabulary.write(ids) for ids in predicted]
        wanted = [[self._text(answer) for answer in accepted] for accepted in references]
        self.bleu.update(texts, wanted)
        for text, accepted in zip(texts, wanted, strict=True):
            counts = (matching_ngrams(text, reference) for reference in accepted)
            self.ngrams += max(counts, key=chrf).to(self.ngrams.device)

    def _text(self, answer: Reference) -> str:
        return answer.text if isinstance(answer, Answer) else self.vocabulary.write(answer)

    def compute(self) -> dict[str, Tensor]:
        """The chosen metrics by name."""
        tokens, sequences = self.rates()
        known = {
            **dict.fromkeys(("token_error_rate", "per"), tokens),
            **dict.fromkeys(("sequence_error_rate", "wer"), sequences),
            "sequence_accuracy": 1 - sequences,
        }
        if set(OF_TEXT) & set(self.names):
            closeness = torch.tensor(chrf(self.ngrams), device=self.ngrams.device)
            known |= {"bleu": self.bleu.compute(), "chrf": closeness}
        return {name: known[name] for name in self.names}

    def reset(self) -> None:
        super().reset()
        self.bleu.reset()


def matching_ngrams(text: str, reference: str) -> Tensor:
    """N-grams of characters, white space left out, that are in both texts, in one, in the other.

    Returns:
        (3, ``CHRF_ORDER``) int64.
    """
    one, other = ("".join(each.split()) for each in (text, reference))
    counts = []
    for order in range(1, CHRF_ORDER + 1):
        written, wanted = (
            Counter(each[i : i + order] for i in range(len(each) - order + 1))
            for each in (one, other)
        )
        counts.append(((written & wanted).total(), written.total(), wanted.total()))
    return torch.tensor(counts).T


def chrf(ngrams: Tensor) -> float:
    """The F-score of n-grams (3, orders) as :func:`matching_ngrams` counts them (Popović 2015).

    Precision and recall are means over the orders of which the reference has n-grams. (That of
    torchmetrics leaves out references of which nothing was written, so writing less helps it.)
    """
    matching, written, wanted = ngrams[:, ngrams[2] > 0].double()
    if not matching.any():
        return 0.0
    precision, recall = (matching / written.clamp(min=1)).mean(), (matching / wanted).mean()
    beta = CHRF_BETA**2
    return float((1 + beta) * precision * recall / (beta * precision + recall))


def _edit_distance(predicted: Sequence[int], reference: Sequence[int]) -> int:
    # torchmetrics compares strings, so each id becomes a character. Its edit_distance looks only at
    # a band around the diagonal; the character error rate looks everywhere, so it is exact.
    hypothesis, truth = ("".join(map(chr, ids)) for ids in (predicted, reference))
    return round(float(char_error_rate(hypothesis, truth)) * len(reference))
