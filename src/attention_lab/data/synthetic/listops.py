"""ListOps: nested operations on lists of digits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.data.core.batches import LabelledSequences
from attention_lab.data.core.classification import ClassificationDataModule, majority_labels
from attention_lab.data.core.slices import Slices, by_length
from attention_lab.data.core.vocabulary import PAD, Words
from attention_lab.data.synthetic.generated import GeneratedDataModule, check_range

DIGITS = 10
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = "]"
VOCABULARY = Words([*map(str, range(DIGITS)), *OPERATORS, CLOSE])

_DIGIT_IDS = np.array(VOCABULARY.tokens_to_ids(map(str, range(DIGITS))))
_OPERATOR_IDS = np.array(VOCABULARY.tokens_to_ids(OPERATORS))
(_CLOSE_ID,) = VOCABULARY.tokens_to_ids([CLOSE])

#: Trees drawn at once. After _MIN_TREES trees, it is an error if fewer than _MIN_ACCEPTANCE of them
#: have an accepted length.
_TREES_PER_DRAW = 2048
_MIN_TREES = 100 * _TREES_PER_DRAW
_MIN_ACCEPTANCE = 1e-4

Numbers = NDArray[np.int64]


class ListOps(GeneratedDataModule[LabelledSequences], ClassificationDataModule):
    """The value of a nested operation on lists of digits (Nangia & Bowman 2018).

    Example: [MAX 4 [MED 1 9 7 ] [SM 5 8 ] ] → 7.

    MED is the median (the mean of the two middle values, rounded down), and SM the sum modulo 10.
    Examples are drawn as in the Long Range Arena (Tay et al. 2021, "Long Range Arena: A Benchmark
    for Efficient Transformers", arXiv 2011.04006, §2.2.1, and its code). An example is a tree with
    an operator at its root, at depth 1. An operator has 2 to 10 arguments. An argument is an
    operator with a probability of 1/4, otherwise a digit; at depth 10 it is always a digit. Trees
    of other lengths are rejected.

    A token is a digit, an operator with its opening bracket, or a closing bracket. The Arena's
    files also have parentheses around every pair, "( ( ( [MAX 4 ) 2 ) ] )", but its lengths and its
    models ignore them. The Arena's sizes are too large for a CPU:
    ``examples=96000 evaluation_examples=2000 lengths=[501,1999] batch_size=32``.

    Known shortcuts (``shortcut_baselines``): the operator at the root alone is informative, since
    the minimum of many digits is mostly 0. The digits among its arguments give further information.
    On the Arena's lengths, predicting the most frequent class has an accuracy of 17 %, and
    predicting from the operator at the root has 36 % (see the tests).

    Source: Nangia & Bowman 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning", arXiv
    1804.06028.

    Args:
        examples: number of training examples.
        evaluation_examples: number of validation examples, and of test examples.
        lengths: smallest and largest number of tokens of an example.
        test_lengths: the same in test; None means ``lengths``.
        depth: greatest depth of a digit; digits among the root's arguments are at depth 2.
        arguments: smallest and largest number of arguments of an operator.
        operator_probability: probability that an argument is an operation, if ``depth`` allows it.
        batch_size: largest number of examples in a batch, per process.
        draw_seed: seed of the examples.
        seed: seed of the order of the training batches.

    Raises:
        ValueError: if a value is out of range; while loading, if too few trees have these lengths.
    """

    max_draws = 2048  # examples may have thousands of tokens, and hashing needs 8 bytes for each

    text_vocabulary = VOCABULARY
    #: The names of the classes.
    classes = tuple(map(str, range(DIGITS)))

    def __init__(
        self,
        examples: int = 50_000,
        evaluation_examples: int = 2_000,
        lengths: Sequence[int] = (20, 100),
        test_lengths: Sequence[int] | None = None,
        depth: int = 10,
        arguments: Sequence[int] = (2, 10),
        operator_probability: float = 0.25,
        batch_size: int = 64,
        draw_seed: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(examples, evaluation_examples, batch_size, draw_seed, seed)
        trained = check_range("lengths", lengths)
        tested = trained if test_lengths is None else check_range("test_lengths", test_lengths)
        self.ranges = {"train": trained, "validation": trained, "test": tested}
        self.arguments = check_range("arguments", arguments)
        check_positive(depth=depth)
        if depth < 2:
            raise ValueError("depth must be at least 2: the root is at depth 1, its digits below")
        if not 0 <= operator_probability <= 1:
            raise ValueError(f"operator_probability must be in [0, 1], got {operator_probability}")
        self.depth, self.operator_probability = depth, operator_probability

    def draw(self, random: np.random.Generator, count: int, split: str) -> LabelledSequences:
        shortest, longest = self.ranges[split]
        inputs, labels = (
            np.full((count, longest), PAD, dtype=np.int8),
            np.empty(count, dtype=np.int64),
        )
        found = drawn = 0
        while found < count:
            trees, tokens = self._draw_trees(random, longest)
            levels = _select(trees, (shortest <= tokens) & (tokens <= longest))
            values, sizes = _evaluate(levels)
            some = min(len(values[0]), count - found)
            _write(levels, sizes, inputs[found : found + some])
            labels[found : found + some] = values[0][:some]
            found, drawn = found + some, drawn + _TREES_PER_DRAW
            if drawn >= _MIN_TREES and found < _MIN_ACCEPTANCE * drawn:
                raise ValueError(
                    f"operations of {shortest} to {longest} tokens are too rare with depth="
                    f"{self.depth}, arguments={list(self.arguments)} and operator_probability="
                    f"{self.operator_probability}"
                )
        return LabelledSequences(torch.from_numpy(inputs), torch.from_numpy(labels))

    def identity(self, batch: LabelledSequences) -> Tensor:
        return batch.inputs

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary, of the set of classes, and of the longest example."""
        longest = max(longest for _, longest in self.ranges.values())
        return {
            "vocab_size": len(VOCABULARY),
            "num_classes": len(self.classes),
            "max_length": longest,
        }

    def shortcut_baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Accuracy of predicting from the operator at the root.

        The prediction is the most frequent class for this operator in training. The second baseline
        also uses the operator's result on the digits among its arguments.
        """
        return {
            "root operator": self._most_frequent_by(_root_operator, len(OPERATORS), split),
            "root operator on its own digits": self._most_frequent_by(
                _root_outcome, len(OPERATORS) * (DIGITS + 1), split
            ),
        }

    def slices(self, split: str) -> Slices:
        """By length."""
        return by_length(
            *self.ranges[split],
            lambda batch: batch.lengths()[:, 0],
            trained=self.ranges["train"],
        )

    def position_labels(self, batch: LabelledSequences) -> list[dict[str, list[str]]]:
        """The tokens of each example."""
        return [{"input": VOCABULARY.ids_to_tokens(row)} for row in batch.inputs.tolist()]

    def _most_frequent_by(
        self, kind: Callable[[Numbers], Numbers], kinds: int, split: str
    ) -> dict[str, float]:
        train, chosen = self.split("train"), self.split(split)
        answers = majority_labels(_kinds_of(kind, train.inputs), train.labels, kinds)
        return self.accuracy(split, answers[_kinds_of(kind, chosen.inputs)])

    def _draw_trees(
        self, random: np.random.Generator, longest: int
    ) -> tuple[list["_Level"], Numbers]:
        """Draw trees, level by level from the roots; returns them and their numbers of tokens.

        A tree longer than ``longest`` gets no more operators.
        """
        tree, parent = np.arange(_TREES_PER_DRAW), np.zeros(_TREES_PER_DRAW, dtype=np.int64)
        sizes = np.zeros(_TREES_PER_DRAW, dtype=np.int64)
        fewest, most = self.arguments
        levels = []
        for depth in range(1, self.depth + 1):
            chance = 1.0 if depth == 1 else self.operator_probability * (depth < self.depth)
            is_operator = random.random(len(tree), dtype=np.float32) < chance
            nodes = np.flatnonzero(is_operator & (sizes <= longest)[tree])
            operator = np.full(len(tree), -1, dtype=np.int8)
            operator[nodes] = random.integers(len(OPERATORS), size=len(nodes), dtype=np.int8)
            digit = random.integers(DIGITS, size=len(tree), dtype=np.int8)
            levels.append(_Level(tree, parent, operator, digit))
            for closing in (tree, tree[nodes]):  # the closing brackets
                sizes += np.bincount(closing, minlength=len(sizes))
            parent = nodes.repeat(random.integers(fewest, most + 1, size=len(nodes)))
            tree = tree[parent]
        return levels, sizes


class _Level(NamedTuple):
    """The nodes of all trees at one depth; the arguments of an operator are consecutive."""

    tree: Numbers
    parent: Numbers  # index of the parent in the level above
    operator: NDArray[np.int8]  # −1 if the node is a digit
    digit: NDArray[np.int8]


def _select(levels: Sequence[_Level], is_kept: NDArray[np.bool_]) -> list[_Level]:
    """The trees that are kept, renumbered."""
    number = above = np.cumsum(is_kept) - 1
    kept = []
    for tree, parent, operator, digit in levels:
        rows = np.flatnonzero(is_kept[tree])
        kept.append(_Level(number[tree[rows]], above[parent[rows]], operator[rows], digit[rows]))
        above = np.cumsum(is_kept[tree]) - 1
    return kept


def _evaluate(levels: Sequence[_Level]) -> tuple[list[Numbers], list[Numbers]]:
    """The values of all nodes and their numbers of tokens, level by level."""
    values = [level.digit.astype(np.int64) for level in levels]
    sizes = [np.ones_like(value) for value in values]
    for depth in range(len(levels) - 1, 0, -1):
        above, parent = levels[depth - 1].operator, levels[depth].parent
        operators = np.flatnonzero(above >= 0)
        if not len(operators):
            continue
        arguments = np.bincount(parent)[operators]
        first = np.cumsum(arguments) - arguments
        ordered = np.sort(parent * DIGITS + values[depth]) % DIGITS
        lower, upper = (ordered[first + (arguments - more) // 2] for more in (1, 0))
        outcomes = [
            ordered[first],
            ordered[first + arguments - 1],
            (lower + upper) // 2,
            np.add.reduceat(values[depth], first) % DIGITS,
        ]
        values[depth - 1][operators] = np.choose(above[operators], outcomes)
        sizes[depth - 1][operators] = 2 + np.add.reduceat(sizes[depth], first)
    return values, sizes


def _write(levels: Sequence[_Level], sizes: Sequence[Numbers], inputs: NDArray[np.int8]) -> None:
    """Write the tokens of the first trees into the rows of ``inputs``, one tree per row."""
    above = np.zeros(len(levels[0].tree), dtype=np.int64)  # the position at which a parent begins
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        begin = np.zeros_like(size)
        if depth:
            before = np.cumsum(size) - size
            first = np.searchsorted(level.parent, level.parent)
            begin = above[level.parent] + 1 + before - before[first]
        above = begin
        has_row = level.tree < len(inputs)
        tree, operator = level.tree[has_row], level.operator[has_row]
        tokens = np.where(operator < 0, _DIGIT_IDS[level.digit[has_row]], _OPERATOR_IDS[operator])
        inputs[tree, begin[has_row]] = tokens
        closed = operator >= 0
        inputs[tree[closed], (begin + size - 1)[has_row][closed]] = _CLOSE_ID


def _kinds_of(kind: Callable[[Numbers], Numbers], inputs: Tensor) -> Tensor:
    """The kind of each example; 1000 examples at a time, to limit memory."""
    return torch.cat([torch.from_numpy(kind(part.numpy())) for part in inputs.split(1000)])


def _root_operator(inputs: Numbers) -> Numbers:
    """The index of the operator at the root, (N,)."""
    return (inputs[:, :1] == _OPERATOR_IDS).argmax(1)


def _root_outcome(inputs: Numbers) -> Numbers:
    """An index of the root's operator and its result on the digits among its arguments, (N,)."""
    depth = np.cumsum(np.isin(inputs, _OPERATOR_IDS), 1) - np.cumsum(inputs == _CLOSE_ID, 1)
    counts = np.stack([((inputs == digit) & (depth == 1)).sum(1) for digit in _DIGIT_IDS], 1)
    total, below = counts.sum(1), np.cumsum(counts, 1)

    def ranked(rank: Numbers) -> Numbers:
        return (below <= rank[:, None]).sum(1)

    outcomes = [
        ranked(np.zeros_like(total)),
        ranked(total - 1),
        (ranked((total - 1) // 2) + ranked(total // 2)) // 2,
        counts @ np.arange(DIGITS) % DIGITS,
    ]
    operator = _root_operator(inputs)
    outcome = np.where(total > 0, np.choose(operator, outcomes), DIGITS)
    return operator * (DIGITS + 1) + outcome
