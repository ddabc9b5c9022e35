"""Sorting: write it from small to large."""

import numpy as np
from numpy.typing import NDArray

from attention_lab.data.synthetic.generated_pairs import SymbolPairs


class Sort(SymbolPairs):
    """Random symbols, to be written from the smallest to the largest number.

    Example: 7 31 0 7 → 0 7 7 31.

    Sorting as a task for networks with attention: Vinyals et al. 2016, "Order matters: sequence to
    sequence for sets", arXiv 1511.06391 (of floating-point numbers, by pointing at them).
    Here the numbers are tokens, whose order is to be learned; numbers and lengths are those of
    :class:`~attention_lab.data.synthetic.reversal.Reverse`, so that the two compare.

    Known shortcuts: the length of the source and the position in the target tell roughly which
    number comes there; ``floor`` uses that. A copy has all the right symbols (``shortcuts``), and
    has them in order where there are few.

    Arguments and errors are those of :class:`SymbolPairs`.
    """

    def answer(self, symbols: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        absent = np.arange(symbols.shape[1]) >= lengths
        return np.sort(np.where(absent, self.symbols, symbols), axis=1)  # they go to the end

    def shortcuts(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy and error rate of copying the source."""
        return {"copy": self.scores(self.as_read(split), split)}
