"""ListOps: values by an independent evaluator, distribution, and shortcut baselines."""

import statistics
from collections import Counter, defaultdict
from hashlib import blake2b
from typing import Any

import pytest
import torch

from attention_lab.data.synthetic.listops import ListOps

SPLITS = ("train", "validation", "test")
EXAMPLE = "[MAX 4 [MED 1 9 7 ] [SM 5 8 ] ]"


def loaded(**arguments: Any) -> ListOps:
    data = ListOps(**{"examples": 1500, "evaluation_examples": 150} | arguments)
    data.setup()
    return data


@pytest.fixture(scope="module")
def small() -> ListOps:
    return loaded()


def examples(data: ListOps, split: str) -> list[list[str]]:
    return [row["input"] for row in data.position_labels(data.split(split))]


def parsed(tokens: list[str]) -> Any:
    """An operation as a list, its operator first; whole numbers are digits."""
    outer: list[Any] = []
    nested = [outer]
    for token in tokens:
        if token.startswith("["):
            nested[-1].append([token[1:]])
            nested.append(nested[-1][-1])
        elif token == "]":
            nested.pop()
        else:
            nested[-1].append(int(token))
    (root,) = outer
    assert len(nested) == 1
    return root


def value(tree: Any) -> int:
    if isinstance(tree, int):
        return tree
    arguments = [value(argument) for argument in tree[1:]]
    operation: Any = {
        "MIN": min,
        "MAX": max,
        "MED": lambda of: int(statistics.median(of)),
        "SM": lambda of: sum(of) % 10,
    }[tree[0]]
    return int(operation(arguments))


def depth(tree: Any) -> int:
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1:]))


def operations(tree: Any) -> list[list[Any]]:
    if isinstance(tree, int):
        return []
    return [tree, *(inner for argument in tree[1:] for inner in operations(argument))]


def test_the_example_of_the_docstring() -> None:
    assert value(parsed(EXAMPLE.split())) == 7


def test_every_label_is_the_value(small: ListOps) -> None:
    for split in SPLITS:
        expected = [value(parsed(tokens)) for tokens in examples(small, split)]
        assert small.split(split).labels.tolist() == expected
    assert set(small.split("train").labels.tolist()) == set(range(10))


def test_operations_have_the_configured_depth_and_arguments() -> None:
    data = loaded(lengths=(8, 400), depth=5, arguments=(3, 5), operator_probability=0.5)
    trees = [parsed(tokens) for tokens in examples(data, "train")]
    assert max(map(depth, trees)) == 5
    found = [operation for tree in trees for operation in operations(tree)]
    arguments = Counter(len(operation) - 1 for operation in found)
    assert sorted(arguments) == [3, 4, 5]
    kinds = Counter(operation[0] for operation in found)
    assert all(0.23 < kinds[kind] / len(found) < 0.27 for kind in ("MIN", "MAX", "MED", "SM"))
    digits = Counter(digit for operation in found for digit in operation if isinstance(digit, int))
    assert all(0.09 < digits[digit] / digits.total() < 0.11 for digit in range(10))


def test_operations_have_the_configured_probability() -> None:
    """All lengths are allowed, so no rejection biases the counts."""
    data = loaded(lengths=(1, 60), depth=3, arguments=(2, 4), operator_probability=0.3)
    trees = [parsed(tokens) for tokens in examples(data, "train")]
    children = [child for tree in trees for child in tree[1:]]
    share = sum(isinstance(child, list) for child in children) / len(children)
    assert abs(share - 0.3) < 0.03
    arguments = Counter(len(tree) - 1 for tree in trees)
    assert all(abs(arguments[count] / len(trees) - 1 / 3) < 0.05 for count in (2, 3, 4))


def test_lengths_are_within_their_range() -> None:
    data = loaded(lengths=(20, 30), test_lengths=(41, 56))
    for split, lengths in (("train", range(20, 31)), ("test", range(41, 57))):
        assert set(map(len, examples(data, split))) == set(lengths)
    assert data.model_arguments() == {"vocab_size": 19, "num_classes": 10, "max_length": 56}
    slices = data.slices("test")
    assert slices.names[0] == "length=41-42"
    expected = [(len(tokens) - 41) // 2 for tokens in examples(data, "test")]
    assert slices.index_of(data.split("test")).tolist() == expected


def test_splits_share_no_example(small: ListOps) -> None:
    found = [set(map(tuple, examples(small, split))) for split in SPLITS]
    assert len(set.union(*found)) == sum(map(len, found))


def test_examples_are_pinned_and_depend_on_the_draw_seed_only(small: ListOps) -> None:
    again = loaded(seed=3, batch_size=7)
    for split in SPLITS:
        assert all(map(torch.equal, small.split(split), again.split(split)))
    text = "\n".join(" ".join(tokens) for tokens in examples(small, "test"))
    assert blake2b(text.encode(), digest_size=8).hexdigest() == "83d17b63c7d9428b"
    assert examples(loaded(draw_seed=1), "test") != examples(small, "test")


def test_long_examples_take_little_memory_until_they_are_selected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ListOps, "max_draws", 16)
    data = loaded(examples=100, evaluation_examples=20, lengths=(200, 300))
    for split in SPLITS:
        assert data.split(split).inputs.element_size() == 1
        assert data.split(split).labels.tolist() == [
            value(parsed(tokens)) for tokens in examples(data, split)
        ]
        batch = data.split(split).select(torch.tensor([3, 0]))
        assert batch.inputs.dtype == batch.labels.dtype == torch.int64
        assert torch.equal(batch.lengths(), data.split(split).lengths()[[3, 0]])


def own_digits(tree: Any) -> tuple[str, int | None]:
    """The root's operator, and its result on its own digits."""
    digits = [child for child in tree[1:] if isinstance(child, int)]
    return tree[0], value([tree[0], *digits]) if digits else None


def guessed(data: ListOps, split: str, kind: Any) -> float:
    """Accuracy of the most frequent class in training for trees of the same kind."""
    labels: defaultdict[Any, list[int]] = defaultdict(list)
    for tokens, label in zip(
        examples(data, "train"), data.split("train").labels.tolist(), strict=True
    ):
        labels[kind(parsed(tokens))].append(label)
    answers = {known: min(statistics.multimode(seen)) for known, seen in labels.items()}
    right = [
        answers.get(kind(parsed(tokens)), 0) == label
        for tokens, label in zip(
            examples(data, split), data.split(split).labels.tolist(), strict=True
        )
    ]
    return sum(right) / len(right)


@pytest.mark.parametrize("split", SPLITS)
def test_trivial_and_shortcut_baselines_by_counting(small: ListOps, split: str) -> None:
    assert small.trivial_baseline(split) == {"accuracy": guessed(small, split, lambda tree: None)}
    assert small.shortcut_baselines(split) == {
        "root operator": {"accuracy": guessed(small, split, lambda tree: tree[0])},
        "root operator on its own digits": {"accuracy": guessed(small, split, own_digits)},
    }


def test_the_trivial_baseline_of_long_range_arena() -> None:
    """A majority class of 16.8 % and 35.9 % by the root's operator, on 96,000 examples."""
    data = loaded(examples=1500, evaluation_examples=10, lengths=(501, 1999))
    assert data.trivial_baseline("train")["accuracy"] == pytest.approx(0.168, abs=0.03)  # 3 sigma
    root = data.shortcut_baselines("train")["root operator"]["accuracy"]
    assert root == pytest.approx(0.359, abs=0.037)
    assert all(500 < len(tokens) < 2000 for tokens in examples(data, "train"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (30, 20)}, "^lengths must be two numbers"),
        ({"test_lengths": (3,)}, "^test_lengths must be two numbers"),
        ({"arguments": (0, 2)}, "^arguments must be two numbers"),
        ({"depth": 1}, "depth must be at least 2"),
        ({"operator_probability": 1.5}, r"operator_probability must be in \[0, 1\]"),
        ({"evaluation_examples": 0}, "evaluation_examples must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ListOps(**arguments)


@pytest.mark.parametrize("depth", [3, 10])
def test_lengths_that_are_too_rare_are_an_error(depth: int) -> None:
    with pytest.raises(
        ValueError, match=f"operations of 500 to 600 tokens are too rare .* depth={depth}"
    ):
        loaded(lengths=(500, 600), arguments=(2, 2), depth=depth)
