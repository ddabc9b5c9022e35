"""Language modelling of a text of the user's own."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.attention.validation import check_positive
from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.splits import check_split, shares_without
from attention_lab.data.core.vocabulary import PAD, TextVocabulary, check_vocabulary_size
from attention_lab.data.files.corpus import (
    Corpus,
    Counts,
    Piece,
    Table,
    duplicate_files,
    file_pieces,
    load_corpus,
    split_pieces,
)
from attention_lab.data.files.paths import required, shown
from attention_lab.data.files.shared_passages import LENGTH as PASSAGE
from attention_lab.data.files.shared_passages import Ids
from attention_lab.data.files.split_warnings import warn_about_unknown_tokens

#: Ids that are counted at a time.
_BLOCK = 2**16
#: Largest vocabulary of which pairs are counted: its square is a table in memory.
_MOST_IN_PAIRS = 2048
#: The share of passages that may be in training without a word: titles, licences, quotations.
_FEW = 0.01

Paths = str | Sequence[str] | None


class Text(LanguageModelDataModule):
    """The next token in a text file of your own: characters, bytes or byte pairs.

    Example, with a length of 4, of the characters "to be or", where · is a space: first
    t o · b → o · b e, then e · o → · o r.

    Every token but the first of a split is predicted once in an epoch: the windows of ``length``
    tokens follow each other without overlap, and the last one may be shorter. A split that has no
    file of its own is a consecutive part of the training text: of one text, the first 90 % are
    for training, the next 5 % for validation, the last 5 % for test. Characters that training lacks
    are read as <unk>, with a warning. A file that two splits are given is warned of, too.

    The text is streamed: only the batch at hand is in memory, and 8 bytes for each window. Ids are
    kept on disk, in ``$XDG_CACHE_HOME/attention-lab`` or ``~/.cache/attention-lab``, so that the
    runs of a sweep share them; bytes, too, so that a text that changes during a run does it no
    harm. `rm -r` of that directory costs nothing but the time to make them again.

    Known shortcut: the token before is enough to do better than the frequencies of tokens.

    Args:
        path: the training text, one file of UTF-8 or several in a row.
        validation: the validation text, likewise; None takes a part of ``path``.
        test: the test text, likewise; None takes a part of ``path``.
        tokens: "characters", "bytes" or "bpe" (byte pairs, trained on the training split).
        vocabulary: number of tokens, for "bpe" only; None for 1024.
        length: tokens that a model reads at a time.
        batch_size: largest number of windows in a batch, per process.
        seed: of the order of the training batches, and of nothing else.

    Raises:
        ValueError: if a number is below 1, the seed is below 0, or there is no path.
    """

    monitor = "loss"
    mode = "min"
    metrics = ("perplexity", "accuracy", "bits_per_character")
    vocabularies = ("text_vocabulary",)
    files = ("path", "validation", "test")

    text_vocabulary: TextVocabulary

    def __init__(
        self,
        path: Paths = None,
        validation: Paths = None,
        test: Paths = None,
        tokens: Literal["characters", "bytes", "bpe"] = "characters",
        vocabulary: int | None = None,
        length: int = 128,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        check_positive(length=length)
        self.path = required("path", path, "a UTF-8 file of text, data.path=[A,B] several")
        self.validation, self.test = validation, test
        self.tokens, self.vocabulary = tokens, check_vocabulary_size(vocabulary, tokens)
        self.length = length
        self._corpus: Corpus | None = None

    def load(self) -> dict[str, LabelledPositions]:
        """Cut the text, read it into ids unless that was done before, and cut those into windows.

        Raises:
            ValueError: naming a file that cannot be read or is not UTF-8, or those of a split that
                is shorter than a window.
        """
        own = {"validation": self.validation, "test": self.test}
        given = {split: file_pieces(_listed(paths)) for split, paths in own.items() if paths}
        shares = shares_without(given)
        train = file_pieces(_listed(self.path))
        _warn_of_shared_files({"training": train, **given})
        parts = split_pieces(train, list(shares.values()))
        splits = dict(zip(shares, parts, strict=True)) | given
        read = load_corpus(splits, self.tokens, self.vocabulary, self._check_lengths)
        for split, counts in read.counts.items():
            warn_about_unknown_tokens(self._files(split), split, counts.unknown, counts.tokens)
            _warn_of_shared_passages(self._files(split), split, counts)
        self._corpus, self.text_vocabulary = read, read.vocabulary
        windows = {
            split: Windows(ids, read.vocabulary.lowest, self.length)
            for split, ids in read.ids.items()
        }
        # Like a batch of all examples in every way but that it is not in memory.
        return cast("dict[str, LabelledPositions]", windows)

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of a window."""
        return {"vocabulary": len(self.text_vocabulary), "length": self.length}

    def characters_per_token(self, split: str) -> float:
        """Characters of a split's text for each of its tokens."""
        counts = self._loaded.counts[check_split(split)]
        return counts.characters / counts.tokens

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Predicting by the frequencies of tokens in the training text, add-one smoothed."""
        frequencies = self._frequencies("train") + 1
        chances = frequencies / frequencies.sum()
        asked = self._frequencies(split)
        right = asked[frequencies.argmax()]
        return self._metrics(split, -asked @ np.log(chances), right)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Predicting by the frequencies after the token before, in vocabularies of up to 2048.

        Smoothed after Witten & Bell 1991, "The Zero-Frequency Problem", method C: a token that was
        followed by c tokens of d kinds has d / (c + d) for the frequencies of the trivial baseline.
        """
        if len(self.text_vocabulary) > _MOST_IN_PAIRS:
            return {}
        frequencies = self._frequencies("train") + 1
        pairs = self._pairs("train")
        kinds = np.maximum((pairs > 0).sum(1, keepdims=True), 1)
        chances = pairs + kinds * frequencies / frequencies.sum()
        chances /= chances.sum(1, keepdims=True)
        asked = self._pairs(split)
        right = np.take_along_axis(asked, chances.argmax(1, keepdims=True), 1).sum()
        return {"bigram": self._metrics(split, -(asked * np.log(chances)).sum(), right)}

    def labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The tokens of each window."""
        return [
            {"input": [self.text_vocabulary.token(id) for id in row[:length]]}
            for row, length in zip(batch.inputs.tolist(), batch.length.tolist(), strict=True)
        ]

    @property
    def _loaded(self) -> Corpus:
        assert self._corpus is not None, "setup comes first"
        return self._corpus

    def _files(self, split: str) -> str:
        """The files in which a split's text stands, as messages call them."""
        own = {"validation": self.validation, "test": self.test}
        return ", ".join(map(shown, _listed(own.get(split) or self.path)))

    def _check_lengths(self, counts: Mapping[str, Counts]) -> None:
        for split, known in counts.items():
            if known.tokens <= self.length:
                raise ValueError(
                    f"{self._files(split)}: the {split} text has {known.tokens} tokens, and one "
                    f"window takes {self.length + 1} (data.length={self.length} and the token to "
                    "predict); a longer text works, or a smaller data.length"
                )

    def _blocks(self, split: str) -> Iterator[NDArray[np.int64]]:
        """The ids of a split, some at a time; a block begins with the last id of the one before."""
        ids, lowest = self._loaded.ids[check_split(split)], self.text_vocabulary.lowest
        for start in range(0, len(ids) - 1, _BLOCK):
            yield ids[start : start + _BLOCK + 1].astype(np.int64) + lowest

    def _frequencies(self, split: str) -> Table:
        """How often each token is to be predicted in a split, (V,)."""

        def count() -> Table:
            counts = np.zeros(len(self.text_vocabulary), dtype=np.int64)
            for block in self._blocks(split):
                np.add.at(counts, block[1:], 1)
            return counts

        return self._loaded.cached_counts(f"{check_split(split)}.tokens", count)

    def _pairs(self, split: str) -> Table:
        """How often each token (row) is followed by each token (column) in a split, (V, V)."""
        size = len(self.text_vocabulary)

        def count() -> Table:
            counts = np.zeros((size, size), dtype=np.int64)
            for block in self._blocks(split):
                np.add.at(counts, (block[:-1], block[1:]), 1)
            return counts

        return self._loaded.cached_counts(f"{check_split(split)}.pairs", count)

    def _metrics(self, split: str, nats: Any, right: Any) -> dict[str, float]:
        """The metrics of a language model, from sums over the tokens to be predicted."""
        asked = self._loaded.counts[split].tokens - 1
        loss = float(nats / asked)
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "accuracy": float(right / asked),
            "bits_per_character": loss / math.log(2) / self.characters_per_token(split),
        }


class Windows:
    """A split as stretches of a text that follow each other, read from disk when selected.

    Args:
        ids: the text's token ids, less ``lowest``, (N,) with N > 1.
        lowest: what the ids lack.
        length: tokens in a window; the last one may have fewer.
    """

    def __init__(self, ids: Ids, lowest: int, length: int) -> None:
        self._ids, self._lowest, self._length = ids, lowest, length
        self._last = len(ids) - 1

    def lengths(self) -> Tensor:
        """The lengths of the windows, (windows, 1) int64."""
        lengths = torch.full((-(-self._last // self._length), 1), self._length)
        lengths[-1] = self._last - self._length * (len(lengths) - 1)
        return lengths

    def select(self, rows: Tensor) -> LabelledPositions:
        """Some windows as a batch in memory; the labels are the tokens one further on."""
        starts = self._length * rows.numpy()
        lengths = np.minimum(self._length, self._last - starts)
        steps = np.arange(lengths.max() + 1)
        places = np.minimum(starts[:, None] + steps, self._last)
        tokens = self._ids[places].astype(np.int64) + self._lowest
        real = steps[:-1] < lengths[:, None]
        inputs = np.where(real, tokens[:, :-1], PAD)
        labels = np.where(real, tokens[:, 1:], IGNORE)
        return LabelledPositions(*map(torch.from_numpy, (inputs, labels, lengths)))


def _warn_of_shared_files(splits: Mapping[str, Sequence[Piece]]) -> None:
    for (earlier, some), (later, others) in combinations(splits.items(), 2):
        for path in map(shown, duplicate_files(some, others)):
            warnings.warn(
                f"{path}: this {later} text is also a {earlier} text: scores on it may be inflated "
                "by leakage",
                stacklevel=2,
            )


def _warn_of_shared_passages(files: str, split: str, counts: Counts) -> None:
    if counts.shared > _FEW * counts.passages:
        warnings.warn(
            f"{files}: {counts.shared} of {counts.passages} passages of {PASSAGE} tokens of the "
            f"{split} text are also in the training text: scores may be inflated by leakage",
            stacklevel=2,
        )


def _listed(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths or ())
