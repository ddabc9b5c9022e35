"""The check that a network keeps packed documents, or pairs, apart."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.data.core.language_model import LanguageModelDataModule
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.models.base import LanguageNetwork, Network, SequenceToSequenceNetwork

#: The largest difference of a hidden state or a logit. Sums in another order differ by less.
_TOLERANCE = 1e-3
#: The shortest row with which pairs are checked.
_SHORTEST_ROW = 8

#: Computes two documents of a row of the given length, packed and alone; the first document has
#: about the second given length.
Outputs = Callable[[Any, Mapping[str, int], int, int], tuple[Tensor, Tensor]]


def check_packing(
    model: Network, data: SplitDataModule[Any], sizes: Mapping[str, int], trains: bool
) -> None:
    """Raise ValueError if rows are packed, and the network takes no positions or mixes documents.

    Args:
        model: the network, on the CPU.
        data: the loaded dataset.
        sizes: its ``model_arguments``.
        trains: whether the network is trained; pairs are packed in training only.
    """
    if isinstance(data, LanguageModelDataModule) and data.packing:
        assert isinstance(model, LanguageNetwork)
        _check(model, "hidden_states", "positions", data.longest()[0], _documents, sizes)
    elif isinstance(data, SequenceToSequenceDataModule) and data.packing and trains:
        assert isinstance(model, SequenceToSequenceNetwork)
        length = max(int(data.training_rows().lengths().amax()), _SHORTEST_ROW)
        _check(model, "forward", "source_positions", length, _pairs, sizes)


def _check(
    model: Network,
    method: str,
    argument: str,
    length: int,
    outputs: Outputs,
    sizes: Mapping[str, int],
) -> None:
    if argument not in inspect.signature(getattr(model, method)).parameters:
        raise ValueError(
            f"data.packing=true: {type(model).__name__}.{method} has no argument "
            f"{argument}; add it, or use data.packing=false"
        )
    # A short document comes first, so that the other is longer than most masks' windows. No block
    # size divides both lengths, so blocks that count from the row's start are found.
    shortest = max(1, length // 8)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            separate = all(
                torch.allclose(*outputs(model, sizes, length, first), atol=_TOLERANCE)
                for first in (shortest, shortest + 1)
                if first < length
            )
    except ValueError as error:
        raise ValueError(f"data.packing=true: {error}; use data.packing=false") from None
    finally:
        model.train(was_training)
    if not separate:
        raise ValueError(
            "data.packing=true: the model mixes the documents of a row, as its attention counts "
            "positions from the row's start; use data.packing=false"
        )


def _documents(
    model: LanguageNetwork, sizes: Mapping[str, int], length: int, first: int
) -> tuple[Tensor, Tensor]:
    """The hidden states of the second of two packed documents, and those that it has alone."""
    tokens = torch.arange(length).remainder(sizes["vocab_size"]).unsqueeze(0)
    packed = model.hidden_states(tokens, positions=_positions(first, length))[:, first:]
    return packed, model.hidden_states(tokens[:, first:])


def _pairs(
    model: SequenceToSequenceNetwork, sizes: Mapping[str, int], length: int, first: int
) -> tuple[Tensor, Tensor]:
    """The logits of two packed pairs, and those that they have alone."""
    # Sources and targets start at different places, so cross-attention that counts is found.
    ends = {"source": first, "target": 2 * first + 1}
    rows, positions = {}, {}
    for side, end in ends.items():
        ids = torch.arange(length).remainder(sizes[f"{side}_vocab_size"] - 1) + 1  # no padding
        rows[side] = ids.unsqueeze(0)
        positions[f"{side}_positions"] = _positions(end, length)
    packed = model(**rows, **positions)
    before = {side: ids[:, : ends[side]] for side, ids in rows.items()}
    after = {side: ids[:, ends[side] :] for side, ids in rows.items()}
    return packed, torch.cat([model(**before), model(**after)], dim=1)


def _positions(first: int, length: int) -> Tensor:
    """The positions (1, length) of two documents; the first has ``first`` tokens."""
    return torch.cat([torch.arange(first), torch.arange(length - first)]).unsqueeze(0)
