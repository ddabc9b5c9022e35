"""Calls of additive attention, and the error of their outputs and gradients."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import grad

from attention_lab.attention import (
    Additive,
    AttentionInputs,
    AttentionSpec,
    Causal,
    Documents,
    GlobalTokens,
    Mask,
    Padding,
    SlidingWindow,
    Softmax,
)
from attention_lab.attention.backends.api import EAGER, FUSED
from attention_lab.attention.backends.triton.additive import (
    additive_attention,
    plain_additive_attention,
)
from attention_lab.attention.backends.triton.mask_bands import UNBOUNDED


@dataclass(frozen=True)
class Case:
    """Inputs of one call: no size is a multiple of a tile's or a power of two."""

    queries: int = 37
    keys: int = 53
    batch: int = 1
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 20
    hidden_dim: int = 5
    mask: str = "none"
    start: int = 0
    scale: float = 1.0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    dropout: float = 0.0

    def visible(self) -> Mask | None:
        valid = torch.ones(self.batch, self.keys, dtype=torch.bool, device=self.device)
        valid[0, self.keys // 2 :], valid[1:] = False, False
        places = torch.arange(max(self.queries, self.keys), device=self.device)
        masks: dict[str, Mask | None] = {
            "none": None,
            "padding": Padding(valid),
            "causal": Causal(),
            "window": SlidingWindow(7),
            "centred": SlidingWindow(9, centred=True) & Padding(valid),
            "composed": (SlidingWindow(5) | GlobalTokens(2)) & Padding(valid) & Causal(),
            "documents": Documents(places.expand(self.batch, -1) // 11),
        }
        return masks[self.mask]

    def tensors(self) -> list[Tensor]:
        """Query, key and value."""
        torch.manual_seed(0)
        shapes = (self.heads, self.queries), (self.kv_heads, self.keys), (self.kv_heads, self.keys)
        query, key, value = (torch.randn(self.batch, *shape, self.head_dim) for shape in shapes)
        scaled = self.scale * query, self.scale * key, value
        return [x.to(self.device, self.dtype) for x in scaled]

    def score(self) -> Additive:
        torch.manual_seed(1)
        return Additive(self.heads, self.head_dim, self.hidden_dim).to(self.device, self.dtype)

    def inputs(self, tensors: list[Tensor], need_weights: bool = False) -> AttentionInputs:
        query, key, value = tensors
        return AttentionInputs(query, key, value, self.visible(), need_weights, self.start)


def attend(case: Case, tensors: list[Tensor], score: Additive, exact: bool = False) -> Tensor:
    backend = EAGER if exact else FUSED
    spec = AttentionSpec(score, Softmax(), dropout=case.dropout)
    return backend.compute(case.inputs(tensors), spec)[0]


def with_gradients(
    case: Case, exact: bool = False, tensors: list[Tensor] | None = None
) -> list[Tensor]:
    """The output, and the gradients for query, key, value, and the score's parameters."""
    dtype = torch.float64 if exact else case.dtype
    tensors = case.tensors() if tensors is None else tensors
    tensors = [x.to(dtype).requires_grad_() for x in tensors]
    score = case.score().to(dtype)
    output = attend(case, tensors, score, exact)
    torch.manual_seed(2)
    upstream = torch.randn(output.shape).to(case.dtype).to(output)
    gradients = grad(output, [*tensors, *score.parameters()], upstream)
    return [x.detach().cpu() for x in (output, *gradients)]


def with_dropout(exact: bool = False, device: str = "cpu") -> list[Tensor]:
    """Output, gradients and second derivatives with dropout by given seeds, causal.

    Args:
        exact: whether by the formula in double precision, with the mask that PyTorch computes.
        device: where to compute them.
    """
    torch.manual_seed(0)
    shapes = (2, 4, 37, 3), (2, 4, 53, 3), (2, 2, 53, 5), (2, 4, 3)
    dtype = torch.float64 if exact else torch.float32
    tensors = [torch.randn(shape).to(device, dtype).requires_grad_() for shape in shapes]
    seed = torch.tensor([5, 2**61 + 12345678901], device=device)
    attend = plain_additive_attention if exact else additive_attention
    output = attend(*tensors, None, seed, -UNBOUNDED, 9, 0.3)
    first = grad(output.square().sum(), tensors, create_graph=True)
    second = grad(sum(x.square().sum() for x in first), tensors)
    return [x.detach().cpu() for x in (output, *first, *second)]


def distance(case: Case, ours: list[Tensor]) -> float:
    """The largest error, relative to the norm of the exact output or gradient."""
    exact = with_gradients(replace(case, device="cpu"), exact=True)
    pairs = zip(ours, exact, strict=True)
    # The gradient for the logit of a single key is 0: there it is the error of a component.
    return max(float((a - b).norm() / (b.norm() or b.numel() ** 0.5 or 1)) for a, b in pairs)
