"""The contract, for every score on every backend that declares it can compute it."""

import inspect
from functools import partial

import pytest
import torch

from attention_lab import attention
from attention_lab.attention import BACKENDS, Score, ScoredAttention, Softmax
from tests.attention import contract
from tests.attention.contract import MASKS, MASKS_WITH_EMPTY_ROWS, Example

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 3
DROPOUT = 0.25

SCORES = [
    item
    for item in vars(attention).values()
    if inspect.isclass(item) and issubclass(item, Score) and not inspect.isabstract(item)
]
CASES = [
    pytest.param((score, backend.name), id=f"{score.__name__}-{backend.name}")
    for score in SCORES
    for backend in BACKENDS
    if backend.refusal(score(HEADS, HEAD_DIM), Softmax()) is None
]
LENGTHS = [(3, 5), (5, 3)]  # (queries, keys)


def make(score: type[Score], backend: str) -> ScoredAttention:
    """A layer with grouped heads, and with dropout, which must not show in eval."""
    layer = ScoredAttention(
        HEADS * HEAD_DIM,
        score=score,
        normalizer=Softmax,
        heads=HEADS,
        kv_heads=KV_HEADS,
        dropout=DROPOUT,
        backend=backend,
    )
    return layer.double().eval()


Case = tuple[type[Score], str]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def layer(case: Case, device: torch.device) -> ScoredAttention:
    return make(*case).to(device)


@pytest.fixture
def reference(case: Case, layer: ScoredAttention) -> ScoredAttention:
    """The same layer, computed eagerly."""
    twin = make(case[0], "eager").to(next(layer.parameters()).device)
    twin.load_state_dict(layer.state_dict())
    return twin


@pytest.fixture(params=LENGTHS, ids="{0[0]}x{0[1]}".format)
def lengths(request: pytest.FixtureRequest) -> tuple[int, int]:
    found: tuple[int, int] = request.param
    return found


@pytest.fixture(params=MASKS)
def it(request: pytest.FixtureRequest, lengths: tuple[int, int], device: torch.device) -> Example:
    return contract.example(request.param, queries=lengths[0], keys=lengths[1], device=device)


@pytest.fixture(params=MASKS_WITH_EMPTY_ROWS)
def it_with_empty_rows(
    request: pytest.FixtureRequest, lengths: tuple[int, int], device: torch.device
) -> Example:
    return contract.example(request.param, queries=lengths[0], keys=lengths[1], device=device)


def test_there_is_something_to_test() -> None:
    assert {score.__name__ for score in SCORES} >= {"DotProduct", "General", "Additive", "Uniform"}
    assert {case.values[0][1] for case in CASES} == {backend.name for backend in BACKENDS}  # type: ignore[index]


def test_gradients(layer: ScoredAttention, it: Example) -> None:
    contract.check_gradients(layer, it)


def test_every_backend_equals_eager(
    layer: ScoredAttention, reference: ScoredAttention, it: Example
) -> None:
    contract.check_agreement(layer, reference, it)


def test_hidden_keys_do_not_matter(layer: ScoredAttention, it: Example) -> None:
    contract.check_hidden_keys_do_not_matter(layer, it)


def test_visible_keys_matter(layer: ScoredAttention, it: Example) -> None:
    contract.check_visible_keys_matter(layer, it)


def test_empty_rows_are_zero(layer: ScoredAttention, it_with_empty_rows: Example) -> None:
    contract.check_empty_rows_are_zero(layer, it_with_empty_rows)


def test_large_logits(layer: ScoredAttention, it: Example) -> None:
    contract.check_large_logits(layer, it)


def test_permutation_equivariance(layer: ScoredAttention, it: Example) -> None:
    contract.check_permutation_equivariance(layer, it)


def test_weights(layer: ScoredAttention, it: Example) -> None:
    contract.check_weights(layer, it)


def test_weights_only_when_asked(layer: ScoredAttention, it: Example) -> None:
    contract.check_weights_only_when_asked(layer, it)


def test_eval_is_deterministic(layer: ScoredAttention, it: Example) -> None:
    contract.check_eval_is_deterministic(layer, it)


def test_dropout(layer: ScoredAttention, it: Example) -> None:
    contract.check_dropout(layer, DROPOUT, it)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_low_precision(
    layer: ScoredAttention, reference: ScoredAttention, it: Example, dtype: torch.dtype
) -> None:
    contract.check_low_precision(layer, reference, it, dtype)


def test_saving(case: Case) -> None:
    contract.check_saving(partial(make, *case), contract.example())


def test_saving_through_the_whole_layer(case: Case) -> None:
    """The projections' state is kept, too."""
    saved, loaded = make(*case), make(*case)
    query = torch.randn(2, 3, HEADS * HEAD_DIM, dtype=torch.float64)
    assert not torch.equal(saved(query).output, loaded(query).output)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(saved(query).output, loaded(query).output)
