"""A language model of four letters."""

from pathlib import Path

import torch

from attention_lab.data.core.batches import LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.vocabulary import Characters
from tests.conftest import Compose
from tests.runs import train


class Alphabet(LanguageModelDataModule):
    """Windows of letters in their order, a b c d a b c d …, and of lines in between."""

    monitor = "loss"
    mode = "min"

    def __init__(self, batch_size: int = 8, length: int = 8, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.length = length
        self.text_vocabulary = self.vocabulary = Characters("abcd\n")

    def load(self) -> dict[str, LabelledPositions]:
        """Every window, in every split."""
        ids = torch.tensor(self.vocabulary.encode("abcd\n" * self.length))
        windows = ids.unfold(0, self.length + 1, 1)
        inputs, labels = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        whole = LabelledPositions(
            inputs, labels, torch.full((len(ids) - self.length,), self.length)
        )
        return dict.fromkeys(("train", "validation", "test"), whole)

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of a window."""
        return {"vocab_size": len(self.vocabulary), "max_length": self.length}

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Of knowing how many characters there are."""
        return {"loss": 1.6}

    def position_labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The characters."""
        return [{"input": list(self.vocabulary.decode(row))} for row in batch.inputs.tolist()]


def language_run(compose: Compose, directory: Path, *overrides: str) -> Path:
    """A finished run of a tiny decoder on them."""
    config = compose("data=recall", "trainer=cpu", "logger=csv", "model.d_model=16", *overrides)
    train({**config, "data": {"_target_": f"{__name__}.Alphabet"}}, directory, [])
    return directory
