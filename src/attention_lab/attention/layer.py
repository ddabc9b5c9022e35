"""The layer around every mechanism: projections, heads, mask, cache and recording of weights."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypedDict, Unpack

from torch import Tensor, nn, sigmoid

from attention_lab.argument_checks import check_positive
from attention_lab.attention.backends.api import EAGER, Backend
from attention_lab.attention.cache import Cache, restored_on_failure
from attention_lab.attention.info import MechanismInfo
from attention_lab.attention.inputs import AttentionInputs, check_padding_only
from attention_lab.attention.masks import Mask, NoMask
from attention_lab.attention.parts import check_part

Projections = Literal["all", "values", "none"]


class AttentionOutput(NamedTuple):
    """What a layer returns."""

    output: Tensor  #: (B, L, embed_dim)
    weights: Tensor | None  #: (B, H, L, S) per head, before dropout; None unless asked for


class LayerOptions(TypedDict, total=False):
    """Arguments that every mechanism takes as ``**layer`` and passes on to ``AttentionLayer``.

    Their meanings and defaults are those of :class:`AttentionLayer`.
    """

    num_heads: int
    num_kv_heads: int | None
    head_dim: int | None
    bias: bool
    gate: bool
    mask: Mask | None


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
        latent_dim: size of a latent vector per position. Keys and values are made from it, and a
            cache keeps only the latents (DeepSeek-AI 2024, multi-head latent attention, without its
            separate rotary part). None means that they are made from the memory itself.
        projections: "all": learned maps of queries, keys, values and output, as in the
            Transformer. "values": only of values and output, for scores that have maps of their
            own. "none": no maps, attention as Bahdanau and Luong defined it.
        bias: whether the projections have one; the gate's always has.
        gate: whether each output component is gated by a sigmoid of the query (Qiu et al. 2025).
        mask: the layer's own mask, combined with the one that each call brings.

    Raises:
        ValueError: if sizes are not positive or do not divide or agree, or if the mechanism cannot
            use the mask.
    """

    #: How attention is computed, in mechanisms that have several backends.
    backend: Backend = EAGER
    #: Probability of dropping a weight in training, in mechanisms that drop weights.
    dropout: float = 0.0

    def __init_subclass__(cls) -> None:
        """Let ``inspect.signature`` list the shared options in place of ``**layer``."""
        super().__init_subclass__()
        cls.__signature__ = _full_signature(cls)  # type: ignore[attr-defined]  # undeclared; inspect reads it

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
        if kdim != embed_dim and not self.info.cross_attention:
            raise ValueError(
                f"{type(self).__name__} attends within one sequence only: kdim must be "
                f"embed_dim={embed_dim}, got {kdim}"
            )
        self.embed_dim, self.kdim = embed_dim, kdim
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.mask = self._own_mask(mask)
        #: Called with the weights of every forward pass: see ``record_attention``.
        self.weight_hooks: list[Callable[[Tensor], None]] = []
        #: Called with the inputs, output and weights of :meth:`attend`: see ``record_errors``.
        self.attend_hooks: list[Callable[[AttentionInputs, Tensor, Tensor | None], None]] = []

        def projection(wanted: bool, inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs, bias=bias) if wanted else nn.Identity()

        size, kv_size = num_heads * head_dim, num_kv_heads * head_dim
        source_dim = latent_dim or kdim
        self.query_projection = projection(projections == "all", embed_dim, size)
        self.latent_projection = projection(latent_dim is not None, kdim, source_dim)
        self.key_projection = projection(projections == "all", source_dim, kv_size)
        self.value_projection = projection(projections != "none", source_dim, kv_size)
        self.gate_projection = nn.Linear(embed_dim, size) if gate else None
        self.output_projection = projection(projections != "none", size, embed_dim)
        self.caches_latent = latent_dim is not None

    @property
    @abstractmethod
    def info(self) -> MechanismInfo:
        """Data on the mechanism; a class sets it by ``info = MechanismInfo(…)``.

        A layer whose data depend on its arguments replaces it in its constructor.
        """

    @property
    def dropout_p(self) -> float:
        """``dropout`` in training, else 0."""
        return self.dropout if self.training else 0.0

    @property
    def cached_key_map(self) -> Callable[[Tensor], Tensor] | None:
        """The score's map of keys, if caches keep its results, so that no step maps a key again.

        The inputs of :meth:`attend` then have ``keys_are_mapped``.
        """
        return None

    def check_lengths(self, queries: int, keys: int) -> None:  # most have no limit
        """Raise ValueError if sequences of these lengths are too long for the layer."""

    @abstractmethod
    def attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        """Compute the mechanism itself.

        Returns:
            Output (B, H, L, E_v), and weights (B, H, L, S) before dropout if ``need_weights`` is
            true and the mechanism has weights (see :attr:`info`).
        """

    def attend_next(self, inputs: AttentionInputs, cache: Cache) -> tuple[Tensor, Tensor | None]:
        """Like :meth:`attend`, for positions after those in the cache; adds them to the cache.

        A mechanism with a smaller state than all keys and values overrides this.
        """
        if not self.caches_latent:
            key, value = cache.extend(key=self._to_cache(inputs.key), value=inputs.value)
            mapped = self.cached_key_map is not None
            inputs = replace(inputs, key=key, value=value, keys_are_mapped=mapped)
        return self._attend(inputs)

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
            mask: which memory positions each query attends to; None means all. With a cache it
                covers all positions, including those in the cache.
            need_weights: whether to return the weights, too. They cost time and memory.
            cache: in self-attention, the positions before these queries, to which it adds the new
                ones; or the result of :meth:`remember`, in place of ``memory``.
            start: position of the first query in its sequence; ignored with a cache.

        Raises:
            ValueError: if shapes do not agree, or the mechanism does not support the arguments.
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
        if cache is not None and not cache.is_memory:
            with restored_on_failure(cache):
                output, weights = self._next(split_query, query, mask, with_weights, cache)
        else:
            if cache is None:
                key, value = self._keys_and_values(self.latent_projection(memory))
            else:
                key, value = cache.tensors["key"], cache.tensors["value"]
            mask.check(query.shape[0], self.num_heads, start + query.shape[1], key.shape[2])
            mapped = cache is not None and self.cached_key_map is not None
            inputs = AttentionInputs(
                split_query, key, value, mask, with_weights, start, keys_are_mapped=mapped
            )
            output, weights = self._attend(inputs)
        if cache is not None:
            cache.length += query.shape[1]
        if need_weights and weights is None:
            raise ValueError(f"{type(self).__name__} has no weights to return")
        for hook in self.weight_hooks:
            if weights is not None:
                hook(weights.detach())
        merged = output.transpose(1, 2).flatten(2)
        if self.gate_projection is not None:
            merged = merged * sigmoid(self.gate_projection(query))
        return AttentionOutput(self.output_projection(merged), weights if need_weights else None)

    def remember(self, memory: Tensor) -> Cache:
        """A cache of another sequence (B, S, kdim), to attend to it step by step.

        Passed in place of the memory, it saves projecting the memory again at each step.

        Raises:
            ValueError: if the shape is wrong, or the mechanism cannot attend to another sequence.
        """
        self._check_memory(memory)
        key, value = self._keys_and_values(self.latent_projection(memory))
        return Cache({"key": self._to_cache(key), "value": value}, is_memory=True)

    def _to_cache(self, key: Tensor) -> Tensor:
        return key if self.cached_key_map is None else self.cached_key_map(key)

    def _attend(self, inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
        output, weights = self.attend(inputs)
        for hook in self.attend_hooks:
            hook(inputs, output, weights)
        return output, weights

    def _own_mask(self, mask: Mask | None) -> Mask:
        """The layer's mask; raises ValueError if the mechanism cannot use it."""
        if mask is None:
            return NoMask()
        check_part("mask", mask, Mask)
        if not self.info.causal:
            check_padding_only(mask)
        return mask

    def _next(
        self, split_query: Tensor, sequence: Tensor, mask: Mask, with_weights: bool, cache: Cache
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of the positions after those in the cache."""
        total = cache.length + sequence.shape[1]
        mask.check(sequence.shape[0], self.num_heads, total, total)
        if not mask.is_causal:
            raise ValueError(f"{mask} shows later keys, which a cache does not have; add Causal()")
        source = self.latent_projection(sequence)
        if self.caches_latent:
            (source,) = cache.extend(latent=source)
        key, value = self._keys_and_values(source)
        inputs = AttentionInputs(split_query, key, value, mask, with_weights, cache.length)
        return self.attend_next(inputs, cache)

    def _keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H_kv, S, E) and (B, H_kv, S, E_v), made from the memory or its latent (B, S, …)."""
        return (
            self._split(self.key_projection(source), self.num_kv_heads),
            self._split(self.value_projection(source), self.num_kv_heads),
        )

    def _check_inputs(self, query: Tensor, memory: Tensor | None, cache: Cache | None) -> Tensor:
        """The memory; raises ValueError if memory, queries and cache do not fit together."""
        if cache is not None and memory is not None:
            raise ValueError("pass a cache or a memory, not both; remember(memory) makes a cache")
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
        if memory is not query and not self.info.cross_attention:
            raise ValueError(
                f"{type(self).__name__} attends within one sequence only: leave the memory out"
            )
        _check_sequence("memory", memory, self.kdim)

    @staticmethod
    def _split(sequence: Tensor, heads: int) -> Tensor:
        """(B, L, heads · E) → (B, heads, L, E)."""
        batch, length, size = sequence.shape
        # A view, as unflatten takes several times as long.
        return sequence.view(batch, length, heads, size // heads).transpose(1, 2)


def _full_signature(cls: type) -> inspect.Signature:
    """The signature of a constructor, with the shared options in place of its ``**layer``."""
    own = inspect.signature(cls.__init__)  # type: ignore[misc]  # only read, never called
    _, *parameters = own.parameters.values()
    takes_options = (Unpack[LayerOptions], "Unpack[LayerOptions]")
    if parameters and parameters[-1].annotation in takes_options:
        shared: Any = inspect.signature(AttentionLayer.__init__).parameters
        names = [name for name in LayerOptions.__annotations__ if name not in own.parameters]
        parameters[-1:] = [shared[name] for name in names]
    return own.replace(parameters=parameters)


def _check_sequence(name: str, sequence: Tensor, size: int) -> None:
    if sequence.ndim != 3 or sequence.shape[-1] != size:
        raise ValueError(f"{name}: (batch, length, {size}) expected, got {tuple(sequence.shape)}")


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
            raise ValueError("bias=true needs projections, but projections=none")
        if num_kv_heads != num_heads:
            raise ValueError(f"num_kv_heads={num_kv_heads} needs projections=all")
        if latent_dim is not None:
            raise ValueError(f"latent_dim={latent_dim} needs projections=all")
