"""What datasets for causal language models have in common."""

from typing import ClassVar

from attention_lab.data.core.batches import LabelledPositions
from attention_lab.data.core.splits import SplitDataModule
from attention_lab.data.core.vocabulary import TextVocabulary


class LanguageModelData(SplitDataModule[LabelledPositions]):
    """A dataset for models that read from left to right and say what comes next."""

    task = "language_model"

    #: Metrics besides the loss: "perplexity", "accuracy" (of labelled positions),
    #: "sequence_accuracy" (all of a sequence right), "bits_per_character" (where tokens are text).
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "accuracy", "sequence_accuracy")
    #: How text is made of the tokens; None where they are not of text.
    text_vocabulary: TextVocabulary | None = None

    def characters_per_token(self, split: str) -> float | None:
        """How much text a token stands for in a split; None where tokens are not of text."""
        return None
