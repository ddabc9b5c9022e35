"""Warnings about splits: examples that two of them share, tokens that training lacks."""

import warnings
from collections.abc import Collection, Mapping
from itertools import combinations

from attention_lab.data.core.splits import SPLITS


def warn_about_shared_examples(splits: Mapping[str, Collection[str]], kind: str) -> None:
    """Warn about examples that two splits share.

    Args:
        splits: the examples of each split.
        kind: the word for examples in the message, such as "texts".
    """
    for earlier, later in combinations(SPLITS, 2):
        known = set(splits[earlier])
        shared = sum(example in known for example in splits[later])
        if shared:
            name = "training" if earlier == "train" else earlier
            warnings.warn(
                f"{shared} of the {len(splits[later])} {later} {kind} are in the {name} split "
                "too: scores on them may be inflated by leakage",
                stacklevel=2,
            )


def warn_about_unknown_tokens(
    file: str, split: str, unknown: int, tokens: int, option: str = "tokens"
) -> None:
    """Warn if a split has tokens that do not occur in training.

    Args:
        file: the file's name in the message.
        split: the split's name.
        unknown: number of such tokens.
        tokens: number of all tokens of the split.
        option: the config key that sets the kind of tokens.
    """
    if unknown:
        warnings.warn(
            f"{file}: {unknown} of the {tokens} {option.replace('_', ' ')} of {split} do not occur "
            f"in training and become <unk>; data.{option}=bytes avoids that",
            stacklevel=2,
        )
