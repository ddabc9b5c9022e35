"""Sorting a sequence of symbols."""

import numpy as np
from numpy.typing import NDArray

from attention_lab.data.synthetic.generated_pairs import SymbolPairs


class Sort(SymbolPairs):
    """Sort a sequence of random symbols.

    Example: 7 31 0 7 → 0 7 7 31.

    Sorting as a task for networks with attention: Vinyals et al. 2016, "Order matters: sequence to
    sequence for sets", arXiv 1511.06391 (floating-point numbers, with a pointer network).
    Here the numbers are tokens, and the model must learn their order. Sizes and lengths are those
    of :class:`~attention_lab.data.synthetic.reversal.Reverse`, so the tasks are comparable.

    Known shortcuts: the length of the source and the position in the target make some numbers more
    probable (``trivial_baseline``). A copy of the source has the right symbols, and for short
    sources often the right order (``shortcut_baselines``).

    Arguments and errors are those of :class:`SymbolPairs`.
    """

    def origins(self, symbols: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        absent = np.arange(symbols.shape[1]) >= lengths
        # Positions after the end of a row get the greatest value, so they stay after it.
        return np.argsort(np.where(absent, self.symbols, symbols), axis=1, kind="stable")

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy and error rate of copying the source."""
        return {"copy": self.scores(self.copies(split), split)}
