"""Classification data from the user's files of texts and labels."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from attention_lab.data.core.batches import LabelledSequences, pad
from attention_lab.data.core.classification import ClassificationDataModule
from attention_lab.data.core.slices import Slices, by_quantile
from attention_lab.data.core.splits import SPLITS, split_shares
from attention_lab.data.core.vocabulary import (
    PAD,
    UNK,
    TextVocabulary,
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

_COLUMNS = ("text", "label")


class _Line(NamedTuple):
    text: str
    label: str
    place: str  # file and line, for messages


class Labels(ClassificationDataModule):
    """Your texts and their labels, from files with one line "text TAB label" per text.

    Example: a fine film → good.

    The files are UTF-8, and may be compressed (``.gz``, ``.zst``). A split without a file gets 5 %
    of the training texts. They are chosen by a hash of the text, so equal texts are in one split.
    The vocabulary and the classes are those of the training split; other tokens become <unk>.
    Warnings give the number of such tokens, and of texts that two splits share. With ``whitespace``
    tokens, repeated spaces count as one.

    Known shortcut (``shortcut_baselines``): naive Bayes, which ignores the order of the tokens.

    Args:
        train: path of the file to train on.
        validation: path of the file to validate on; None takes a part of ``train``.
        test: path of the file to test on; None takes a part of ``train``.
        columns: the columns of text and label, if the files are tables (``.csv``, ``.jsonl``,
            ``.parquet``, ``.arrow``, or directories of these); None for "text" and "label".
        tokens: "characters", "whitespace" (words), "bytes" or "bpe" (byte pairs, trained on the
            training texts).
        vocab_size: number of tokens, for "bpe" only; None for 1024.
        source: "files", or "hub" for a dataset of the Hugging Face hub. ``train``,
            ``validation`` and ``test`` are then names of its splits; None means "train" for the
            first, and a part of it for the others.
        name: the name of the dataset on the hub: "Helsinki-NLP/opus_books".
        subset: the name of its subset ("en-fr"), if it has several.
        revision: its commit hash, branch or tag; None means the newest.
        batch_size: largest number of examples in a batch, per process.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if there is no training file, a number is below 1, or the seed is below 0; while
            loading, if a line is not of this format, naming the file and the line.
    """

    vocabularies = ("text_vocabulary",)
    files = ("train", "validation", "test")
    default_columns = _COLUMNS

    text_vocabulary: TextVocabulary
    #: The names of the classes.
    classes: list[str]

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        columns: Sequence[str] | None = None,
        tokens: Tokens = "characters",
        vocab_size: int | None = None,
        source: Literal["files", "hub"] = "files",
        name: str | None = None,
        subset: str | None = None,
        revision: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.hub = hub_dataset(source, name, subset, revision)
        given = train or ("train" if self.hub else None)
        self.train_file = required("train", given, "a UTF-8 file of lines text TAB label")
        self.other_files = {"validation": validation, "test": test}
        self.shares = split_shares(split for split, path in self.other_files.items() if path)
        self.columns = check_columns(columns, _COLUMNS)
        self.tokens, self.vocab_size = tokens, check_vocab_size(vocab_size, tokens)

    def load(self) -> dict[str, LabelledSequences]:
        """Read the files, build the vocabulary and the classes, and encode each split.

        Raises:
            ValueError: naming the file, and the line if only one is wrong.
        """
        lines = self._lines()
        texts = [line.text for line in lines["train"]]
        self.text_vocabulary = build_vocabulary(self.tokens, texts, self.vocab_size)
        self.classes = sorted({line.label for line in lines["train"]})
        if len(self.classes) == 1:
            raise ValueError(
                f"{shown(self.train_file)}: every training line has the label {self.classes[0]!r}"
            )
        for split in SPLITS[1:]:
            self._check_labels(split, lines[split])
        warn_about_shared_examples(
            {split: [line.text for line in lines[split]] for split in SPLITS}, "texts"
        )
        encoded = {split: self._encoded(lines[split]) for split in SPLITS}
        for split in SPLITS[1:]:
            inputs = encoded[split].inputs
            unknown, tokens = (int(found.sum()) for found in (inputs == UNK, inputs != PAD))
            warn_about_unknown_tokens(
                shown(self.other_files[split] or self.train_file), split, unknown, tokens
            )
        return encoded

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "classes": self.classes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict["classes"] != self.classes:
            raise ValueError(
                "data: the labels differ from the checkpoint's, so the data has changed since "
                "training; restore it, or train again"
            )

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.classes = list(state["classes"])

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary, of the set of classes, and of the longest text."""
        return {
            "vocab_size": len(self.text_vocabulary),
            "num_classes": len(self.classes),
            "max_length": self.longest()[0],
        }

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of naive Bayes on bags of tokens, with add-one smoothing."""
        train, chosen = self.split("train"), self.split(split)
        counts = torch.ones(len(self.text_vocabulary), len(self.classes), dtype=torch.float64)
        labels = train.labels.unsqueeze(1).expand_as(train.inputs)
        counts.index_put_((train.inputs, labels), counts.new_tensor(1.0), accumulate=True)
        counts[PAD] = 0
        evidence = (counts / counts.sum(0)).log()
        evidence[PAD] = 0
        scores = train.labels.bincount().double().log().repeat(len(chosen.labels), 1)
        for tokens in chosen.inputs.T:
            scores += evidence[tokens]
        return {"tokens without order": self.accuracy(split, scores.argmax(1))}

    def slices(self, split: str) -> Slices:
        """By length in tokens, with about the same number of training texts per slice."""

        def length_of(batch: LabelledSequences) -> Tensor:
            return batch.lengths()[:, 0]

        return by_quantile(length_of(self.split("train")), length_of)

    def position_labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The tokens of each text."""
        return [
            {"input": [self.text_vocabulary.token(id) for id in row if id != PAD]}
            for row in batch.inputs.tolist()
        ]

    def _lines(self) -> dict[str, list[_Line]]:
        """The lines of each split."""
        given = {split: self._read(path) for split, path in self.other_files.items() if path}
        train = self._read(self.train_file)
        return assign_splits(self.train_file, train, given, self.shares, "texts")

    def _read(self, path: str) -> list[_Line]:
        return [
            _Line(normalize_whitespace(text, self.tokens), label, place)
            for place, (text, label) in read_examples(path, _COLUMNS, self.columns, self.hub)
        ]

    def _encoded(self, lines: Sequence[_Line]) -> LabelledSequences:
        number = {label: number for number, label in enumerate(self.classes)}
        return LabelledSequences(
            inputs=pad(self.text_vocabulary.encode(line.text) for line in lines),
            labels=torch.tensor([number[line.label] for line in lines]),
        )

    def _check_labels(self, split: str, lines: Sequence[_Line]) -> None:
        for line in lines:
            if line.label in self.classes:
                continue
            if self.other_files[split]:
                raise ValueError(f"{line.place}: no training text has the label {line.label!r}")
            raise ValueError(
                f"{line.place}: the label {line.label!r} is too rare to split: this text is in "
                f"{split}, and no training text has its label; add such lines, or use "
                f"data.{split}=FILE"
            )
