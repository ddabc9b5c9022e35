"""Reversing a sequence of symbols."""

import numpy as np
from numpy.typing import NDArray

from attention_lab.data.synthetic.generated_pairs import SymbolPairs, backwards


class Reverse(SymbolPairs):
    """Reverse a sequence of random symbols.

    Example: 7 31 0 7 → 7 0 31 7.

    The defaults are those of the tutorial of Joey NMT (Kreutzer et al. 2019, arXiv 1907.12484;
    generate_reverse_task.py): 50,000 training sequences of 1 to 25 integers from 0 to 49, with
    uniform lengths, and 1,000 test sequences of up to 30. Deviations: validation has the lengths of
    training, so that longer sequences do not influence the choice of a checkpoint, and splits share
    no sequence.

    Known shortcut: none. Position i of the target is position n + 1 − i of the source, so a model
    that counts positions from the beginning only can at best copy. A copy is right for palindromes
    only (``shortcut_baselines``).

    Arguments and errors are those of :class:`SymbolPairs`.
    """

    def origins(self, symbols: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return backwards(np.broadcast_to(np.arange(symbols.shape[1]), symbols.shape), lengths)

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy and error rate of copying the source."""
        return {"copy": self.scores(self.copies(split), split)}
