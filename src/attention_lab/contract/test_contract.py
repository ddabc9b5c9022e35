"""The contract, for every mechanism on every backend that can compute it."""

from collections.abc import Callable

import pytest
import torch

from attention_lab.attention import AttentionLayer
from attention_lab.attention.backends.api import EAGER
from attention_lab.config.components import create
from attention_lab.contract import checks, layer_checks, transforms
from attention_lab.contract.cases import DROPOUT, WIDTH, Case, compose_attention
from attention_lab.contract.examples import Example

Need = Callable[[AttentionLayer], bool]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def weights(layer: AttentionLayer) -> bool:
    return layer.info.weights


def every_visible_key(layer: AttentionLayer) -> bool:
    return not layer.info.sparse


def no_order(layer: AttentionLayer) -> bool:
    return not layer.info.positional


def causal(layer: AttentionLayer) -> bool:
    return layer.info.causal


def across(layer: AttentionLayer) -> bool:
    return layer.info.cross_attention


def dropped_weights(layer: AttentionLayer) -> bool:
    able = layer.info
    return able.weights and able.linear_in_values and not able.sparse and layer.dropout > 0


def a_faster_backend(layer: AttentionLayer) -> bool:
    return layer.backend is not EAGER


def the_fastest_backend(layer: AttentionLayer) -> bool:
    return layer.backend.name == layer.info.backends[0]


def test_gradients(layer: AttentionLayer, it: Example) -> None:
    checks.check_gradients(layer, it)


@pytest.mark.few
def test_second_derivatives(layer: AttentionLayer, it: Example) -> None:
    checks.check_second_derivatives(layer, it)


@pytest.mark.needs(layer=a_faster_backend)
def test_every_backend_equals_eager(
    layer: AttentionLayer, reference: AttentionLayer, it: Example
) -> None:
    checks.check_agreement(layer, reference, it)


def test_hidden_keys_do_not_matter(layer: AttentionLayer, it: Example) -> None:
    checks.check_hidden_keys_do_not_matter(layer, it)


@pytest.mark.needs(layer=every_visible_key)
def test_visible_keys_matter(layer: AttentionLayer, it: Example) -> None:
    checks.check_visible_keys_matter(layer, it)


@pytest.mark.empty_rows
def test_empty_rows_are_zero(layer: AttentionLayer, it: Example) -> None:
    checks.check_empty_rows_are_zero(layer, it)


def test_large_logits(layer: AttentionLayer, it: Example) -> None:
    checks.check_large_logits(layer, it)


@pytest.mark.needs(layer=no_order)
def test_permutation_equivariance(layer: AttentionLayer, it: Example) -> None:
    checks.check_permutation_equivariance(layer, it)


@pytest.mark.needs(layer=weights)
def test_weights(layer: AttentionLayer, it: Example) -> None:
    checks.check_weights(layer, it)


@pytest.mark.needs(layer=weights)
def test_weights_only_when_asked(layer: AttentionLayer, it: Example) -> None:
    checks.check_weights_only_when_asked(layer, it)


@pytest.mark.needs(layer=weights)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.few
def test_observing_changes_nothing(layer: AttentionLayer, it: Example, dtype: torch.dtype) -> None:
    checks.check_observing_changes_nothing(layer, it, dtype)


def test_eval_is_deterministic(layer: AttentionLayer, it: Example) -> None:
    checks.check_eval_is_deterministic(layer, it)


@pytest.mark.needs(layer=dropped_weights)
def test_dropout(layer: AttentionLayer, it: Example) -> None:
    checks.check_dropout(layer, DROPOUT, it)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_low_precision(
    layer: AttentionLayer, reference: AttentionLayer, it: Example, dtype: torch.dtype
) -> None:
    checks.check_low_precision(layer, reference, it, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast(layer: AttentionLayer, dtype: torch.dtype) -> None:
    layer_checks.check_autocast(layer, dtype)


def test_saving(case: Case) -> None:
    layer_checks.check_saving(case.layer)


@pytest.mark.needs(layer=causal)
def test_decoding(layer: AttentionLayer) -> None:
    layer_checks.check_decoding(layer)


@pytest.mark.needs(layer=across)
def test_remembering(case: Case) -> None:
    layer_checks.check_remembering(case.layer(kdim=WIDTH + 4))


@pytest.mark.needs(layer=the_fastest_backend)
@pytest.mark.slow
def test_compiling(case: Case) -> None:
    transforms.check_compiling(case.layer)


@pytest.mark.needs(backend=the_fastest_backend, layer=causal)
@pytest.mark.slow
def test_compiled_decoding(layer: AttentionLayer) -> None:
    transforms.check_compiled_decoding(layer)


@pytest.mark.needs(layer=the_fastest_backend)
@pytest.mark.slow
def test_export(layer: AttentionLayer) -> None:
    transforms.check_export(layer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracing(layer: AttentionLayer) -> None:
    transforms.check_tracing(layer)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap(layer: AttentionLayer) -> None:
    transforms.check_vmap(layer)


def test_copies(layer: AttentionLayer) -> None:
    transforms.check_copies(layer)


def test_meta_device(case: Case) -> None:
    transforms.check_meta_device(case.layer, case._replace(device="meta").layer)


def test_lengths(layer: AttentionLayer) -> None:
    layer_checks.check_lengths(layer)


def test_bad_input(layer: AttentionLayer) -> None:
    layer_checks.check_bad_input(layer)


def test_every_argument_has_an_effect(case: Case) -> None:
    layer_checks.check_arguments(case.node, lambda node: create(node)(WIDTH).to(case.device))


def test_own_mask(mask_option: str, request: pytest.FixtureRequest) -> None:
    extra = request.config.getoption("attention_lab_config_dir")
    masked, bare = (
        Case(
            mask_option, compose_attention(extra, "multi_head", f"attention/mask={option}")
        ).layer()
        for option in (mask_option, "none")
    )
    if mask_option != "none":
        layer_checks.check_own_mask(masked, bare, masked.mask, length=160)
