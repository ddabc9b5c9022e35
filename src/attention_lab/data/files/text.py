"""Language modeling of the user's text files."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import IGNORE, LabelledPositions, labelled_positions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.splits import check_split, split_shares
from attention_lab.data.core.vocabulary import PAD, TextVocabulary, check_vocab_size
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
from attention_lab.data.files.documents import DocumentRows
from attention_lab.data.files.examples import check_columns
from attention_lab.data.files.hub import hub_dataset
from attention_lab.data.files.paths import required, shown
from attention_lab.data.files.shared_passages import PASSAGE_LENGTH, Ids
from attention_lab.data.files.split_warnings import warn_about_unknown_tokens

#: Number of ids that are counted at once.
_BLOCK = 2**16
#: The largest vocabulary for the bigram baseline; the size of its table is quadratic.
_MAX_BIGRAM_VOCABULARY = 2048
#: The share of passages that may also be in training without a warning: titles, quotations.
_TOLERATED_SHARE = 0.01

Paths = str | Sequence[str] | None


class Text(LanguageModelDataModule):
    """Next-token prediction in your text files: characters, bytes or byte pairs.

    Example, with a length of 4, of the characters "to be or", where · is a space: first
    t o · b → o · b e, then e · o → · o r.

    Every token of a split except the first is predicted once per epoch: windows of ``length``
    tokens follow each other without overlap, and the last may be shorter. A split without a file of
    its own is a consecutive part of the training text: the first 90 % of a single text are
    training, the next 5 % validation, the last 5 % test. Characters that do not occur in training
    become <unk>. Warnings give their number, and the files or passages that two splits share.

    The text is streamed: memory holds the current batch only, and 8 bytes per window, or at
    most 24 per document. Token ids are cached in ``$XDG_CACHE_HOME/attention-lab`` or
    ``~/.cache/attention-lab``, for all runs of a sweep. A text may change during a run, since the
    run reads the cache. The cache may be deleted between runs.

    Known shortcut (``shortcut_baselines``): bigram frequencies.

    Args:
        path: the training text, one UTF-8 file or several, which are concatenated. They may be
            compressed (``.gz``, ``.zst``); the cache then also has their decompressed content.
        validation: the validation text, likewise; None takes a part of ``path``.
        test: the test text, likewise; None takes a part of ``path``.
        columns: the one column that has the text, if the files are tables (``.csv``, ``.jsonl``,
            ``.parquet``, ``.arrow``, or directories of these); None for "text". Each row is a line.
        tokens: "characters", "bytes" or "bpe" (byte pairs, trained on the training split).
        vocab_size: number of tokens, for "bpe" only; None for 1024.
        source: "files", or "hub" for a dataset of the Hugging Face hub. ``path``,
            ``validation`` and ``test`` are then names of its splits; None means "train" for the
            first, and a part of it for the others.
        name: the name of the dataset on the hub: "Helsinki-NLP/opus_books".
        subset: the name of its subset ("en-fr"), if it has several.
        revision: its commit hash, branch or tag; None means the newest.
        length: number of tokens in a window.
        test_length: the same in test; None means ``length``.
        documents: whether each line is a separate document, whose tokens attend to this line only.
            A window then has one document, or a part of one.
        packing: whether a window has as many documents as fit, each with positions from 0 and
            masked from the others; needs ``documents``.
        batch_size: largest number of windows in a batch, per process.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a number is below 1, the seed is below 0, there is no path, or ``packing``
            lacks ``documents``.
    """

    monitor = "loss"
    mode = "min"
    metrics = ("perplexity", "accuracy", "bits_per_character")
    vocabularies = ("text_vocabulary",)
    files = ("path", "validation", "test")
    default_columns = ("text",)

    text_vocabulary: TextVocabulary

    def __init__(
        self,
        path: Paths = None,
        validation: Paths = None,
        test: Paths = None,
        columns: Sequence[str] | None = None,
        tokens: Literal["characters", "bytes", "bpe"] = "characters",
        vocab_size: int | None = None,
        source: Literal["files", "hub"] = "files",
        name: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        length: int = 128,
        test_length: int | None = None,
        documents: bool = False,
        packing: bool = False,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        tested = length if test_length is None else test_length
        check_positive(length=length, test_length=tested)
        self.hub = hub_dataset(source, name, subset, revision)
        given = path or ("train" if self.hub else None)
        self.path = required("path", given, "a UTF-8 text, or data.path=[A,B]")
        self.other_files = {"validation": validation, "test": test}
        self.shares = split_shares(split for split, paths in self.other_files.items() if paths)
        self.columns = check_columns(columns, self.default_columns)
        self.tokens, self.vocab_size = tokens, check_vocab_size(vocab_size, tokens)
        self.window_lengths = {"train": length, "validation": length, "test": tested}
        if packing and not documents:
            raise ValueError(
                "packing=true needs documents=true: the windows of one continuous text have no "
                "padding"
            )
        self.documents, self.packing = documents, packing
        self._corpus: Corpus | None = None

    def load(self) -> dict[str, LabelledPositions]:
        """Split the text, encode it or read the cached ids, and cut the ids into windows.

        Raises:
            ValueError: naming the file, if it cannot be read, is not UTF-8, or is shorter than a
                window.
        """
        given = {split: self._pieces(paths) for split, paths in self.other_files.items() if paths}
        train = self._pieces(self.path)
        _warn_of_shared_files({"training": train, **given})
        parts = split_pieces(train, list(self.shares.values()))
        splits = dict(zip(self.shares, parts, strict=True)) | given
        corpus = load_corpus(splits, self.tokens, self.vocab_size, self._check_lengths)
        for split, counts in corpus.counts.items():
            warn_about_unknown_tokens(self._files(split), split, counts.unknown, counts.tokens)
            _warn_of_shared_passages(self._files(split), split, counts)
        self._corpus, self.text_vocabulary = corpus, corpus.vocabulary
        windows = {split: self._windows(split, ids) for split, ids in corpus.ids.items()}
        # They have the interface of a batch, but their examples are not in memory.
        return cast("dict[str, LabelledPositions]", windows)

    def _windows(self, split: str, ids: Ids) -> "Windows | DocumentRows":
        length = self.window_lengths[split]
        if self.documents:
            return DocumentRows(ids, self.text_vocabulary, length, self.packing)
        return Windows(ids, self.text_vocabulary.lowest, length)

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of the longest window."""
        longest = max(self.window_lengths.values())
        return {"vocab_size": len(self.text_vocabulary), "max_length": longest}

    def characters_per_token(self, split: str) -> float:
        """The mean number of characters per token of a split."""
        counts = self._loaded.counts[check_split(split)]
        return counts.characters / counts.tokens

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Metrics of unigram frequencies in training, with add-one smoothing."""
        frequencies = self._frequencies("train") + 1
        probabilities = frequencies / frequencies.sum()
        targets = self._frequencies(split)
        right = targets[frequencies.argmax()]
        return self._metrics(split, -targets @ np.log(probabilities), right)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of bigram frequencies, for vocabularies of at most 2048 tokens.

        Smoothed by method C of Witten & Bell 1991, "The Zero-Frequency Problem": after a token that
        was followed by c tokens, d of them different, unigrams have the weight d / (c + d).
        """
        if len(self.text_vocabulary) > _MAX_BIGRAM_VOCABULARY:
            return {}
        frequencies = self._frequencies("train") + 1
        pairs = self._pairs("train")
        kinds = np.maximum((pairs > 0).sum(1, keepdims=True), 1)
        probabilities = pairs + kinds * frequencies / frequencies.sum()
        probabilities /= probabilities.sum(1, keepdims=True)
        targets = self._pairs(split)
        right = np.take_along_axis(targets, probabilities.argmax(1, keepdims=True), 1).sum()
        return {"bigram": self._metrics(split, -(targets * np.log(probabilities)).sum(), right)}

    def position_labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The tokens of each window."""
        return [
            {"input": [self.text_vocabulary.token(id) for id in row[:length]]}
            for row, length in zip(batch.inputs.tolist(), batch.length.tolist(), strict=True)
        ]

    @property
    def _loaded(self) -> Corpus:
        assert self._corpus is not None, "call setup first"
        return self._corpus

    def _pieces(self, paths: Paths) -> list[Piece]:
        if self.hub is None:
            return file_pieces(_listed(paths), self.columns)
        columns = self.columns or self.default_columns
        return file_pieces(
            [str(self.hub.file(split, columns)) for split in _listed(paths)], columns
        )

    def _files(self, split: str) -> str:
        """The files of a split's text, for messages."""
        return ", ".join(map(shown, _listed(self.other_files.get(split) or self.path)))

    def _check_lengths(self, counts: Mapping[str, Counts]) -> None:
        for split, known in counts.items():
            length = self.window_lengths[split]
            if self.documents and known.tokens > 1:
                continue  # documents may be shorter than a window
            if known.tokens <= length:
                key = "test_length" if length != self.window_lengths["train"] else "length"
                raise ValueError(
                    f"{self._files(split)}: the {split} text has {known.tokens} tokens, but a "
                    f"window needs {length + 1} (data.{key}={length} and the token to predict); "
                    f"use a longer text, or a smaller data.{key}"
                )

    def _blocks(self, split: str) -> Iterator[NDArray[np.int64]]:
        """The ids of a split in blocks; a block begins with the last id of the previous one."""
        ids, lowest = self._loaded.ids[check_split(split)], self.text_vocabulary.lowest
        for start in range(0, len(ids) - 1, _BLOCK):
            yield ids[start : start + _BLOCK + 1].astype(np.int64) + lowest

    def _frequencies(self, split: str) -> Table:
        """The number of times each token is a target in a split, (V,)."""

        def count() -> Table:
            counts = np.zeros(len(self.text_vocabulary), dtype=np.int64)
            for block in self._blocks(split):
                np.add.at(counts, block[1:], 1)
            return counts

        return self._loaded.cached_counts(f"{check_split(split)}.tokens", count)

    def _pairs(self, split: str) -> Table:
        """The number of times each token (row) precedes each token (column), (V, V)."""
        size = len(self.text_vocabulary)

        def count() -> Table:
            counts = np.zeros((size, size), dtype=np.int64)
            for block in self._blocks(split):
                np.add.at(counts, (block[:-1], block[1:]), 1)
            return counts

        return self._loaded.cached_counts(f"{check_split(split)}.pairs", count)

    def _metrics(self, split: str, nats: Any, right: Any) -> dict[str, float]:
        """The metrics of a language model, from sums over the targets."""
        targets = self._loaded.counts[split].tokens - 1
        loss = float(nats / targets)
        return {
            "loss": loss,
            "perplexity": math.exp(loss),
            "accuracy": float(right / targets),
            "bits_per_character": loss / math.log(2) / self.characters_per_token(split),
        }


class Windows:
    """A split as consecutive windows of a text, read from disk when selected.

    Args:
        ids: the text's token ids minus ``lowest``, (N,) with N > 1.
        lowest: offset of the ids.
        length: tokens in a window; the last may have fewer.
    """

    def __init__(self, ids: Ids, lowest: int, length: int) -> None:
        self._ids, self._lowest, self._length = ids, lowest, length
        self._num_targets = len(ids) - 1

    def lengths(self) -> Tensor:
        """The lengths of the windows, (windows, 1) int64."""
        lengths = torch.full((-(-self._num_targets // self._length), 1), self._length)
        lengths[-1] = self._num_targets - self._length * (len(lengths) - 1)
        return lengths

    def select(self, rows: Tensor) -> LabelledPositions:
        """The given windows as a batch; labels are the next tokens."""
        starts = self._length * rows.numpy()
        lengths = np.minimum(self._length, self._num_targets - starts)
        steps = np.arange(lengths.max() + 1)
        places = np.minimum(starts[:, None] + steps, self._num_targets)
        tokens = self._ids[places].astype(np.int64) + self._lowest
        real = steps[:-1] < lengths[:, None]
        inputs = np.where(real, tokens[:, :-1], PAD)
        labels = np.where(real, tokens[:, 1:], IGNORE)
        batch = LabelledPositions(*map(torch.from_numpy, (inputs, labels, lengths)))
        return batch._replace(labelled=labelled_positions(batch.labels))


def _warn_of_shared_files(splits: Mapping[str, Sequence[Piece]]) -> None:
    for (earlier, some), (later, others) in combinations(splits.items(), 2):
        for path in map(shown, duplicate_files(some, others)):
            warnings.warn(
                f"{path}: this {later} text is also a {earlier} text: scores on it may be inflated "
                "by leakage",
                stacklevel=2,
            )


def _warn_of_shared_passages(files: str, split: str, counts: Counts) -> None:
    if counts.shared > _TOLERATED_SHARE * counts.passages:
        warnings.warn(
            f"{files}: {counts.shared} of {counts.passages} passages of {PASSAGE_LENGTH} tokens of "
            f"the {split} text are also in the training text: scores may be inflated by leakage",
            stacklevel=2,
        )


def _listed(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths or ())
