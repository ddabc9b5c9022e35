"""What the attention benchmark measures: peak memory, work, results, and what it leaves out."""

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attention_lab.attention import Cache
from attention_lab.benchmarks import attention
from attention_lab.benchmarks.attention import (
    DECODING,
    FORWARD,
    PASSES,
    TRAINING,
    OtherResult,
    Results,
    benchmark,
    pass_call,
)
from attention_lab.benchmarks.ceilings import Ceilings, Work
from attention_lab.benchmarks.implementations import (
    Implementation,
    Setting,
    Skipped,
    decoder,
    distinct_options,
    make_layer,
    mechanisms,
)
from attention_lab.benchmarks.peers import GROUPS, SDPA, installed, peers
from attention_lab.benchmarks.timing import interleaved, peak_memory, spread
from attention_lab.benchmarks.work import count

SETTING = Setting(2, 4, 8, [8, 16], "cpu", torch.float32)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings that take no time to measure."""
    monkeypatch.setattr(attention, "measure_ceilings", lambda *_: Ceilings(1e9, 1e9, 1e9))


def implementations(
    *options: str, setting: Setting = SETTING, backends: list[str] | None = None
) -> list[Implementation]:
    """Our implementations of mechanisms, all but FlexAttention, which compiles for long."""
    named = backends or ["eager", "sdpa", "fused"]
    made = mechanisms(options, named, setting)
    return [each for each in made if isinstance(each, Implementation)]


def run(made: list[Implementation], setting: Setting = SETTING, limit: float = 60.0) -> Results:
    return benchmark(made, setting, 2, limit, lambda _: None)


def test_peak_memory_is_the_most_that_is_held_at_once() -> None:
    def call() -> Tensor:
        first = torch.empty(1 << 20)
        second = torch.empty(1 << 20)
        del first
        third = torch.empty(1 << 20)
        del second
        return third

    assert peak_memory(call, "cpu") == 2 * 4 << 20


def test_quartiles_of_times() -> None:
    assert spread([4.0, 1.0, 3.0, 2.0, 5.0]) == (3.0, 2.0, 4.0)
    assert spread([4.0]) == (4.0, 4.0, 4.0)


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls: dict[str, Callable[[], object]] = {
        name: lambda name=name: order.append(name) for name in "ab"
    }
    interleaved(calls, 3, "cpu")
    assert order == list("ababab")


def test_the_work_of_scaled_dot_product_attention() -> None:
    layer = implementations("scaled_dot_product")[0].on_meta()
    batch, heads, length, width = 2, 4, 16, 8
    inputs = attention.make_inputs(layer, SETTING, length, "meta")
    call, moved = pass_call(layer, FORWARD, inputs, causal=False)
    work, largest = count(call, moved)
    pairs = batch * heads * length * length
    assert work == Work(4 * pairs * width, 4 * batch * heads * length * width * 4, pairs)
    assert largest == 4 * pairs
    training, moved = pass_call(layer, TRAINING, inputs, causal=False)
    assert count(training, moved)[0] == Work(12 * pairs * width, 2 * work.bytes, pairs)


def test_the_work_of_a_decode_step() -> None:
    layer = implementations("scaled_dot_product")[0].on_meta()
    inputs = attention.make_inputs(layer, SETTING, 16, "meta")
    call, moved = pass_call(layer, DECODING, inputs, causal=False)
    assert moved == inputs[1].nbytes + inputs[2].nbytes
    assert count(call, moved)[0].flops == 4 * 2 * 4 * 17 * 8  # one query, 17 keys


@pytest.mark.parametrize("option", ["scaled_dot_product", "linear", "location"])
def test_decode_steps_all_have_the_same_length(option: str) -> None:
    layer, cache = implementations(option)[0].layer, Cache()
    assert layer is not None
    inputs = attention.make_inputs(implementations(option)[0], SETTING, max(SETTING.lengths))
    with torch.no_grad():
        step = decoder(layer, cache, *inputs)
        first, sizes = step(), [cache.size]
        for _ in range(3):
            assert torch.equal(step(), first)
            sizes.append(cache.size)
    assert len(set(sizes)) == 1
    assert cache.length == max(SETTING.lengths) + 1


def test_the_softmax_of_every_mechanism_is_work() -> None:
    for option, softmaxes in (("scaled_dot_product", 1), ("linformer", 1), ("differential", 2)):
        layer = implementations(option)[0].on_meta()
        inputs = attention.make_inputs(layer, SETTING, 16, "meta")
        work, _ = count(*pass_call(layer, FORWARD, inputs, causal=False))
        assert work.specials >= softmaxes * SETTING.batch_size * SETTING.num_heads * 16, option


@pytest.mark.parametrize(
    ("option", "causal", "pass_name", "halved"),
    [
        ("scaled_dot_product", False, FORWARD, False),
        ("scaled_dot_product", True, TRAINING, True),
        ("scaled_dot_product", True, DECODING, False),  # the last query has all keys
        ("masked", False, FORWARD, True),
        ("linear", True, FORWARD, False),
    ],
)
def test_hidden_pairs_are_no_work(option: str, causal: bool, pass_name: str, halved: bool) -> None:
    setting = replace(SETTING, causal=causal)
    each = implementations(option, setting=setting)[0]
    assert attention.is_halved(each, pass_name, setting) is halved


def test_a_ceiling_is_reached_when_the_slowest_part_runs_at_its_rate() -> None:
    assert Ceilings(10, 100, 1000).seconds(Work(20, 100, 1000)) == 2
    assert Ceilings(10, 100, 1000).seconds(Work(20, 100, 3000)) == 3


def test_every_pass_is_measured_at_every_length() -> None:
    made = implementations("scaled_dot_product", "linear")
    results = run(made)
    assert results.skipped == []
    assert {(it.name, it.pass_name, it.length) for it in results.measurements} == {
        (each.name, pass_name, length)
        for each in made
        for pass_name in PASSES
        for length in SETTING.lengths
    }
    for it in results.measurements:
        assert 0 < it.timing.low <= it.timing.median <= it.timing.high
        assert it.peak > 0
        assert it.share > 0


def test_an_eager_backend_keeps_all_pairs_and_a_fused_one_does_not() -> None:
    setting = replace(SETTING, lengths=[256])
    results = run(implementations("scaled_dot_product", setting=setting), setting)
    peak = {(it.name, it.pass_name): it.peak for it in results.measurements}
    pairs = 4 * 2 * 4 * 256 * 256
    assert peak["scaled_dot_product eager", FORWARD] >= pairs
    assert peak["scaled_dot_product sdpa", FORWARD] < pairs / 2


@pytest.mark.parametrize("causal", [False, True])
def test_all_mechanisms_and_peers_compute_what_their_reference_does(causal: bool) -> None:
    setting = replace(SETTING, lengths=[32], causal=causal)
    quick = [name for name in GROUPS if name != "flex"]  # which compiles for long
    ours = mechanisms(distinct_options(), ["eager", "sdpa", "fused", "tiled"], setting)
    found = [*peers(setting, quick), *ours]
    made = [each for each in found if isinstance(each, Implementation)]
    left_out: list[Skipped] = []
    assert list(attention._checked(made, setting, left_out)) == made
    assert left_out == []


def test_backends_that_are_measured_only_if_they_are_named() -> None:
    def names(device: str) -> list[str]:
        setting = replace(SETTING, device=device)
        return [each.name for each in mechanisms(["scaled_dot_product", "sigmoid"], None, setting)]

    shared = [f"scaled_dot_product {it}" for it in ("sdpa", "eager")]
    assert names("cpu") == [*shared, "sigmoid tiled", "sigmoid eager"]
    assert names("meta") == [*shared, "scaled_dot_product flex", "sigmoid eager"]


def test_a_peer_that_computes_something_else_is_an_error() -> None:
    def unscaled(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return (query @ key.mT).softmax(-1) @ value

    peer = Implementation("unscaled", unscaled, make_layer("scaled_dot_product", SETTING, "eager"))
    with pytest.raises(OtherResult, match=r"^unscaled: its output differs from that of our ref"):
        run([peer])


def test_a_peer_with_other_gradients_is_an_error() -> None:
    def untrained(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query.detach(), key, value)

    reference = make_layer("scaled_dot_product", SETTING, "eager")
    with pytest.raises(OtherResult, match=r"^untrained: its gradients differ from those of our"):
        run([Implementation("untrained", untrained, reference)])


def test_a_peer_that_ignores_the_causal_mask_is_an_error() -> None:
    def bidirectional(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    setting = replace(SETTING, causal=True)
    reference = make_layer("scaled_dot_product", setting, "eager")
    with pytest.raises(OtherResult, match="bidirectional"):
        run([Implementation("bidirectional", bidirectional, reference)], setting)


def failing(*_: object, **__: object) -> Tensor:
    raise RuntimeError("no available kernel\nmore")


def test_a_peer_that_refuses_a_call_is_left_out() -> None:
    reference = make_layer("scaled_dot_product", SETTING, "eager")
    results = run([Implementation("peer", failing, reference)])
    assert results.skipped == [Skipped("peer", "no available kernel")]


@pytest.mark.parametrize("option", ["scaled_dot_product", "linear"])
def test_an_error_in_our_code_is_not_left_out(option: str) -> None:
    made = [replace(it, call=failing) for it in implementations(option)]
    with pytest.raises(RuntimeError, match="no available kernel"):
        run(made)


def test_a_slow_call_is_left_out_at_longer_lengths_too() -> None:
    results = run(implementations("additive", backends=["eager"]), limit=0.0)
    assert results.measurements == []
    assert [it.name for it in results.skipped] == [
        f"additive eager, {pass_name}, length 8" for pass_name in PASSES
    ]
    assert all("raise --time-limit" in it.reason for it in results.skipped)


def test_a_call_that_needs_too_much_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attention_lab.memory.machine_memory", lambda: 100_000)
    results = run(implementations("additive"))
    assert {it.name.split(",")[0] for it in results.skipped} == {"additive eager"}
    assert "GiB" in results.skipped[0].reason


def test_sdpa_is_the_baseline() -> None:
    assert next(iter(peers(SETTING, []))).name == SDPA
    assert distinct_options()[0] == "scaled_dot_product"
    assert not {"multi_head", "gated", "latent"} & set(distinct_options())


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "x_transformers.x_transformers", None)
    left_out = [each for each in peers(SETTING, ["layers"]) if isinstance(each, Skipped)]
    assert left_out == [Skipped("x-transformers", "not installed; pip install x-transformers")]
    assert installed("no_such_module", "it") == Skipped("it", "not installed; pip install it")


def test_a_library_that_is_installed_is_measured() -> None:
    results = run([it for it in peers(SETTING, ["layers"]) if isinstance(it, Implementation)])
    projected = {it.name for it in results.measurements if it.projects}
    assert projected == {
        "torch SDPA + projections",
        "multi_head + projections",
        "nn.MultiheadAttention",
        "x-transformers",
        "x-transformers, flash",
    }
    assert all(it.pass_name != DECODING for it in results.measurements if it.projects)
