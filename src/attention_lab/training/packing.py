"""The check that a network keeps packed documents apart."""

import inspect

import torch

from attention_lab.models.base import LanguageNetwork

#: The largest difference of a hidden state. Sums in another order differ by less.
_TOLERANCE = 1e-3


def check_packing(model: LanguageNetwork, vocab_size: int, length: int) -> None:
    """Raise ValueError if a network takes no positions, or mixes the documents of a row.

    Args:
        model: the network, on the CPU.
        vocab_size: number of its tokens.
        length: number of tokens in a row.
    """
    if "positions" not in inspect.signature(model.hidden_states).parameters:
        raise ValueError(
            f"data.packing=true: {type(model).__name__}.hidden_states has no argument positions; "
            "add it, or use data.packing=false"
        )
    # A short document comes first, so that the other is longer than most masks' windows. No block
    # size divides both lengths, so blocks that count from the row's start are found.
    shortest = max(1, length // 8)
    was_training = model.training
    model.eval()
    try:
        separate = all(
            _are_separate(model, vocab_size, first, length - first)
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


@torch.no_grad()
def _are_separate(model: LanguageNetwork, vocab_size: int, first: int, second: int) -> bool:
    """Whether the second of two packed documents has the outputs that it has alone."""
    tokens = torch.arange(first + second).remainder(vocab_size).unsqueeze(0)
    positions = torch.cat([torch.arange(first), torch.arange(second)]).unsqueeze(0)
    packed = model.hidden_states(tokens, positions=positions)[:, first:]
    alone = model.hidden_states(tokens[:, first:])
    return torch.allclose(packed, alone, atol=_TOLERANCE)
