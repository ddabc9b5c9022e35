"""Handwritten digits as sequences of rows or of pixels."""

from typing import Literal

import torch

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.classification import ClassificationDataModule
from attention_lab.data.core.slices import Slices, by_class
from attention_lab.data.core.splits import split_by_hash

CLASSES, ROWS, COLUMNS, BRIGHTEST = 10, 8, 8, 16


class Digits(ClassificationDataModule):
    """Handwritten digits as sequences of 8 rows or of 64 pixels (scikit-learn).

    Example: an image of a 3, (8, 8) with values from 0 to 1 → 3. As pixels it is (64, 1), row by
    row, so a model can infer the row and the column from the position only.

    Images are split by a hash of their index: 1,251 (70 %) training, 176 (10 %) validation and 370
    (20 %) test.

    Known shortcut (``shortcut_baselines``): images are centered and have the same size, so the
    nearest class mean has a high accuracy. Also, the same 13 people wrote the digits of all splits.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository; scikit-learn ships its test set of 1797 images.

    Args:
        read: "rows" for 8 vectors of 8 features, "pixels" for 64 vectors of one feature.
        batch_size: largest number of examples in a batch, per process.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self, read: Literal["rows", "pixels"] = "rows", batch_size: int = 32, seed: int = 0
    ) -> None:
        super().__init__(batch_size, seed)
        if read not in ("rows", "pixels"):
            raise ValueError(f"read must be rows or pixels, got {read!r}")
        self.length, self.features = (ROWS, COLUMNS) if read == "rows" else (ROWS * COLUMNS, 1)

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
        inputs = inputs.reshape(-1, self.length, self.features)
        labels = torch.tensor(digits.target, dtype=torch.int64)
        images = split_by_hash(map(str, range(len(labels))), train=0.7, validation=0.1)
        rows = {split: torch.tensor(list(map(int, chosen))) for split, chosen in images.items()}
        return {split: LabelledSequences(inputs, labels).select(rows[split]) for split in rows}

    def model_arguments(self) -> dict[str, int]:
        """The number of features and of classes, and the length of a sequence."""
        return {"in_features": self.features, "num_classes": CLASSES, "max_length": self.length}

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of the class whose mean training image is nearest (Euclidean distance)."""
        train, images = self.split("train"), self.split(split).inputs.flatten(1).double()
        of_class = (train.inputs[train.labels == label] for label in range(CLASSES))
        means = torch.stack([inputs.flatten(1).double().mean(0) for inputs in of_class])
        nearest = torch.cdist(images, means).argmin(1)
        return {"nearest class mean": self.accuracy(split, nearest)}

    def slices(self, split: str) -> Slices:
        """By class."""
        return by_class([str(digit) for digit in range(CLASSES)])

    def position_labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The rows of each image from the top, or its pixels row by row."""
        names = [f"row {row}" for row in range(1, ROWS + 1)]
        if self.features == 1:
            names = [f"{row}, {column}" for row in names for column in range(1, COLUMNS + 1)]
        return [{"input": names} for _ in batch.labels]
