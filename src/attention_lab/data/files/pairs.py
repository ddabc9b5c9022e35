"""Sequence-to-sequence data from the user's files of pairs."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from attention_lab.data.core.batches import SequencePairs, pad
from attention_lab.data.core.sequence_metrics import (
    MODES,
    TEXT_METRICS,
    MetricName,
    Reference,
    SequenceMetrics,
    TextReference,
)
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.slices import Slices, by_length
from attention_lab.data.core.splits import check_split, split_shares
from attention_lab.data.core.vocabulary import (
    BOS,
    EOS,
    PAD,
    UNK,
    Tokens,
    build_vocabulary,
    check_vocab_size,
)
from attention_lab.data.files.examples import check_columns, read_examples
from attention_lab.data.files.hub import hub_dataset
from attention_lab.data.files.paths import required, shown
from attention_lab.data.files.split_warnings import (
    warn_about_shared_examples,
    warn_about_unknown_tokens,
)
from attention_lab.data.files.tab_separated import assign_splits, normalize_whitespace

#: The default metrics of sequences of characters, and of texts.
_SYMBOL_METRICS = ("token_error_rate", "sequence_error_rate")
_WORD_METRICS = ("token_error_rate", "bleu", "chrf")

_COLUMNS = ("source", "target")
#: Source and target.
Line = tuple[str, str]


class Pairs(SequenceToSequenceDataModule):
    """Your pairs of texts, from files with one line "source TAB target" per pair.

    Example: "nineteen TAB 19" is n i n e t e e n → 1 9.

    A source may have several targets, one per line. Training has a row for each line. Validation
    and test have a row for each source: its target is the first in the file, but all of them are
    references. A split without a file gets 5 % of the training sources, chosen by a hash
    of the source. Vocabularies are built from the remaining training lines; other tokens become
    <unk>. Warnings give the number of such tokens, and of sources that two splits share. With
    ``whitespace`` tokens, repeated spaces count as one.

    If either side is characters, the metrics are ``token_error_rate`` and ``sequence_error_rate``.
    Otherwise they are ``token_error_rate``, ``bleu`` and ``chrf``; the last two compare with the
    text in the file. ``metrics`` replaces them by others
    (:class:`~attention_lab.data.core.sequence_metrics.SequenceMetrics`), such as ``[per,wer]`` for
    targets that are phonemes. ``monitor`` is the first metric by default.

    Known shortcut (``shortcut_baselines``): copying, if source and target are similar.

    Args:
        train: the training file, in UTF-8; may be compressed (``.gz``, ``.zst``).
        validation: the validation file; None takes a part of ``train``.
        test: the test file; None takes a part of ``train``.
        columns: the columns of source and target, if the files are tables (``.csv``, ``.jsonl``,
            ``.parquet``, ``.arrow``, or directories of these); None for "source" and "target".
        source_tokens: "characters", "whitespace" (words), "bytes" or "bpe" (byte pairs, trained on
            the training sources).
        target_tokens: likewise.
        vocab_size: number of tokens on each side, for "bpe" only; None for 1024.
        source: "files", or "hub" for a dataset of the Hugging Face hub. ``train``,
            ``validation`` and ``test`` are then names of its splits; None means "train" for the
            first, and a part of it for the others.
        name: the name of the dataset on the hub: "Helsinki-NLP/opus_books".
        subset: the name of its subset ("en-fr"), if it has several.
        revision: its commit hash, branch or tag; None means the newest.
        metrics: the metrics; None means those that suit the tokens.
        monitor: the metric by which checkpoints and runs are compared; None means the first.
        batch_size: largest number of examples in a batch, per process; with ``packing``, of rows
            in a training batch.
        packing: whether training rows have as many pairs as fit, with document masks.
        packed_length: largest number of source tokens, and of target tokens, in a packed row; None
            means 64, or the length of the longest sequence if that is greater.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a number is below 1, the seed is below 0, there is no training file, or
            a metric does not exist or does not suit the tokens.
    """

    files = ("train", "validation", "test")
    default_columns = _COLUMNS

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        columns: Sequence[str] | None = None,
        source_tokens: Tokens = "characters",
        target_tokens: Tokens = "characters",
        vocab_size: int | None = None,
        source: Literal["files", "hub"] = "files",
        name: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        metrics: Sequence[MetricName] | None = None,
        monitor: MetricName | None = None,
        batch_size: int = 128,
        packing: bool = False,
        packed_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, packing, packed_length)
        self.metrics = _checked_metrics(metrics, monitor, source_tokens, target_tokens)
        self.hub = hub_dataset(source, name, subset, revision)
        given = train or ("train" if self.hub else None)
        self.train = required("train", given, "a UTF-8 file of lines source TAB target")
        self.other_files = {"validation": validation, "test": test}
        self.shares = split_shares(split for split, path in self.other_files.items() if path)
        self.columns = check_columns(columns, _COLUMNS)
        self.source_tokens, self.target_tokens = source_tokens, target_tokens
        self.vocab_size = check_vocab_size(vocab_size, source_tokens, target_tokens)
        self.monitor = monitor or self.metrics[0]
        self.mode = MODES[self.monitor]
        self._sources: dict[str, list[str]] = {}
        self._references: dict[str, list[list[Reference]]] = {}

    def load(self) -> dict[str, SequencePairs]:
        """Read the files, assign the lines to splits, and encode each split.

        Raises:
            ValueError: naming the file and line that cannot be read, or the empty split.
        """
        lines = self._lines()
        sources, targets = ([line[side] for line in lines["train"]] for side in (0, 1))
        self.source_vocabulary = build_vocabulary(self.source_tokens, sources, self.vocab_size)
        self.target_vocabulary = build_vocabulary(self.target_tokens, targets, self.vocab_size)
        # A dict counts each source once.
        warn_about_shared_examples({split: dict(lines[split]) for split in lines}, "sources")
        return {split: self._encode(split, lines[split]) for split in lines}

    def references(self, split: str) -> list[list[Reference]]:
        """The accepted targets of each row's source, as token ids without BOS and EOS."""
        return self._references[check_split(split)]

    def metric(self) -> Metric:
        """The chosen metrics of generated targets."""
        return SequenceMetrics(self.metrics, self.target_vocabulary)

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Metrics of always predicting the most frequent training target."""
        targets = Counter(tuple(row) for row in self.split("train").target.tolist())
        (usual, _), *_ = targets.most_common(1)
        ids = [id for id in usual if id not in (PAD, BOS, EOS)]
        return self.scores([ids] * len(self.references(split)), split)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Metrics of copying the source, without tokens that no target has."""
        copies = [
            # An unknown token must not match another unknown token.
            [PAD if id == UNK else id for id in self.target_vocabulary.encode(source)]
            for source in self._sources[check_split(split)]
        ]
        return {"copy": self.scores(copies, split)}

    def slices(self, split: str) -> Slices:
        """By length of the source."""

        def length_of(batch: SequencePairs) -> Tensor:
            return (batch.source != PAD).sum(1)

        lengths = length_of(self.split(split))
        return by_length(int(lengths.amin()), int(lengths.amax()), length_of)

    def _lines(self) -> dict[str, list[Line]]:
        """The lines of each split, in the order of its file."""
        given = {split: self._read(path) for split, path in self.other_files.items() if path}
        return assign_splits(self.train, self._read(self.train), given, self.shares, "sources")

    def _read(self, path: str) -> list[Line]:
        return [
            (
                normalize_whitespace(source, self.source_tokens),
                normalize_whitespace(target, self.target_tokens),
            )
            for _, (source, target) in read_examples(path, _COLUMNS, self.columns, self.hub)
        ]

    def _encode(self, split: str, lines: list[Line]) -> SequencePairs:
        """The rows of a split; also stores their references."""
        encoded = [
            (self.source_vocabulary.encode(source), self.target_vocabulary.encode(target))
            for source, target in lines
        ]
        for option, column in (("source_tokens", 0), ("target_tokens", 1)):
            ids = [id for row in encoded for id in row[column]]
            warn_about_unknown_tokens(self._file(split), split, ids.count(UNK), len(ids), option)
        # By text, not by ids: two texts may differ in unknown words only.
        accepted: dict[str, dict[str, Reference]] = {}
        for (source, target), (_, target_ids) in zip(lines, encoded, strict=True):
            accepted.setdefault(source, {})[target] = TextReference(target_ids, target)
        first = {source: row for row, (source, _) in reversed(list(enumerate(lines)))}
        rows = range(len(lines)) if split == "train" else sorted(first.values())
        self._sources[split] = [lines[row][0] for row in rows]
        self._references[split] = [
            list(accepted[source].values()) for source in self._sources[split]
        ]
        return SequencePairs(
            source=pad(encoded[row][0] for row in rows),
            target=pad([BOS, *encoded[row][1], EOS] for row in rows),
            index=torch.arange(len(rows)),
        )

    def _file(self, split: str) -> str:
        """The file of a split's lines, for messages."""
        return shown(self.other_files.get(split) or self.train)


def _checked_metrics(
    metrics: Sequence[str] | None, monitor: str | None, source_tokens: Tokens, target_tokens: Tokens
) -> list[str]:
    """The metrics to compute: those that were chosen, or those that suit the tokens.

    Raises:
        ValueError: if a metric does not exist or does not suit the tokens, or the monitored metric
            is not computed.
    """
    usual = _SYMBOL_METRICS if "characters" in (source_tokens, target_tokens) else _WORD_METRICS
    chosen: Sequence[str] = usual if metrics is None else metrics
    if metrics is None and monitor is not None and monitor not in usual:
        chosen = [*usual, monitor]
    for name in chosen:
        option = "monitor" if metrics is None else "metrics"
        if name not in MODES:
            raise ValueError(f"{option} must be one of {', '.join(MODES)}, got {name!r}")
        if name in TEXT_METRICS and target_tokens == "characters":
            raise ValueError(
                f"{option}={name} needs text of words; with target_tokens=characters, "
                f"use {' and '.join(_SYMBOL_METRICS)}"
            )
    if not chosen:
        raise ValueError(
            "metrics=[] has no metric; metrics=null chooses metrics that suit the tokens"
        )
    if monitor is not None and monitor not in chosen:
        raise ValueError(f"monitor={monitor} must be one of metrics={list(chosen)}")
    return list(chosen)
