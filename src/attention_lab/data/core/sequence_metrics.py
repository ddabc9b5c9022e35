"""Metrics of predicted sequences, which may have several references each."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate
from torchmetrics.text import SacreBLEUScore

from attention_lab.data.core.chrf import CHRF_ORDER, chrf, matching_ngrams
from attention_lab.data.core.metric_info import metric_info
from attention_lab.data.core.vocabulary import TextVocabulary

MetricName = Literal[
    "token_error_rate", "sequence_error_rate", "sequence_accuracy", "per", "wer", "bleu", "chrf"
]


#: Whether the smallest ("min") or the greatest ("max") value of each metric is best.
MODES = {name: metric_info(name).mode for name in get_args(MetricName)}
#: The metrics that compare texts of words.
TEXT_METRICS = ("bleu", "chrf")

#: A correct sequence as token ids, without BOS, EOS and PAD.
Reference = tuple[int, ...]


class TextReference(Reference):
    """A reference with its text. The text also has the words that became <unk> in the ids."""

    text: str

    def __new__(cls, ids: Iterable[int], text: str) -> "TextReference":
        reference = super().__new__(cls, ids)
        reference.text = text
        return reference

    def __getnewargs__(self) -> tuple[Reference, str]:
        return tuple(self), self.text  # copying and pickling need both


def token_errors(predicted: Sequence[int], references: Sequence[Reference]) -> tuple[int, int]:
    """Edit distance to the closest reference, and the length of that reference.

    If several references are equally close, the longest is used: its error rate is the lowest.

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


class SequenceMetrics(Metric):
    """The chosen metrics of predicted sequences.

    - ``token_error_rate``: the sum of edit distances to the closest references, divided by the sum
      of those references' lengths. ``per`` is the same where tokens are phonemes.
    - ``sequence_error_rate``: the share of sequences with any error. ``wer`` is the same where a
      sequence is the pronunciation of a word (Yao & Zweig 2015).
    - ``sequence_accuracy``: 1 − ``sequence_error_rate``.
    - ``bleu``: corpus BLEU (Papineni et al. 2002) with the "13a" tokenizer and no smoothing, as in
      Post 2018, "A Call for Clarity in Reporting BLEU Scores".
    - ``chrf``: corpus chrF2 (:func:`~attention_lab.data.core.chrf.chrf`).

    ``bleu`` and ``chrf`` compare with the text of a :class:`TextReference`, or else with the
    decoded ids.

    >>> metric = SequenceMetrics(["per", "wer"])
    >>> metric.update([[7, 8, 9], [7]], [[(7, 8), (7, 9, 9, 9)], [(7,), (8,)]])
    >>> {name: round(float(rate), 3) for name, rate in metric.compute().items()}
    {'per': 0.333, 'wer': 0.5}

    Args:
        names: the metrics, keys of ``MODES``.
        vocabulary: decodes ids, for ``bleu`` and ``chrf`` only.
    """

    is_differentiable = False
    full_state_update = False
    #: The smallest and the greatest value of each metric; None means unbounded. Token error rates
    #: are unbounded, because a prediction may be longer than its reference.
    bounds: ClassVar[Mapping[str, tuple[float, float | None]]] = {
        name: (0.0, None if name in ("token_error_rate", "per") else 1.0) for name in MODES
    }

    edits: Tensor
    reference_length: Tensor
    wrong: Tensor
    sequences: Tensor
    #: For each order: common n-grams, predicted n-grams, n-grams of the closest references.
    ngrams: Tensor

    def __init__(self, names: Sequence[str], vocabulary: TextVocabulary | None = None) -> None:
        super().__init__()
        self.names, self.vocabulary = names, vocabulary
        for state in ("edits", "reference_length", "wrong", "sequences"):
            self.add_state(state, default=torch.tensor(0), dist_reduce_fx="sum")
        self.bleu = SacreBLEUScore() if set(TEXT_METRICS) & set(names) else None
        if self.bleu:
            counts = torch.zeros(3, CHRF_ORDER, dtype=torch.int64)
            self.add_state("ngrams", counts, dist_reduce_fx="sum")

    def update(
        self, predicted: Sequence[Sequence[int]], references: Sequence[Sequence[Reference]]
    ) -> None:
        """Add sequences to the counts.

        Args:
            predicted: the ids predicted for each example, without BOS, EOS and PAD.
            references: the references of each example, likewise.
        """
        errors = [token_errors(*each) for each in zip(predicted, references, strict=True)]
        self.edits += sum(edits for edits, _ in errors)
        self.reference_length += sum(length for _, length in errors)
        self.wrong += sum(edits > 0 for edits, _ in errors)
        self.sequences += len(errors)
        if self.bleu:
            self._update_text_metrics(self.bleu, predicted, references)

    def _update_text_metrics(
        self,
        bleu: SacreBLEUScore,
        predicted: Sequence[Sequence[int]],
        references: Sequence[Sequence[Reference]],
    ) -> None:
        texts = [self._text(ids) for ids in predicted]
        reference_texts = [[self._text(ids) for ids in accepted] for accepted in references]
        bleu.update(texts, reference_texts)
        for text, accepted in zip(texts, reference_texts, strict=True):
            counts = (matching_ngrams(text, reference) for reference in accepted)
            self.ngrams += max(counts, key=chrf).to(self.ngrams.device)

    def _text(self, ids: Sequence[int]) -> str:
        assert self.vocabulary is not None, "bleu and chrf need a vocabulary"
        return ids.text if isinstance(ids, TextReference) else self.vocabulary.decode(ids)

    def compute(self) -> dict[str, Tensor]:
        """The chosen metrics by name."""
        token_errors, sequence_errors = (
            self.edits / self.reference_length,
            self.wrong / self.sequences,
        )
        values = {
            **dict.fromkeys(("token_error_rate", "per"), token_errors),
            **dict.fromkeys(("sequence_error_rate", "wer"), sequence_errors),
            "sequence_accuracy": 1 - sequence_errors,
        }
        if self.bleu:
            values["bleu"] = self.bleu.compute()
            values["chrf"] = torch.tensor(chrf(self.ngrams), device=self.ngrams.device)
        return {name: values[name] for name in self.names}

    def reset(self) -> None:
        super().reset()
        if self.bleu:
            self.bleu.reset()


def _edit_distance(predicted: Sequence[int], reference: Sequence[int]) -> int:
    # torchmetrics compares strings, so each id becomes a character. Its edit_distance is limited to
    # a band around the diagonal; char_error_rate is exact.
    hypothesis, truth = ("".join(map(chr, ids)) for ids in (predicted, reference))
    return round(float(char_error_rate(hypothesis, truth)) * len(reference))
