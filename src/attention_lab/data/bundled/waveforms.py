"""MNIST-1D: digits as short noisy waves."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.classification import ClassificationDataModule
from attention_lab.data.core.slices import Slices, by_class
from attention_lab.data.core.splits import split_by_hash

CLASSES, SAMPLES = 10, 40


class Waveforms(ClassificationDataModule):
    """MNIST-1D: ten digits as noisy waves of 40 samples (Greydanus & Kobak 2020).

    Example: 40 samples, mostly noise, with the template of a 3 → 3.

    The authors' generator, package ``mnist1d``, pads, stretches, scales and shifts a template,
    adds noise, shears and resamples it, and standardizes all waves together, test included. Of
    5,000 waves, 4,000 are for training and 1,000 for test, as published. Here a hash of the index
    assigns a tenth of the training waves to validation, so 3,572 are training and 428 validation.

    Published accuracies: logistic regression 32 %, multilayer perceptron 68 %, convolutional
    network 94 %, GRU 91 %, human 96 %. With shuffled samples, the convolutional network has 56 %,
    the GRU 57 %, and a human about 30 %; the other accuracies stay the same.

    Known shortcut: none. ``shortcut_baselines`` gives logistic regression for comparison.

    Source: Greydanus & Kobak, "Scaling Down Deep Learning with MNIST-1D", arXiv 2011.14439.

    Args:
        examples: number of waves, equally many of each class; 80 % are training and validation.
        shuffled: whether the samples are in a random order, which is the same for all waves.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the waves.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self,
        examples: int = 5_000,
        shuffled: bool = False,
        batch_size: int = 100,
        draw_seed: int = 42,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        if examples < 100 or examples % CLASSES:
            raise ValueError(f"examples must be a multiple of 10 and at least 100, got {examples}")
        if not 0 <= draw_seed < 2**32:
            raise ValueError(f"draw_seed must be from 0 to 2³² − 1, got {draw_seed}")
        self.examples, self.shuffled, self.draw_seed = examples, shuffled, draw_seed

    def load(self) -> dict[str, LabelledSequences]:
        """Generate the waves and split them.

        Raises:
            ImportError: if mnist1d is not installed.
        """
        try:
            from mnist1d.data import get_dataset_args, make_dataset
        except ImportError as error:
            raise ImportError(
                "data=waveforms needs mnist1d: pip install 'attention-lab[waveforms]'"
            ) from error
        recipe = get_dataset_args()
        recipe.num_samples, recipe.shuffle_seq = self.examples, self.shuffled
        recipe.seed = self.draw_seed
        with _keep_global_rng_state():
            made = make_dataset(recipe)
        train = _labelled(made["x"], made["y"])
        kept = split_by_hash(map(str, range(len(train.labels))), train=0.9, validation=0.1)
        return {
            "train": train.select(torch.tensor(list(map(int, kept["train"])))),
            "validation": train.select(torch.tensor(list(map(int, kept["validation"])))),
            "test": _labelled(made["x_test"], made["y_test"]),
        }

    def model_arguments(self) -> dict[str, int]:
        """The number of features and of classes, and the length of a sequence."""
        return {"in_features": 1, "num_classes": CLASSES, "max_length": SAMPLES}

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of logistic regression on the samples."""
        train = self.split("train")
        weights = torch.zeros(SAMPLES + 1, CLASSES, dtype=torch.float64, requires_grad=True)
        samples = _with_bias(train.inputs)
        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(samples @ weights, train.labels)
            value.backward()
            return value

        optimizer.step(loss)
        answers = (_with_bias(self.split(split).inputs) @ weights.detach()).argmax(1)
        return {"logistic regression": self.accuracy(split, answers)}

    def slices(self, split: str) -> Slices:
        """By class."""
        return by_class([str(digit) for digit in range(CLASSES)])

    def position_labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The numbers of the samples, from 1."""
        return [{"input": [str(place) for place in range(1, SAMPLES + 1)]} for _ in batch.labels]


def _labelled(waves: Any, classes: Any) -> LabelledSequences:
    inputs = torch.tensor(waves, dtype=torch.float32).unsqueeze(2)
    return LabelledSequences(inputs, torch.tensor(classes, dtype=torch.int64))


def _with_bias(inputs: Tensor) -> Tensor:
    """The samples of each wave, then 1 for the bias, (N, 41) float64."""
    return F.pad(inputs.squeeze(2).double(), (0, 1), value=1.0)


@contextmanager
def _keep_global_rng_state() -> Iterator[None]:
    """Restore the global RNG states of Python and numpy at the end, as mnist1d seeds them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
