"""The layer around every mechanism: projections, heads, the layer's own mask, observation."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor, nn

from attention_lab.attention.checks import check_positive
from attention_lab.attention.masks import Mask

Projections = Literal["all", "values", "none"]


class AttentionOutput(NamedTuple):
    """What attention gives back."""

    output: Tensor  #: (B, L, query_dim)
    weights: Tensor | None  #: (B, H, L, S) per head, before dropout; None unless asked for


class AttentionLayer(nn.Module, ABC):
    """Multi-head attention (Vaswani et al. 2017, §3.2.2) around one mechanism, :meth:`attend`.

    Args:
        query_dim: width of the queries, and of the output.
        memory_dim: width of what is attended to; None means ``query_dim``.
        width: width of all heads together; None means ``query_dim``.
        heads: number of query heads, H. ``width`` must be divisible by it.
        kv_heads: number of key and value heads; each serves ``heads / kv_heads`` neighbouring
            query heads (Ainslie et al. 2023, grouped-query attention). None means ``heads``.
        projections: "all": learned maps of queries, keys, values and output, as in the
            Transformer. "values": only of values and output, for scores that have maps of their
            own. "none": none at all, attention as Bahdanau and Luong wrote it down.
        bias: whether the projections have one.
        mask: the mechanism's own mask, on top of the one that each call brings.

    Raises:
        ValueError: if sizes are not positive or do not divide or agree.
    """

    def __init__(
        self,
        query_dim: int,
        memory_dim: int | None = None,
        *,
        width: int | None = None,
        heads: int = 1,
        kv_heads: int | None = None,
        projections: Projections = "all",
        bias: bool = False,
        mask: Mask | None = None,
    ) -> None:
        super().__init__()
        memory_dim = query_dim if memory_dim is None else memory_dim
        width = query_dim if width is None else width
        kv_heads = heads if kv_heads is None else kv_heads
        _check(query_dim, memory_dim, width, heads, kv_heads, projections, bias)
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, width // heads
        self.mask = mask
        #: Called with the weights of every forward pass, while anybody observes this layer.
        self.observers: list[Callable[[Tensor], None]] = []

        def projection(wanted: bool, inputs: int, outputs: int) -> nn.Module:
            return nn.Linear(inputs, outputs, bias=bias) if wanted else nn.Identity()

        kv_width = kv_heads * self.head_dim
        self.query_projection = projection(projections == "all", query_dim, width)
        self.key_projection = projection(projections == "all", memory_dim, kv_width)
        self.value_projection = projection(projections != "none", memory_dim, kv_width)
        self.output_projection = projection(projections != "none", width, query_dim)

    @abstractmethod
    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The mechanism itself.

        Args:
            query: (B, H, L, E).
            key: (B, H_kv, S, E).
            value: (B, H_kv, S, E_v).
            mask: which keys each query may look at; None means all.
            need_weights: whether the weights must be given, too.

        Returns:
            Output (B, H, L, E_v), and weights (B, H, L, S) before dropout if they were asked for.
        """

    def forward(
        self,
        query: Tensor,
        memory: Tensor | None = None,
        mask: Mask | None = None,
        need_weights: bool = False,
    ) -> AttentionOutput:
        """Attend from each query position to the memory.

        Args:
            query: (B, L, query_dim).
            memory: (B, S, memory_dim); None means the queries themselves (self-attention).
            mask: which memory positions each query may look at; None means all.
            need_weights: whether to give the weights, too. They cost time and memory.
        """
        memory = query if memory is None else memory
        output, weights = self.attend(
            self._split(self.query_projection(query), self.heads),
            self._split(self.key_projection(memory), self.kv_heads),
            self._split(self.value_projection(memory), self.kv_heads),
            _compose(self.mask, mask),
            need_weights or bool(self.observers),
        )
        for observer in self.observers:
            if weights is not None:
                observer(weights.detach())
        merged = output.transpose(1, 2).flatten(2)
        return AttentionOutput(self.output_projection(merged), weights if need_weights else None)

    @staticmethod
    def _split(sequence: Tensor, heads: int) -> Tensor:
        """(B, L, heads · E) → (B, heads, L, E)."""
        return sequence.unflatten(-1, (heads, -1)).transpose(1, 2)


def _compose(own: Mask | None, given: Mask | None) -> Mask | None:
    if own is None or given is None:
        return own if given is None else given
    return own & given


def _check(
    query_dim: int,
    memory_dim: int,
    width: int,
    heads: int,
    kv_heads: int,
    projections: str,
    bias: bool,
) -> None:
    check_positive(
        query_dim=query_dim, memory_dim=memory_dim, width=width, heads=heads, kv_heads=kv_heads
    )
    if width % heads:
        raise ValueError(f"width {width} is not divisible by heads={heads}")
    if heads % kv_heads:
        raise ValueError(f"heads={heads} is not divisible by kv_heads={kv_heads}")
    if projections not in ("all", "values", "none"):
        raise ValueError(f"projections must be all, values or none; got {projections!r}")
    if projections != "all":
        if not query_dim == memory_dim == width:
            raise ValueError(
                f"projections={projections} needs queries, memory and heads of one width; got "
                f"query_dim={query_dim}, memory_dim={memory_dim}, width={width}"
            )
        if bias and projections == "none":
            raise ValueError("bias needs projections to be added to; there are none")
        if kv_heads != heads:
            raise ValueError(f"kv_heads={kv_heads} needs projections=all to make fewer keys")
