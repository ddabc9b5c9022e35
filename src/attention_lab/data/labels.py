"""A user's own texts, each with a label."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_lab.attention.checks import check_positive
from attention_lab.data.batches import LabelledSequences, pad
from attention_lab.data.labelled_sequences import LabelledSequencesData
from attention_lab.data.splits import SPLITS, split_by_hash
from attention_lab.data.tsv import read_columns
from attention_lab.data.vocabulary import PAD, UNK, TextVocabulary, Tokens, vocabulary_of


class _Line(NamedTuple):
    text: str
    label: str
    place: str  # the file and the line in it, for messages


class Labels(LabelledSequencesData):
    """Which label has this text? On files of the user's own.

    Example, a line of such a file, with a tab between text and label: a fine film → good.

    The files are UTF-8. What is not given is dealt off the training file by a hash of the text, so
    that equal texts stay together: a tenth for validation, a tenth for testing. Tokens and labels
    are those of the training split; other tokens are read as unknown, which is warned of. So is a
    text of the training split that comes up in another one.

    Known shortcut: the tokens without their order, which naive Bayes goes by (``shortcuts``).

    Args:
        train: path of the file to train on.
        validation: path of the file to validate on; None takes a tenth of ``train``.
        test: path of the file to test on; None takes a tenth of ``train``.
        tokens: "characters", "words" between white space, "bytes" or "bpe" (byte pairs, trained on
            the training texts).
        vocabulary: number of tokens; for "bpe" only.
        batch_size: largest number of examples in a batch, per process.
        seed: of the order of the training batches, and of nothing else.

    Raises:
        ValueError: if ``train`` is None, a number is below 1, or the seed is below 0; while
            loading, if a file is no such file, naming its line.
    """

    vocabularies = ("text_vocabulary",)

    text_vocabulary: TextVocabulary
    #: The names of the classes, by their numbers.
    classes: list[str]

    def __init__(
        self,
        train: str | None = None,
        validation: str | None = None,
        test: str | None = None,
        tokens: Tokens = "characters",
        vocabulary: int = 1024,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if train is None:
            raise ValueError("data.train must name a file with lines text TAB label")
        check_positive(vocabulary=vocabulary)
        self.train_file, self.other_files = train, {"validation": validation, "test": test}
        self.tokens, self.vocabulary = tokens, vocabulary

    def load(self) -> dict[str, LabelledSequences]:
        """Read the files, number the tokens and labels of the training split, encode each split.

        Raises:
            ValueError: naming the file, and the line if it is one line's fault.
        """
        lines = self._lines()
        texts = [line.text for line in lines["train"]]
        self.text_vocabulary = vocabulary_of(self.tokens, texts, self.vocabulary)
        self.classes = sorted({line.label for line in lines["train"]})
        if len(self.classes) == 1:
            raise ValueError(
                f"{self.train_file}: every training line has the label {self.classes[0]!r}"
            )
        for split in SPLITS[1:]:
            _check_labels(lines[split], set(self.classes))
            _warn_of_shared_texts(split, lines[split], set(texts))
        encoded = {split: self._encoded(lines[split]) for split in SPLITS}
        for split in SPLITS[1:]:
            _warn_of_unknown_tokens(split, encoded[split].inputs)
        return encoded

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "classes": self.classes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict["classes"] != self.classes:
            raise ValueError(
                "data: the labels are not the checkpoint's, so the data has changed since; "
                "evaluate it as it was, or train again"
            )

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self.classes = list(state["classes"])

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary, of the set of classes, and of the longest text."""
        return {
            "vocabulary": len(self.text_vocabulary),
            "classes": len(self.classes),
            "length": self.longest()[0],
        }

    def shortcuts(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of naive Bayes on the tokens, whatever their order (add-one smoothing)."""
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
        return {"tokens without order": self.right(split, scores.argmax(1))}

    def labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The tokens of each text."""
        return [
            {"input": [self.text_vocabulary.token(id) for id in row if id != PAD]}
            for row in batch.inputs.tolist()
        ]

    def _lines(self) -> dict[str, list[_Line]]:
        """The lines of each split."""
        train = _read(self.train_file)
        given = {split: _read(path) for split, path in self.other_files.items() if path is not None}
        missing = [split for split in self.other_files if split not in given]
        share = 0.1 if "validation" in missing else 0.0
        dealt = split_by_hash({line.text for line in train}, 1 - 0.1 * len(missing), share)
        lines = {"train": train, **given}
        for split in missing and ["train", *missing]:
            texts = set(dealt[split])
            lines[split] = [line for line in train if line.text in texts]
            if not lines[split]:
                raise ValueError(
                    f"{self.train_file}: too few different texts to leave any for {split}; "
                    "name files for data.validation and data.test"
                )
        return lines

    def _encoded(self, lines: Sequence[_Line]) -> LabelledSequences:
        number = {label: number for number, label in enumerate(self.classes)}
        return LabelledSequences(
            inputs=pad(self.text_vocabulary.read(line.text) for line in lines),
            labels=torch.tensor([number[line.label] for line in lines]),
        )


def _read(path: str) -> list[_Line]:
    rows = enumerate(read_columns(path, ("text", "label")), start=1)
    return [_Line(text, label, f"{path}, line {number}") for number, (text, label) in rows]


def _check_labels(lines: Sequence[_Line], known: set[str]) -> None:
    for line in lines:
        if line.label not in known:
            raise ValueError(f"{line.place}: the label {line.label!r} is not in the training split")


def _warn_of_shared_texts(split: str, lines: Sequence[_Line], trained: set[str]) -> None:
    shared = sum(line.text in trained for line in lines)
    if shared:
        warnings.warn(
            f"{shared} of the {len(lines)} {split} texts are in the training split as well: "
            "remembering them is enough",
            stacklevel=2,
        )


def _warn_of_unknown_tokens(split: str, inputs: Tensor) -> None:
    unknown = int((inputs == UNK).sum())
    if unknown:
        warnings.warn(
            f"{unknown} of the {int((inputs != PAD).sum())} {split} tokens do not occur in "
            "the training split and are read as unknown",
            stacklevel=2,
        )
