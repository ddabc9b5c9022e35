"""Parity: whether the number of b in a string is even."""

import numpy as np
from numpy.typing import NDArray

from attention_lab.data.synthetic.binary_strings import BinaryStrings


class Parity(BinaryStrings):
    """Classify strings by whether the number of b is even (Delétang et al. 2023).

    Example: a a a b b a → 0. Class 0 is even, and class 1 is odd.

    As published ("Neural Networks and the Chomsky Hierarchy", arXiv 2207.02098, appendix A and its
    code): the length is drawn uniformly from 1 to 40, then each symbol uniformly. Deviations: test
    strings have lengths of 41 to 100, which a CPU can handle, instead of 41 to 500
    (``test_lengths: [41, 500]``), and training examples are a fixed set, not drawn anew for each
    batch.

    Known shortcut: none. As long as one symbol is unknown, both classes are equally likely. Short
    strings are so few that a model can memorize them; ``accuracy/length=…`` shows their share.

    Arguments and errors are those of :class:`BinaryStrings`.
    """

    def odd(self, is_b: NDArray[np.bool_], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        return is_b.sum(1) % 2 == 1
