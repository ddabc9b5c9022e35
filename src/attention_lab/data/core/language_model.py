"""The base class of datasets for language models."""

from typing import ClassVar

from attention_lab.data.core.batches import LabelledPositions
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.vocabulary import TextVocabulary


class LanguageModelDataModule(SplitDataModule[LabelledPositions]):
    """A dataset for causal language models, which predict the next token."""

    task = "language_model"

    #: Metrics besides the loss: "perplexity", "accuracy" (of labelled positions),
    #: "sequence_accuracy" (sequences without an error), "bits_per_character" (if tokens are text).
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy", "sequence_accuracy")
    #: The vocabulary of text tokens; None if tokens are not text.
    text_vocabulary: TextVocabulary | None = None
    #: Whether rows have several documents each (``LabelledPositions.positions``).
    packing: bool = False

    def characters_per_token(self, split: str) -> float | None:
        """Characters per token of a split; None if tokens are not text."""
        return None
