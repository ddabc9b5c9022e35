"""Even pairs: are there as many changes of symbol as make it even?"""

import numpy as np
import torch
from numpy.typing import NDArray

from attention_lab.data.synthetic.binary_strings import BinaryStrings


class EvenPairs(BinaryStrings):
    """Is the number of ab and ba even (class 0) or odd (class 1)? (Delétang et al. 2023).

    Example: a a b b a → 0, with one ab and one ba.

    As published ("Neural Networks and the Chomsky Hierarchy", arXiv 2207.02098, appendix A
    and its code): a length is drawn first, each from 1 to 40 as likely as another, then every
    symbol by the toss of a coin. There, tests go on strings of 41 to 500
    (``test_lengths: [41, 500]``), and every batch is drawn anew; here they go up to 100, which a
    CPU can bear, and the training examples are a fixed set.

    Known shortcut: the number is even just where the first symbol is the last one, too, so nobody
    needs to count: to look at both ends is enough (``shortcut_baselines``).

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
