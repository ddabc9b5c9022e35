"""The inputs of one attention call."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_lab.attention.masks import Mask, NoMask


@dataclass(frozen=True)
class AttentionInputs:
    """Queries, keys and values of all heads, with what a mechanism needs to attend.

    G = H / H_kv neighbouring query heads share one key and value head.
    """

    query: Tensor  #: (B, H, L, E)
    key: Tensor  #: (B, H_kv, S, E)
    value: Tensor  #: (B, H_kv, S, E_v)
    mask: Mask | None = None  #: which keys each query attends to; None means all
    need_weights: bool = False  #: whether to return the weights, too
    start: int = 0  #: position of the first query; the first key is at 0
    bias: Tensor | None = None  #: added to the logits, broadcastable to (B, H, L, S)
    keys_are_mapped: bool = False  #: whether ``Score.cached_key_map`` has been applied to the keys

    @property
    def device(self) -> torch.device:
        return self.query.device

    @property
    def groups(self) -> int:
        """G, the number of query heads that share one key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def is_masked(self) -> bool:
        """Whether a mask may hide keys."""
        return not (self.mask is None or isinstance(self.mask, NoMask))

    @property
    def pairs(self) -> int:
        """B · H · L · S, the number of pairs of a query and a key."""
        return self.query.shape[:3].numel() * self.key.shape[2]

    def repeat_heads(self) -> "AttentionInputs":
        """The same inputs with H key and value heads instead of H_kv."""
        key, value = repeat_heads(self.key, self.groups), repeat_heads(self.value, self.groups)
        return replace(self, key=key, value=value)

    def visible(self) -> Tensor | None:
        """The mask as bool, broadcastable to (B, H, L, S); None if every key is visible."""
        if self.mask is None or not self.is_masked:
            return None
        batch, heads, queries, _ = self.query.shape
        return self.mask.dense(batch, heads, queries, self.key.shape[2], self.device, self.start)

    def key_mask(self) -> Tensor:
        """Which keys are visible to all queries: bool, (B, H, S, 1) or 1 for B and H.

        Raises:
            ValueError: if the mask hides a key from some queries only.
        """
        mask = NoMask() if self.mask is None else self.mask
        check_padding_only(mask)
        batch, heads = self.query.shape[:2]
        return mask.dense(batch, heads, 1, self.key.shape[2], self.device).mT


def check_padding_only(mask: Mask) -> None:
    """Raise ValueError if a mask hides a key from some queries only, as a causal mask does."""
    if mask.depends_on_query:
        raise ValueError(
            "this mechanism mixes all keys before any query attends to them: it can hide padding, "
            f"but cannot use {mask}"
        )


def repeat_heads(x: Tensor, groups: int) -> Tensor:
    """(B, H_kv · groups, S, E) from (B, H_kv, S, E): neighbouring query heads share one."""
    if groups == 1:
        return x
    # With torch 2.11, repeat_interleave cannot be exported with dynamic lengths, or traced on CUDA.
    return torch.stack([head for head in x.unbind(1) for _ in range(groups)], dim=1)


def pad_head_dim(x: Tensor, smallest: int) -> Tensor:
    """(B, H, S, E) with E padded with zeros to at least ``smallest``."""
    missing = smallest - x.shape[3]
    return F.pad(x, (0, missing)) if missing > 0 else x
