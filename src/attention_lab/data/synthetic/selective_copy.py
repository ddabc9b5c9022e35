"""Selective copying: repeat the tokens that are not noise, in order."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.slices import Slices, by_quantile
from attention_lab.data.synthetic.generated import GeneratedDataModule, sample_without_replacement

NOISE = 0


class SelectiveCopy(GeneratedDataModule[LabelledPositions], LanguageModelDataModule):
    """Repeat, in order, tokens at random positions among noise (Gu & Dao 2023).

    Example, with 3 tokens copied in an example of 9: · 4 · · 2 4 > > > → 4 2 4 at the markers >,
    where · is noise.

    As published (Mamba, arXiv 2312.00752, §4.1.1 and appendix E.1, after Jing et al. 2019, "Gated
    orthogonal recurrent units"): 16 tokens from a vocabulary of 16, which includes noise, in a
    length of 4096. As in the authors' code (state-spaces/s4, copying.py), the vocabulary includes
    the marker as well, so 14 different tokens are copied. Tokens are drawn uniformly, positions
    without repetition. All markers are the same token, and the answers are not inputs. Deviation:
    the default length is 256, which a CPU can handle; it includes noise, copies and markers.

    Known shortcuts (``shortcut_baselines``): for the i-th marker, ``place`` predicts the token
    closest to the average position of the i-th token in training; this often fails, because the
    spacing is random. ``frequency`` predicts the most frequent token of the example.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        vocab_size: V, the number of tokens: noise is 0 and the marker V − 1.
        length: number of tokens in an example.
        copied: number of tokens to copy, which is also the number of markers.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range, or the tokens and markers do not fit the length.
    """

    monitor = "accuracy"
    mode = "max"

    def __init__(
        self,
        examples: int = 50_000,
        evaluation_examples: int = 1_000,
        vocab_size: int = 16,
        length: int = 256,
        copied: int = 16,
        batch_size: int = 64,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(examples, evaluation_examples, batch_size, draw_seed, seed)
        check_positive(copied=copied)
        if vocab_size < 4:
            raise ValueError(
                f"vocab_size must be at least 4 (noise, two to copy, a marker), got {vocab_size}"
            )
        if length < 2 * copied:
            raise ValueError(
                f"copied={copied} tokens and as many markers do not fit length={length}"
            )
        self.vocab_size, self.length, self.copied = vocab_size, length, copied

    def draw(self, random: np.random.Generator, count: int, split: str) -> LabelledPositions:
        copied = random.integers(1, self.vocab_size - 1, size=(count, self.copied))
        context = self.length - self.copied
        places = np.sort(sample_without_replacement(random, count, context, self.copied), axis=1)
        inputs = np.full((count, self.length), NOISE)
        inputs[:, context:] = self.vocab_size - 1
        np.put_along_axis(inputs, places, copied, axis=1)
        labels = np.full((count, self.length), IGNORE)
        labels[:, context:] = copied
        lengths = np.full(count, self.length)
        return LabelledPositions(*map(torch.from_numpy, (inputs, labels, lengths)))

    def identity(self, batch: LabelledPositions) -> Tensor:
        places, tokens = self._places_and_tokens(batch)  # far fewer numbers than with the noise
        return torch.from_numpy(np.concatenate([tokens, places], axis=1))

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of an input."""
        return {"vocab_size": self.vocab_size, "max_length": self.length}

    def trivial_baseline(self, split: str) -> dict[str, float]:
        """Accuracy of always predicting the most frequent label in training."""
        _, known = self._places_and_tokens(self.split("train"))
        _, asked = self._places_and_tokens(self.split(split))
        return {"accuracy": float((asked == np.bincount(known.ravel()).argmax()).mean())}

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of the token closest to the average position, and of the most frequent token."""
        average = self._places_and_tokens(self.split("train"))[0].mean(0)
        places, tokens = self._places_and_tokens(self.split(split))
        closest = np.abs(places[:, None, :] - average[:, None]).argmin(2)
        by_place = np.take_along_axis(tokens, closest, axis=1)
        counts = (tokens[:, :, None] == np.arange(self.vocab_size)).sum(1)
        return {
            "place": {"accuracy": float((by_place == tokens).mean())},
            "frequency": {"accuracy": float((counts.argmax(1)[:, None] == tokens).mean())},
        }

    def slices(self, split: str) -> Slices:
        """By the mean distance between a marker and its token, with about as many examples each."""

        def distance_of(batch: LabelledPositions) -> Tensor:
            noise = batch.inputs[:, : self.length - self.copied] == NOISE
            places = torch.arange(noise.shape[1], device=noise.device).expand_as(noise)
            # Markers are consecutive, so their mean position is the same in all examples.
            markers = self.copied * noise.shape[1] + self.copied * (self.copied - 1) // 2
            return (markers - places.masked_fill(noise, 0).sum(1)) // self.copied

        return by_quantile(distance_of(self.split("train")), distance_of, what="distance")

    def position_labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The tokens as numbers, noise as ``·`` and markers as ``>``."""
        names = ["·", *map(str, range(1, self.vocab_size - 1)), ">"]
        return [{"input": [names[token] for token in row]} for row in batch.inputs.tolist()]

    def _places_and_tokens(
        self, batch: LabelledPositions
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions and ids of the tokens to copy, (B, copied) each."""
        context = batch.inputs.numpy()[:, : self.length - self.copied]
        places = np.nonzero(context)[1].reshape(len(context), self.copied)
        return places, np.take_along_axis(context, places, axis=1)
