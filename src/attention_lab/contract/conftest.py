"""Fixtures of the contract: each test gets its mechanisms and examples."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch

from attention_lab.attention import AttentionLayer
from attention_lab.attention.backends import tiled
from attention_lab.config.compose import group_options
from attention_lab.contract import examples
from attention_lab.contract.cases import Case, cases

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
LENGTHS = [(3, 5), (5, 3)]  # (queries, keys)
SAME_LENGTHS = [(3, 3), (7, 7)]  # where only self-attention is possible


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make even the suite's short calls use tiles, and several of them."""
    for name, size in (("TILE", 16), ("FEWEST", 0), ("FEWEST_IN_TRAINING", 0)):
        monkeypatch.setattr(tiled, name, size)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = metafunc.config.getoption
    extra, only = options("attention_lab_config_dir"), options("attention_lab_mechanism")
    names = metafunc.fixturenames
    if "case" in names:
        wanted = metafunc.definition.get_closest_marker("needs")
        able = [
            case
            for device in DEVICES
            for case in cases(extra, only, device)
            if _can(case.layer(), wanted)
        ]
        if "it" in names:
            metafunc.parametrize(
                ("case", "it"), list(_with_examples(able, metafunc)), indirect=["it"]
            )
        else:
            is_slow = metafunc.definition.get_closest_marker("slow") is not None
            marks = () if is_slow else (pytest.mark.quick,)
            metafunc.parametrize(
                "case", [pytest.param(c, id=f"{c.name}-{c.device}", marks=marks) for c in able]
            )
    if "mask_option" in names:
        metafunc.parametrize(
            "mask_option", [] if only else list(group_options("attention/mask", extra))
        )


def _can(layer: AttentionLayer, wanted: pytest.Mark | None) -> bool:
    return wanted is None or all(need(layer) for need in wanted.kwargs.values())


def _with_examples(able: list[Case], metafunc: pytest.Metafunc) -> Iterator[Any]:
    """Each mechanism with each example that it can be given."""
    with_empty_rows = metafunc.definition.get_closest_marker("empty_rows") is not None
    few = metafunc.definition.get_closest_marker("few") is not None
    masks = examples.MASKS_WITH_EMPTY_ROWS if with_empty_rows else examples.MASKS
    for case, mask in product(able, masks):
        layer = case.layer()
        can = layer.info
        if "causal" in mask and not can.causal:
            continue
        hardest = "causal-and-padding" if can.causal else "padding"
        for queries, keys in LENGTHS if can.cross_attention else SAME_LENGTHS:
            is_quick = queries == LENGTHS[0][0] and mask == hardest
            if few and not is_quick:
                continue
            yield pytest.param(
                case,
                partial(
                    examples.example,
                    mask,
                    queries=queries,
                    keys=keys,
                    num_heads=layer.num_heads,
                    num_kv_heads=layer.num_kv_heads,
                    head_dim=layer.head_dim,
                    value_dim=layer.head_dim,
                    device=case.device,
                ),
                id=f"{case.name}-{mask}-{queries}x{keys}-{case.device}",
                marks=[pytest.mark.quick] if is_quick else [],
            )


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def it(request: pytest.FixtureRequest) -> examples.Example:
    """An example under one mask, with one pair of lengths."""
    make: Callable[[], examples.Example] = request.param
    return make()


@pytest.fixture
def layer(case: Case) -> AttentionLayer:
    """The mechanism, on its device."""
    return case.layer()


@pytest.fixture
def reference(case: Case, layer: AttentionLayer) -> AttentionLayer:
    """The same layer, computed eagerly."""
    eager = {"backend": "eager"} if "backend" in case.node else {}
    twin = case._replace(node={**case.node, **eager}).layer()
    twin.load_state_dict(layer.state_dict())
    return twin
