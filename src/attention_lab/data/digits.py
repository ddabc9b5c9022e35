"""Handwritten digits, read row by row."""

import torch

from attention_lab.data.batches import LabelledSequences
from attention_lab.data.splits import SplitDataModule, split_by_hash

CLASSES, ROWS, COLUMNS, BRIGHTEST = 10, 8, 8, 16


class Digits(SplitDataModule[LabelledSequences]):
    """Handwritten digits as sequences of eight rows of eight pixels (scikit-learn).

    Example: an image of a 3, (8, 8) with values from 0 to 1 → 3.

    An image belongs to one split, by a hash of its number: 1,251 (70 %) to training, 176 (10 %) to
    validation and 370 (20 %) to test.

    Known shortcut: the same 13 people wrote the images of all splits.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository; scikit-learn ships its test set of 1797 images.

    Args:
        batch_size: largest number of examples in a batch, per process.
        seed: of the order of the training batches, and of nothing else.

    Raises:
        ValueError: if the batch size is below 1, or the seed is below 0.
    """

    task = "classification"
    monitor = "accuracy"
    mode = "max"

    def __init__(self, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(batch_size, seed)

    def load(self) -> dict[str, LabelledSequences]:
        """Read the images and split them.

        Raises:
            ImportError: if scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "data=digits needs scikit-learn: pip install 'attention-lab[digits]'"
            ) from error
        digits = load_digits()
        inputs = torch.tensor(digits.images, dtype=torch.float32) / BRIGHTEST
        labels = torch.tensor(digits.target, dtype=torch.int64)
        images = split_by_hash(map(str, range(len(labels))), train=0.7, validation=0.1)
        rows = {split: torch.tensor(list(map(int, chosen))) for split, chosen in images.items()}
        return {split: LabelledSequences(inputs, labels).select(rows[split]) for split in rows}

    def model_arguments(self) -> dict[str, int]:
        """The sizes of a feature vector, of the set of classes, and of a sequence."""
        return {"features": COLUMNS, "classes": CLASSES, "length": ROWS}

    def floor(self, split: str) -> dict[str, float]:
        """Accuracy of always answering the most frequent class of the training split."""
        majority = self.split("train").labels.bincount().argmax()
        return {"accuracy": float((self.split(split).labels == majority).float().mean())}

    def labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The rows of each image, from the top."""
        return [{"input": [f"row {row}" for row in range(1, ROWS + 1)]} for _ in batch.labels]
