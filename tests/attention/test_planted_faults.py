"""The contract must refuse broken mechanisms: each fault here is caught by the check for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attention_lab.attention import (
    AttentionInputs,
    Mask,
    ScaledDotProduct,
    ScoredAttention,
    Softmax,
)
from attention_lab.contract import checks as contract
from attention_lab.contract import layer_checks, transforms
from attention_lab.contract.examples import Example, example

DROPOUT = 0.25
Attended = tuple[Tensor, Tensor | None]


class Sound(ScoredAttention):
    """The mechanism that each fault below breaks at one point."""

    def __init__(self) -> None:
        super().__init__(
            12,
            score=ScaledDotProduct,
            normalizer=Softmax,
            num_heads=4,
            num_kv_heads=2,
            dropout=DROPOUT,
            backend="eager",
        )
        self.double().eval()


class Naive(Sound):
    """Attention in four lines, whose parts the faults replace."""

    def attend(self, inputs: AttentionInputs) -> Attended:
        num_heads = inputs.query.shape[1]
        logits = self.logits(inputs.query, self.groups(inputs.key, num_heads))
        visible = inputs.visible()
        if visible is None:
            visible = torch.ones_like(logits, dtype=torch.bool)
        weights = self.normalize(logits, visible)
        output = self.drop(weights) @ self.groups(inputs.value, num_heads)
        return output, weights if inputs.need_weights else None

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.mT / query.shape[-1] ** 0.5

    def groups(self, x: Tensor, num_heads: int) -> Tensor:
        return x.repeat_interleave(num_heads // x.shape[1], dim=1)

    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        some = visible.any(-1, keepdim=True)
        return logits.masked_fill(~visible & some, -torch.inf).softmax(-1) * some

    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, DROPOUT, self.training)


@dataclass(frozen=True)
class Shifted(Mask):
    """A mask that takes each query for the one ``by`` positions later."""

    mask: Mask
    by: int

    def __call__(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return self.mask(batch, head, query + self.by, key)


class LooksAhead(Sound):
    """Causal, off by one: key position ≤ query position + 1."""

    by = 1

    def attend(self, inputs: AttentionInputs) -> Attended:
        shifted = None if inputs.mask is None else Shifted(inputs.mask, self.by)
        return super().attend(replace(inputs, mask=shifted))


class OverlooksItself(LooksAhead):
    """Causal, off by one: key position < query position."""

    by = -1


class IgnoresMask(Sound):
    def attend(self, inputs: AttentionInputs) -> Attended:
        return super().attend(replace(inputs, mask=None))


class MasksByALargeNumber(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        return logits.masked_fill(~visible, -1e9).softmax(-1) * visible.any(-1, keepdim=True)


class LosesVisibleKeysToHiddenOnes(Naive):
    """What is left of the visible keys is nothing where their logits are below the hidden."""

    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        return logits.masked_fill(~visible, -1e9).softmax(-1).masked_fill(~visible, 0)


class MasksAfterNormalizing(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        return logits.softmax(-1) * visible


class AveragesEmptyRows(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        some = visible.any(-1, keepdim=True)
        return torch.where(some, super().normalize(logits, visible), 1 / logits.shape[-1])


class EmptyRowsAreNaN(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        return logits.masked_fill(~visible, -torch.inf).softmax(-1)


class EmptyRowsHaveNaNGradients(Naive):
    """The usual repair of the above: the output is right, the gradient is NaN."""

    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        hidden = torch.zeros_like(logits).masked_fill(~visible, -torch.inf)
        return (logits * 1.0 + hidden).softmax(-1).nan_to_num()


class EmptyRowsAreNaNOnTheWay(Naive):
    """Output and gradients are right, but anomaly detection would stop the training."""

    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        return logits.masked_fill(~visible, -torch.inf).softmax(-1).masked_fill(~visible, 0)


class EmptyRowsHaveAGradient(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        some = visible.any(-1, keepdim=True)
        ghost = logits - logits.detach()  # zero, with a gradient
        return torch.where(some, super().normalize(logits, visible), ghost)


class ForgetsAGradient(Naive):
    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return super().logits(query, key.detach())


class WrongScale(Naive):
    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return query @ key.mT / query.shape[-1]


class TilesGroups(Naive):
    def groups(self, x: Tensor, num_heads: int) -> Tensor:
        return x.repeat(1, num_heads // x.shape[1], 1, 1)


class KnowsPositions(Naive):
    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return super().logits(query, key) + torch.arange(key.shape[2])


class MixesTheBatch(Sound):
    def attend(self, inputs: AttentionInputs) -> Attended:
        return super().attend(replace(inputs, key=inputs.key.roll(1, 0)))


class DropsInEval(Naive):
    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, DROPOUT, training=True)


class NeverDrops(Naive):
    def drop(self, weights: Tensor) -> Tensor:
        return weights


class DropsTooMuch(Naive):
    def drop(self, weights: Tensor) -> Tensor:
        return F.dropout(weights, 2 * DROPOUT, self.training)


class DropsWithoutRescaling(Naive):
    def drop(self, weights: Tensor) -> Tensor:
        return super().drop(weights) * (1 - DROPOUT) if self.training else weights


class DropsTheOutput(NeverDrops):
    """Components of the output, where it should be weights."""

    def attend(self, inputs: AttentionInputs) -> Attended:
        output, weights = super().attend(inputs)
        return F.dropout(output, DROPOUT, self.training), weights


class WeightsAfterDropout(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        return super().drop(super().normalize(logits, visible))

    def drop(self, weights: Tensor) -> Tensor:
        return weights


class OtherWeights(Sound):
    """Gives weights that are not those behind the output."""

    def attend(self, inputs: AttentionInputs) -> Attended:
        output, weights = super().attend(inputs)
        return output, None if weights is None else self.others(weights)

    def others(self, weights: Tensor) -> Tensor:
        return weights.roll(1, dims=1)


class WeightsAveragedOverHeads(OtherWeights):
    def others(self, weights: Tensor) -> Tensor:
        return weights.mean(1, keepdim=True)


class WeightsOfHeadsAllTheSame(OtherWeights):
    def others(self, weights: Tensor) -> Tensor:
        return weights.mean(1, keepdim=True).expand_as(weights)


class WeightsUnasked(Sound):
    def attend(self, inputs: AttentionInputs) -> Attended:
        return super().attend(replace(inputs, need_weights=True))


class WeightsChangeTheOutput(Sound):
    def attend(self, inputs: AttentionInputs) -> Attended:
        output, weights = super().attend(inputs)
        return output * (1.01 if inputs.need_weights else 1), weights


class RoundsWeights(Naive):
    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        weights = super().normalize(logits, visible)
        return weights if weights.dtype == torch.float64 else (weights * 16).round() / 16


class ForgetsItsState(Naive):
    """Neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = torch.rand(()).item()

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return super().logits(query, key) * self.temperature


class SecondDerivativesAreWrong(Naive):
    """The right weights with the right gradient, in which the weights are constants."""

    def normalize(self, logits: Tensor, visible: Tensor) -> Tensor:
        fixed = super().normalize(logits, visible).detach()
        change = (logits - logits.detach()).masked_fill(~visible, 0)
        return fixed * (1 + change - (fixed * change).sum(-1, keepdim=True))


class RefusesSecondDerivatives(Naive):
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        @once_differentiable  # type: ignore[untyped-decorator]
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return cast("Tensor", self.Double.apply(super().logits(query, key) / 2))


class ObservedInAnotherPrecision(Sound):
    """Weights and then the output in single precision, where they are asked for."""

    def attend(self, inputs: AttentionInputs) -> Attended:
        if not inputs.need_weights:
            return super().attend(inputs)
        query, key, value = (x.float() for x in (inputs.query, inputs.key, inputs.value))
        output, weights = super().attend(replace(inputs, query=query, key=key, value=value))
        return output.to(inputs.query.dtype), weights


class DependsOnData(Naive):
    """A graph break, and nothing that vmap or the meta device can know."""

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return super().logits(query, key) * (1.0 if query.sum().item() < torch.inf else 2.0)


class CountsKeys(Naive):
    """One operation for each key: a graph for each length."""

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        logits = super().logits(query, key)
        for _ in range(key.shape[2]):
            logits = logits + 0
        return logits


class CannotBePickled(Naive):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda logits: logits


class KeepsABufferOutOfTheState(Naive):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()), persistent=False)

    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return super().logits(query, key) * self.one


class MakesTensorsOnTheCPU(Naive):
    def logits(self, query: Tensor, key: Tensor) -> Tensor:
        return super().logits(query, key) + torch.zeros(key.shape[2], device="cpu")


class AsksWithATensor(Naive):
    """As flags of shapes are while torch.jit.trace runs."""

    def groups(self, x: Tensor, num_heads: int) -> Tensor:
        F.scaled_dot_product_attention(x, x, x, enable_gqa=x.shape[1] > num_heads)
        return super().groups(x, num_heads)


Check = Callable[[Callable[[], ScoredAttention]], None]


def on(
    check: Callable[[ScoredAttention, Example], None],
    mask: str = "none",
    queries: int = 3,
    keys: int = 5,
) -> Check:
    return lambda make: check(make(), example(mask, queries=queries, keys=keys))


def agreement(make: Callable[[], ScoredAttention]) -> None:
    contract.check_agreement(make(), Sound(), example())


def dropout(make: Callable[[], ScoredAttention]) -> None:
    contract.check_dropout(make(), DROPOUT, example("padding"))


def low_precision(reference: Callable[[], ScoredAttention] | None) -> Check:
    """Against a sound reference; or, without one, of the layer as a reference for others."""

    def check(make: Callable[[], ScoredAttention]) -> None:
        it = example("padding", keys=20, value_dim=20)
        contract.check_low_precision(make(), (reference or make)(), it, torch.bfloat16)

    return check


def saving(make: Callable[[], ScoredAttention]) -> None:
    layer_checks.check_saving(make)


def observing(dtype: torch.dtype) -> Check:
    def check(make: Callable[[], ScoredAttention]) -> None:
        contract.check_observing_changes_nothing(make(), example("padding"), dtype)

    return check


def of_a_layer(check: Callable[[Any], None]) -> Check:
    return lambda make: check(make())


hidden_keys = partial(on, contract.check_hidden_keys_do_not_matter)
visible_keys = partial(on, contract.check_visible_keys_matter)
empty_rows = on(contract.check_empty_rows_are_zero, "padding")
weights = on(contract.check_weights, "padding")


def check_meta_device(fault: Callable[[], ScoredAttention]) -> None:
    transforms.check_meta_device(fault, fault)


FAULTS: list[tuple[type[ScoredAttention], Check]] = [
    (LooksAhead, hidden_keys("causal")),
    (LooksAhead, hidden_keys("causal", queries=5, keys=3)),
    (OverlooksItself, visible_keys("causal")),
    (OverlooksItself, visible_keys("causal", queries=5, keys=3)),
    (IgnoresMask, hidden_keys("causal")),
    (IgnoresMask, hidden_keys("padding")),
    (IgnoresMask, empty_rows),
    (MasksByALargeNumber, on(contract.check_large_logits, "causal")),
    (LosesVisibleKeysToHiddenOnes, on(contract.check_large_logits, "causal")),
    (MasksAfterNormalizing, hidden_keys("padding")),
    (MasksAfterNormalizing, weights),
    (AveragesEmptyRows, empty_rows),
    (EmptyRowsAreNaN, empty_rows),
    (EmptyRowsHaveNaNGradients, empty_rows),
    (EmptyRowsAreNaNOnTheWay, empty_rows),
    (EmptyRowsHaveAGradient, empty_rows),
    (ForgetsAGradient, on(contract.check_gradients)),
    (ForgetsAGradient, agreement),
    (WrongScale, agreement),
    (TilesGroups, agreement),
    (TilesGroups, weights),
    (KnowsPositions, on(contract.check_permutation_equivariance)),
    (MixesTheBatch, on(contract.check_permutation_equivariance)),
    (DropsInEval, on(contract.check_eval_is_deterministic)),
    (DropsInEval, weights),
    (NeverDrops, dropout),
    (DropsTooMuch, dropout),
    (DropsWithoutRescaling, dropout),
    (DropsTheOutput, dropout),
    (WeightsAfterDropout, dropout),
    (OtherWeights, weights),
    (WeightsAveragedOverHeads, weights),
    (WeightsOfHeadsAllTheSame, weights),
    (WeightsUnasked, on(contract.check_weights_only_when_asked)),
    (WeightsChangeTheOutput, on(contract.check_weights_only_when_asked)),
    (RoundsWeights, low_precision(Sound)),
    (RoundsWeights, low_precision(None)),
    (ForgetsItsState, saving),
    (SecondDerivativesAreWrong, on(contract.check_second_derivatives, "padding")),
    (RefusesSecondDerivatives, on(contract.check_second_derivatives, "padding")),
    (WeightsChangeTheOutput, observing(torch.float64)),
    (ObservedInAnotherPrecision, observing(torch.bfloat16)),
    (DependsOnData, transforms.check_compiling),
    (DependsOnData, of_a_layer(transforms.check_vmap)),
    (DependsOnData, check_meta_device),
    (CountsKeys, of_a_layer(transforms.check_compiled_decoding)),
    (CountsKeys, of_a_layer(transforms.check_export)),
    (CannotBePickled, of_a_layer(transforms.check_copies)),
    (KeepsABufferOutOfTheState, check_meta_device),
    (MakesTensorsOnTheCPU, check_meta_device),
    (AsksWithATensor, of_a_layer(transforms.check_tracing)),
]
NAMES = [fault.__name__ for fault, _ in FAULTS]


@pytest.mark.filterwarnings("ignore:Error detected in")  # anomaly detection finds what it should
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("fault", "check"), FAULTS, ids=NAMES)
def test_fault_is_caught(fault: type[ScoredAttention], check: Check) -> None:
    with pytest.raises(AssertionError):
        check(fault)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("check", [check for _, check in FAULTS], ids=NAMES)
@pytest.mark.parametrize("sound", [Sound, Naive])
def test_sound_mechanism_passes(sound: type[ScoredAttention], check: Check) -> None:
    """So it is the fault that the checks refuse."""
    check(sound)
