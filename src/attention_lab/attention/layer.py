"""The layer around every mechanism: projections, heads, its own mask, cache, observation."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from attention_lab.attention.backends import EAGER, Backend
from attention_lab.attention.cache import Cache, restored_on_failure
from attention_lab.attention.capabilities import Capabilities
from attention_lab.attention.masks import Mask, NoMask
from attention_lab.attention.validation import check_part, check_positive

Projections = Literal["all", "values", "none"]


class AttentionOutput(NamedTuple):
    """What attention gives back."""

    output: Tensor  #: (B, L, embed_dim)
    weights: Tensor | None  #: (B, H, L, S) per head, before dropout; None unless asked for


class AttentionLayer(nn.Module, ABC):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2) around one mechanism, :meth:`attend`.

    Args:
        embed_dim: size of the queries and of the output.
        kdim: size of the memory, from which keys and values are made, so that ``vdim`` is the
            same; None means ``embed_dim``.
        num_heads: number of query heads, H.
        num_kv_heads: number of key and value heads. Each serves ``num_heads / num_kv_heads``
            neighbouring query heads (Ainslie et al. 2023, grouped-query attention; with one,
            Shazeer 2019, multi-query attention). None means ``num_heads``.
        head_dim: size of one head, E; None means ``embed_dim / num_heads``.
        latent_dim: width of one latent per position from which keys and values are made, and
            which is all that a cache keeps (DeepSeek-AI 2024, multi-head latent attention, without
            its separate rotary part). None means that they are made from the memory itself.
        projections: "all": learned maps of queries, keys, values and output, as in the
            Transformer. "values": only of values and output, for scores that have maps of their
            own. "none": none at all, attention as Bahdanau and Luong wrote it down.
        bias: whether the projections have one; the gate's always has.
        gate: whether each output component is gated by a sigmoid of the query (Qiu et al. 2025).
        mask: the mechanism's own mask, on top of the one that each call brings.

    Raises:
        ValueError: if sizes are not positive or do not divide or agree, or if the mechanism cannot
            use the mask.
    """

    #: How attention is computed, where there is a choice.
    backend: Backend = EAGER

    def __init__(
        self,
        embed_dim: int,
        kdim: int | None = None,
        *,
        num_heads: int = 1,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        latent_dim: int | None = None,
        projections: Projections = "all",
        bias: bool = False,
        gate: bool = False,
        mask: Mask | None = None,
    ) -> None:
        super().__init__()
        kdim = embed_dim if kdim is None else kdim
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_positive(
            embed_dim=embed_dim, kdim=kdim, num_heads=num_heads, num_kv_heads=num_kv_heads
        )
        if head_dim is None:
            if embed_dim % num_heads:
                raise ValueError(f"embed_dim={embed_dim} is not divisible by num_heads={num_heads}")
            head_dim = embed_dim // num_heads
        _check(embed_dim, kdim, num_heads, num_kv_heads, head_dim, latent_dim, projections, bias)
        if mask is not None:
            check_part("mask", mask, Mask)
        self.embed_dim, self.kdim = embed_dim, kdim
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.mask = NoMask() if mask is None else mask
        #: Called with the weights of every forward pass: see ``record_attention``.
        self.weight_hooks: list[Callable[[Tensor], None]] = []

        def projection(wanted: bool, inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs, bias=bias) if wanted else nn.Identity()

        width, kv_width = num_heads * head_dim, num_kv_heads * head_dim
        source_dim = latent_dim or kdim
        self.query_projection = projection(projections == "all", embed_dim, width)
        self.latent_projection = projection(latent_dim is not None, kdim, source_dim)
        self.key_projection = projection(projections == "all", source_dim, kv_width)
        self.value_projection = projection(projections != "none", source_dim, kv_width)
        self.gate_projection = nn.Linear(embed_dim, width) if gate else None
        self.output_projection = projection(projections != "none", width, embed_dim)
        self.caches_latent = latent_dim is not None
        self._crosses: bool | None = None

    @property
    def variants(self) -> dict[str, str]:
        """How the heads differ from those of the Transformer: what, and who published it."""
        grouped = self.num_kv_heads < self.num_heads
        found = {
            "one key head": ("Shazeer 2019", grouped and self.num_kv_heads == 1),
            "grouped key heads": ("Ainslie et al. 2023", grouped and self.num_kv_heads > 1),
            "latent keys and values": ("DeepSeek-AI 2024", self.caches_latent),
            "gated": ("Qiu et al. 2025", self.gate_projection is not None),
        }
        return {name: paper for name, (paper, has) in found.items() if has}

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this layer can do, as it was configured."""

    def check_lengths(self, queries: int, keys: int) -> None:  # most know no end
        """Raise ValueError if sequences of these lengths are longer than it was made for."""

    @abstractmethod
    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | None,
        need_weights: bool,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """The mechanism itself.

        Args:
            query: (B, H, L, E).
            key: (B, H_kv, S, E).
            value: (B, H_kv, S, E_v).
            mask: which keys each query may look at; None means all.
            need_weights: whether the weights must be given, too.
            start: position of the first query; the first key is at 0.

        Returns:
            Output (B, H, L, E_v), and weights (B, H, L, S) before dropout if they were asked for
            (and exist: see ``capabilities``).
        """

    def attend_next(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask,
        need_weights: bool,
        cache: Cache,
    ) -> tuple[Tensor, Tensor | None]:
        """As :meth:`attend`, for the positions that follow those in the cache, which joins them.

        A mechanism with a smaller memory than all keys and values overrides this.
        """
        start = cache.length
        if not self.caches_latent:
            key, value = cache.extend(key=key, value=value)
        return self.attend(query, key, value, mask, need_weights, start)

    def forward(
        self,
        query: Tensor,
        memory: Tensor | None = None,
        mask: Mask | None = None,
        need_weights: bool = False,
        cache: Cache | None = None,
        start: int = 0,
    ) -> AttentionOutput:
        """Attend from each query position to the memory.

        Args:
            query: (B, L, embed_dim).
            memory: (B, S, kdim); None means the queries themselves (self-attention).
            mask: which memory positions each query may look at; None means all. With a cache it
                is about all positions, those in the cache included.
            need_weights: whether to give the weights, too. They cost time and memory.
            cache: of the positions before these queries, in self-attention; it takes them in. Or
                of a memory, as ``remember`` makes it, which then stands for the memory.
            start: position of the first query in its sequence, where there is no cache.

        Raises:
            ValueError: if shapes do not agree, or the mechanism cannot do what is asked.
        """
        memory = self._check_inputs(query, memory, cache)
        with_weights = need_weights or bool(self.weight_hooks)
        start = start if cache is None else cache.length
        if not isinstance(mask, Mask | None):
            raise ValueError(
                f"a mask is a Mask: wrap the {type(mask).__name__} in Dense or Padding"
            )
        mask = self.mask if mask is None else self.mask & mask
        split_query = self._split(self.query_projection(query), self.num_heads)
        with restored_on_failure(cache):
            if cache is None:
                mask.check(query.shape[0], self.num_heads, start + query.shape[1], memory.shape[1])
                key, value = self._keys_and_values(self.latent_projection(memory))
                output, weights = self.attend(split_query, key, value, mask, with_weights, start)
            elif cache.is_memory:
                key, value = cache.tensors["key"], cache.tensors["value"]
                mask.check(query.shape[0], self.num_heads, start + query.shape[1], key.shape[2])
                output, weights = self.attend(split_query, key, value, mask, with_weights, start)
                cache.length += query.shape[1]
            else:
                output, weights = self._next(split_query, query, mask, with_weights, cache)
                cache.length += query.shape[1]
        if need_weights and weights is None:
            raise ValueError(f"{type(self).__name__} has no weights to give")
        for hook in self.weight_hooks:
            if weights is not None:
                hook(weights.detach())
        merged = output.transpose(1, 2).flatten(2)
        if self.gate_projection is not None:
            merged = merged * torch.sigmoid(self.gate_projection(query))
        return AttentionOutput(self.output_projection(merged), weights if need_weights else None)

    def remember(self, memory: Tensor) -> Cache:
        """A cache of another sequence (B, S, kdim), to attend to it step by step.

        Given in place of the memory, it spares projecting that anew at each step.

        Raises:
            ValueError: if the shape is wrong, or the mechanism attends to no other sequence.
        """
        self._check_memory(memory)
        key, value = self._keys_and_values(self.latent_projection(memory))
        return Cache({"key": key, "value": value}, is_memory=True)

    def _next(
        self, split_query: Tensor, sequence: Tensor, mask: Mask, with_weights: bool, cache: Cache
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of the positions after those in the cache."""
        seen = cache.length + sequence.shape[1]
        mask.check(sequence.shape[0], self.num_heads, seen, seen)
        if mask.looks_ahead:
            raise ValueError(
                f"step by step, queries cannot look ahead as {mask} lets them; add Causal()"
            )
        source = self.latent_projection(sequence)
        if self.caches_latent:
            (source,) = cache.extend(latent=source)
        return self.attend_next(
            split_query, *self._keys_and_values(source), mask, with_weights, cache
        )

    def _keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H_kv, S, E) and (B, H_kv, S, E_v) of what they are made from, (B, S, …)."""
        return (
            self._split(self.key_projection(source), self.num_kv_heads),
            self._split(self.value_projection(source), self.num_kv_heads),
        )

    @property
    def _can_cross(self) -> bool:
        """Whether the layer can attend to another sequence.

        Kept, as making capabilities costs about a tenth of a small layer's pass. Not kept while
        compiling: setting the attribute would invalidate the graph.
        """
        if torch.compiler.is_compiling():
            return self.capabilities.cross_attention
        if self._crosses is None:
            self._crosses = self.capabilities.cross_attention
        return self._crosses

    def _check_inputs(self, query: Tensor, memory: Tensor | None, cache: Cache | None) -> Tensor:
        """The memory; raises ValueError if it, queries and cache do not go together."""
        if cache is not None and memory is not None:
            raise ValueError("with a cache, leave the memory out: remember(memory) makes one of it")
        _check_sequence("query", query, self.embed_dim)
        if cache is not None and cache.is_memory:
            batch = cache.tensors["key"].shape[0]
        else:
            memory = query if memory is None else memory
            self._check_memory(memory, query)
            batch = memory.shape[0]
        if query.shape[0] != batch:
            raise ValueError(f"{query.shape[0]} queries and {batch} memories in one batch")
        return query if memory is None else memory

    def _check_memory(self, memory: Tensor, query: Tensor | None = None) -> None:
        if memory is not query and not self._can_cross:
            raise ValueError(
                f"{type(self).__name__} attends within one sequence only: leave the memory out"
            )
        _check_sequence("memory", memory, self.kdim)

    @staticmethod
    def _split(sequence: Tensor, num_heads: int) -> Tensor:
        """(B, L, heads · E) → (B, heads, L, E)."""
        return sequence.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _check_sequence(name: str, sequence: Tensor, width: int) -> None:
    if sequence.ndim != 3 or sequence.shape[-1] != width:
        raise ValueError(f"{name}: (batch, length, {width}) expected, got {tuple(sequence.shape)}")


def _check(
    embed_dim: int,
    kdim: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    latent_dim: int | None,
    projections: str,
    bias: bool,
) -> None:
    check_positive(head_dim=head_dim)
    if latent_dim is not None:
        check_positive(latent_dim=latent_dim)
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads={num_heads} is not divisible by num_kv_heads={num_kv_heads}")
    if projections not in ("all", "values", "none"):
        raise ValueError(f"projections must be all, values or none; got {projections!r}")
    if projections != "all":
        if not embed_dim == kdim == num_heads * head_dim:
            raise ValueError(
                f"projections={projections} needs embed_dim = kdim = num_heads · head_dim; got "
                f"embed_dim={embed_dim}, kdim={kdim}, num_heads={num_heads}, head_dim={head_dim}"
            )
        if bias and projections == "none":
            raise ValueError("bias needs projections to be added to; there are none")
        if num_kv_heads != num_heads:
            raise ValueError(f"num_kv_heads={num_kv_heads} needs projections=all")
        if latent_dim is not None:
            raise ValueError(f"latent_dim={latent_dim} needs projections=all")
