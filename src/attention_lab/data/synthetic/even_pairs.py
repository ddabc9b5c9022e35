"""Even pairs: whether the number of pairs ab and ba in a string is even."""

import numpy as np
import torch
from numpy.typing import NDArray

from attention_lab.data.synthetic.binary_strings import BinaryStrings


class EvenPairs(BinaryStrings):
    """Classify strings by whether the number of ab and ba is even (Delétang et al. 2023).

    Example: a a b b a → 0, with one ab and one ba. Class 0 is even, and class 1 is odd.

    As published ("Neural Networks and the Chomsky Hierarchy", arXiv 2207.02098, appendix A
    and its code): the length is drawn uniformly from 1 to 40, then each symbol uniformly.
    Deviations: test strings have lengths of 41 to 100, which a CPU can handle, instead of 41 to 500
    (``test_lengths: [41, 500]``), and training examples are a fixed set, not drawn anew for each
    batch.

    Known shortcut (``shortcut_baselines``): the number is even if and only if the first and
    the last symbol are equal. So a model need not count.

    Arguments and errors are those of :class:`BinaryStrings`.
    """

    def odd(self, is_b: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        within = np.arange(1, is_b.shape[1]) < lengths[:, None]
        return ((is_b[:, 1:] != is_b[:, :-1]) & within).sum(1) % 2 == 1

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of comparing the first symbol with the last."""
        batch = self.split(split)
        last = batch.inputs.gather(1, batch.lengths() - 1)[:, 0]
        differ = (batch.inputs[:, 0] != last).to(torch.int64)
        return {"first and last symbol": self.accuracy(split, differ)}
