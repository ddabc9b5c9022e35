"""Writing sequences with a network that says, step by step, what may come next."""

import torch
from torch import Tensor

from attention_lab.models.protocol import SequenceToSequenceNetwork


@torch.no_grad()
def greedy(
    network: SequenceToSequenceNetwork, source: Tensor, begin: int, end: int, max_length: int
) -> Tensor:
    """Write the most probable next token, again and again.

    Args:
        network: reads and writes.
        source: (B, S) token ids.
        begin: the token that every target begins with.
        end: the token that ends a target.
        max_length: give up after so many tokens.

    Returns:
        Token ids (B, T ≤ max_length) without ``begin``; whatever follows ``end`` is arbitrary.
    """
    past = network.read(source)
    tokens = source.new_full((len(source), 1), begin)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    written = []
    for _ in range(max_length):
        tokens = network.next(tokens, past).argmax(-1, keepdim=True)
        written.append(tokens)
        ended |= tokens == end
        if ended.all():
            break
    return torch.cat(written, dim=1)
