"""Data on mechanisms: formula, paper, costs and abilities, for the contract and `list`."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MechanismInfo:
    """Data on one mechanism: ``info = MechanismInfo(…)`` in its class.

    Costs grow with L queries, S keys and the size d of a head; ``symbols`` names the other sizes.
    """

    formula: str
    paper: str
    #: Operations.
    time: str = "L·S·d"
    #: Bytes beyond input and output.
    memory: str = "L·S"
    #: Bytes that step-by-step decoding keeps.
    state: str = "S·d"
    #: Other letters in the costs, and the arguments that they stand for.
    symbols: Mapping[str, str] = field(default_factory=dict)
    #: Possible values of ``backend``.
    backends: tuple[str, ...] = ("eager",)
    #: Takes any mask, causal ones included, and decodes step by step. If False, it takes only
    #: masks that hide a key from all queries (padding).
    causal: bool = True
    #: Attends to another sequence; if False, only to the queries' own.
    cross_attention: bool = True
    #: Returns weights (B, H, L, S).
    weights: bool = True
    #: The mechanism computes its output without weights; those it returns follow from its formula.
    implied_weights: bool = False
    #: The output is exactly weights · values.
    linear_in_values: bool = True
    #: Weights are at least 0 and sum to 1 where a key is visible.
    distribution: bool = True
    #: A visible key may have a weight of exactly 0.
    sparse: bool = False
    #: The order of the keys matters.
    positional: bool = False
    #: Fewer key and value heads than query heads are possible.
    grouped_heads: bool = True
    #: The device types on which it has second derivatives. On others, asking for them may raise,
    #: but they are never wrong.
    double_backward_on: tuple[str, ...] = ("cpu", "cuda", "mps")
    #: Arguments that change speed and memory only, never the output, such as a chunk size.
    speed_arguments: tuple[str, ...] = ()
    #: Arguments that replace those of the YAML when the contract tests the mechanism, such as
    #: fewer landmarks than its short sequences have positions.
    contract_arguments: Mapping[str, object] = field(default_factory=dict)
