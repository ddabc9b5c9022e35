"""Copying a sequence of symbols."""

import numpy as np
from numpy.typing import NDArray

from attention_lab.data.synthetic.generated_pairs import SymbolPairs


class Copy(SymbolPairs):
    """Copy a sequence of random symbols (Graves et al. 2014).

    Example: 7 31 0 7 → 7 31 0 7.

    After "Neural Turing machines", arXiv 1410.5401, §4.1, where the symbols are random vectors of 8
    bits, lengths are 1 to 20, and test goes up to 120. Here symbols are tokens. Sizes and lengths
    are those of :class:`~attention_lab.data.synthetic.reversal.Reverse`, so the tasks are
    comparable.

    Known shortcut (``shortcut_baselines``): position i of the target is position i of the
    source. So attention by position alone is enough for positions that occur in training.

    Arguments and errors are those of :class:`SymbolPairs`.
    """

    def origins(self, symbols: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.broadcast_to(np.arange(symbols.shape[1]), symbols.shape)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy and error rate of copying the positions that occur in training."""
        _, longest = self.lengths["train"]
        return {
            "trained positions": self.scores([row[:longest] for row in self.copies(split)], split)
        }
