"""What a mechanism can do and what it costs, as data: the contract suite and `list` read it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Capabilities:
    """What holds for one attention layer as it was configured."""

    formula: str
    paper: str
    #: Growth with L queries, S keys and width d: operations, bytes beyond input and output, and
    #: what step-by-step decoding keeps.
    time: str = "L·S·d"
    memory: str = "L·S"
    state: str = "S·d"
    #: What ``backend`` may be.
    backends: tuple[str, ...] = ("eager",)
    #: Any mask; otherwise only those that hide a key from all queries alike (padding).
    any_mask: bool = True
    #: Whether it can attend to another sequence; otherwise only to the queries' own.
    cross_attention: bool = True
    #: Whether it can give weights (B, H, L, S).
    weights: bool = True
    #: Whether nothing but the weights stands between values and output: output = weights · values.
    linear_in_values: bool = True
    #: Whether weights are at least 0, and sum to 1 where anything is visible.
    distribution: bool = True
    #: Whether a visible key may weigh exactly nothing.
    sparse: bool = False
    #: Whether the order of the keys matters.
    positional: bool = False
    #: Whether fewer key and value heads than query heads are possible.
    grouped_heads: bool = True
    #: Whether second derivatives are supported; if not, they may raise, but are never wrong.
    double_backward: bool = True

    @property
    def causal(self) -> bool:
        """Whether it can be causal, and so decode step by step."""
        return self.any_mask
