"""Attention to near keys only: under a sliding window, time and memory of L·W instead of L·S.

Queries are split into blocks. Each block attends to its own keys and to those of the neighbouring
blocks, which are all that its mask can show (Beltagy et al. 2020, appendix A).
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.attention.backends.spec import AttentionSpec
from attention_lab.attention.backends.tracing import is_tracing
from attention_lab.attention.inputs import AttentionInputs
from attention_lab.attention.masks import Dense

#: Block sizes are multiples of this.
STEP = 32


class NearKeys(Dense):
    """The mask of blocks: a row for each query of a block, whatever the query's position."""

    def dense(
        self,
        batch: int,
        heads: int,
        queries: int,
        keys: int,
        device: torch.device,
        start: int = 0,
    ) -> Tensor:
        return self.visible


@dataclass(frozen=True)
class Blocks:
    """How queries and keys are split into blocks."""

    size: int  #: queries of a block
    count: int  #: number of blocks
    keys: int  #: keys to which each block attends
    first: int  #: position of the first block's first key; below 0 if there are fewer keys

    def split(self, inputs: AttentionInputs) -> AttentionInputs:
        """The inputs with each block as an example of the batch, (B · count, …)."""
        query = F.pad(inputs.query, (0, 0, 0, self.count * self.size - inputs.query.shape[2]))
        return replace(
            inputs,
            query=query.unflatten(2, (self.count, self.size)).transpose(1, 2).flatten(0, 1),
            key=self._near(inputs.key),
            value=self._near(inputs.value),
            mask=NearKeys(self._visible(inputs)),
            need_weights=False,
            start=inputs.start - self.first,
        )

    def join(self, output: Tensor, queries: int) -> Tensor:
        """(B, H, L, E_v) from the output of all blocks, (B · count, H, size, E_v)."""
        joined = output.unflatten(0, (-1, self.count)).transpose(1, 2).flatten(2, 3)
        return joined[:, :, :queries]

    def _near(self, x: Tensor) -> Tensor:
        """Keys or values (B · count, H_kv, keys, E) of each block, from (B, H_kv, S, E)."""
        end = self.first + (self.count - 1) * self.size + self.keys
        before, after = max(-self.first, 0), max(end - x.shape[2], 0)
        kept = x[:, :, max(self.first, 0) : end]
        # Repeats of the first key, not zeros, as the score L2 is relative to it.
        filling = kept[:, :, :1].expand(-1, -1, before, -1)
        padded = F.pad(torch.cat([filling, kept], dim=2), (0, 0, 0, after))
        if self.count == 1:
            return padded
        near = self.keys // self.size
        pieces = padded.unflatten(2, (self.count + near - 1, self.size))
        # Slices of large pieces, whose gradients are faster than those of unfold.
        blocks = torch.cat([pieces[:, :, i : i + self.count] for i in range(near)], dim=3)
        return blocks.transpose(1, 2).flatten(0, 1)

    def _visible(self, inputs: AttentionInputs) -> Tensor:
        """The mask of each block, (B · count, H or 1, size, keys)."""
        (batch, heads, queries, _), keys = inputs.query.shape, inputs.key.shape[2]

        def axis(size: int, dim: int) -> Tensor:
            shape = [1, 1, 1, 1, 1]
            shape[dim] = size
            return torch.arange(size, device=inputs.device).view(shape)

        block = axis(self.count, 2) * self.size
        query, key = (
            inputs.start + block + axis(self.size, 3),
            self.first + block + axis(self.keys, 4),
        )
        query, last = query.clamp(max=inputs.start + queries - 1), keys - 1
        assert inputs.mask is not None
        visible = inputs.mask(axis(batch, 0), axis(heads, 1), query, key.clamp(0, last))
        visible = visible & (key >= 0) & (key <= last)
        visible = visible.expand(batch, -1, self.count, self.size, self.keys)
        return visible.transpose(1, 2).flatten(0, 1)


def blocks_for(inputs: AttentionInputs, spec: AttentionSpec) -> Blocks | None:
    """The blocks of a call; None if its mask can show far keys, or most keys are near anyway."""
    if inputs.mask is None or math.inf in (reach := inputs.mask.reach):
        return None
    positions = spec.positions
    is_absolute = (
        positions is not None and positions.adds_to_logits and not positions.bias_is_relative
    )
    if inputs.bias is not None or spec.score.positional or is_absolute:
        return None
    if torch.compiler.is_exporting() or is_tracing():
        return None  # the graph is for any length
    queries, keys = inputs.query.shape[2], inputs.key.shape[2]
    before, after = int(reach[0]), int(reach[1])
    size = -(-max(before, after, 1) // STEP) * STEP
    if queries <= size:
        first = max(inputs.start - before, 0)
        blocks = Blocks(queries, 1, min(inputs.start + queries + after, keys) - first, first)
    else:
        near, first = 1 + (before > 0) + (after > 0), inputs.start - size * (before > 0)
        blocks = Blocks(size, -(-queries // size), near * size, first)
    # Fewer than twice as many keys are not worth the copies.
    return blocks if 0 < blocks.keys <= keys // 2 and first < keys else None
