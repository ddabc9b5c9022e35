"""A poem as a text file, and helpers that read its splits back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.data.core.batches import IGNORE
from attention_lab.data.files.text import Text

#: Of every test that loads one. The poem repeats itself, of which it is warned.
MARKS = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:.*(do not occur|is also a|is for bpe|in the training text)"),
]
SPLITS = ("train", "validation", "test")
#: Two kinds of words, characters of one to four bytes, and gaps of every kind.
POEM = "so much depends\n\nupon  a red wheel barrow, glazed with rain 雨\tüber 🐔 chickens\r\n" * 40


def written(directory: Path, text: str, name: str = "own.txt") -> str:
    path = directory / name
    path.write_bytes(text.encode())
    return str(path)


def loaded(path: Any, **options: Any) -> Text:
    data = Text(path, **{"length": 8, "batch_size": 4} | options)
    data.setup()
    return data


def read(data: Text, split: str) -> str:
    """The text of a split, from its first input and all its labels."""
    windows = data.split(split)
    batch = windows.select(torch.arange(len(windows.lengths())))
    labels = batch.labels[batch.labels != IGNORE].tolist()
    return data.text_vocabulary.decode([int(batch.inputs[0, 0]), *labels])
