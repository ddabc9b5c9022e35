"""Costs are estimated without training: compared with a step on real tensors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

from attention_lab.training.build import BuiltRun
from attention_lab.training.estimate import FORMULAS, estimate
from tests.conftest import Compose
from tests.runs import build

# The fixture reads the dictionary once.
pytestmark = pytest.mark.usefixtures("tiny")

SMALL = ("trainer=cpu", "model.d_model=32", "data.batch_size=32")
#: One layer each, which takes less time to estimate.
SHALLOW = ("model=encoder_decoder", "model.num_encoder_layers=1", "model.num_decoder_layers=1")
MADE_UP = ("data.examples=200", "data.evaluation_examples=20")
REVERSE = ("data=reverse", *MADE_UP, *SHALLOW)
#: A run whose batches all have the same size.
ALIKE = ("data=copy", *MADE_UP, *SHALLOW, "data.lengths=[12,12]", "data.examples=192")


@pytest.fixture
def text(tmp_path: Any) -> str:
    path = tmp_path / "text.txt"
    path.write_text("to be or not to be, that is the question\n" * 200)
    return f"data.path={path}"


def largest_batch(run: BuiltRun) -> Any:
    """The training batch with the most tokens, padding included."""
    batches = run.data.train_dataloader()
    return max(batches, key=lambda it: len(it.lengths()) * int(it.lengths().amax(0).sum()))


def step(run: BuiltRun, optimizer: torch.optim.Optimizer, batch: Any) -> None:
    """A training step, in the order in which Lightning takes it."""
    is_mixed = run.trainer_options.precision == "bf16-mixed"
    with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
        loss = run.task.loss(batch).mean
    optimizer.zero_grad()
    loss.backward()
    run.task.configure_gradient_clipping(optimizer, 1.0, "norm")
    optimizer.step()


def measured_peak(run: BuiltRun) -> int:
    """The bytes that the CPU's allocator holds at the peak of two real steps."""
    optimizer = run.task.optimization.create_optimizer(run.task.model)
    batch = largest_batch(run)
    held = peak = sum(parameter.nbytes for parameter in run.task.model.parameters())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(2):
            step(run, optimizer, batch)
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((it.start_ns(), it.nbytes()) for it in events if it.name() == "[memory]")
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


G2P = ("data=g2p", "data.limit=300", *SHALLOW)
RUNS: list[tuple[str, ...]] = [
    (*G2P, "attention=multi_head"),
    ("data=text", "model=decoder", "model.num_layers=1", "attention=multi_head"),
    ("data=listops", *MADE_UP, "model.num_layers=1"),
    (*G2P, "trainer.precision=bf16-mixed"),
    (*G2P, "model.num_encoder_layers=2", "trainer.gradient_checkpointing=true"),
    (*G2P, "attention=additive"),
    (*G2P, "optimizer=adafactor"),
    # Weights and the state of the optimizer, which the first step lacks, are most of the memory.
    (*ALIKE, "model.d_model=128", "data.batch_size=2", "optimizer=adam"),
]


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_estimated_memory_is_that_of_a_real_step(
    overrides: tuple[str, ...], compose: Compose, text: str
) -> None:
    data = [text] if "data=text" in overrides else []
    run = build(compose(*SMALL, *overrides, *data))
    estimated = estimate(run).memory.total
    assert estimated == pytest.approx(measured_peak(run), rel=0.05)


def test_recurrent_layers_count(compose: Compose) -> None:
    data = ("data=reverse", *MADE_UP, "data.lengths=[4,8]")
    run = build(compose(*data, *SMALL, "model=recurrent_encoder_decoder"))
    cost = estimate(run)
    assert cost.memory.total == pytest.approx(measured_peak(run), rel=0.25)
    assert cost.flops > 2 * cost.parameters * cost.tokens


@pytest.mark.parametrize("attention", ["multi_head", "additive", "linear"])
def test_operations_are_those_of_a_real_step(
    attention: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batches are alike, so those of a sample have the operations of all."""
    run = build(compose(*SMALL, *ALIKE, "trainer.max_steps=5", f"attention={attention}"))
    cost, batch = estimate(run), largest_batch(run)
    optimizer = run.task.optimization.create_optimizer(run.task.model)
    monkeypatch.setattr(flop_counter, "flop_registry", FORMULAS)
    with FlopCounterMode(display=False) as counter:
        step(run, optimizer, batch)
    assert (cost.steps, cost.flops) == (5, 5 * counter.get_total_flops())


def test_both_backends_of_additive_attention_have_the_same_operations(compose: Compose) -> None:
    overrides = (*SMALL, *REVERSE, "attention=additive")
    fused, eager = (
        estimate(build(compose(*overrides, f"attention.backend={name}")))
        for name in ("fused", "eager")
    )
    assert fused.flops == eager.flops
    assert fused.memory.activations < eager.memory.activations


@pytest.mark.parametrize(
    "data",
    [REVERSE, ("data=listops", *MADE_UP, "model.num_layers=1"), ("data=recall", *MADE_UP)],
    ids=lambda data: data[0],
)
def test_tokens_are_those_that_training_counts(data: tuple[str, ...], compose: Compose) -> None:
    run = build(compose(*SMALL, *data, "trainer.max_epochs=3"))
    counted = sum(int(run.task.loss(batch).tokens) for batch in run.data.train_dataloader())
    assert estimate(run).tokens == pytest.approx(3 * counted)


@pytest.fixture(scope="module")
def alike(compose: Compose) -> BuiltRun:
    """A run that tests do not change."""
    return build(compose(*SMALL, *ALIKE, "data.batch_size=1", "trainer.max_epochs=1"))


def with_options(run: BuiltRun, **options: Any) -> BuiltRun:
    return replace(run, trainer_options=replace(run.trainer_options, **options))


def test_an_estimate_changes_nothing(alike: BuiltRun) -> None:
    state = {name: value.clone() for name, value in alike.task.state_dict().items()}
    before = torch.get_rng_state()
    first = estimate(alike)
    assert torch.equal(torch.get_rng_state(), before)
    assert estimate(alike) == first
    torch.testing.assert_close(alike.task.state_dict(), state, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in alike.task.parameters())


def test_an_epoch_has_the_same_operations_and_tokens_on_any_number_of_ranks(
    alike: BuiltRun,
) -> None:
    """With 128 ranks, rank 0 and half of the others have two of the 192 examples."""
    alone, spread = estimate(alike), estimate(with_options(alike, devices=128))
    assert (alone.steps, spread.steps) == (192, 1)
    assert spread.flops == pytest.approx(alone.flops)
    assert spread.tokens == alone.tokens


def parts(run: BuiltRun) -> Iterator[float]:
    cost = estimate(run)
    yield from vars(cost.memory).values()
    yield cost.traffic


def test_memory_and_traffic_follow_the_strategy(alike: BuiltRun) -> None:
    weights, gradients, optimizer, activations, _, _ = parts(alike)
    assert gradients == weights
    assert list(parts(with_options(alike, devices=4))) == [
        *(weights, gradients, optimizer, activations),
        *(0, 2 * 3 / 4 * gradients),
    ]
    sharded = list(parts(with_options(alike, devices=2, num_nodes=2, strategy="fsdp")))
    assert sharded[:4] == [weights / 4, gradients / 4, optimizer / 4, activations]
    assert 0 < sharded[4] < 4 * weights
    assert sharded[5] == 3 / 4 * 3 * weights


def test_a_model_that_reads_integers_is_refused(
    alike: BuiltRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = type(alike.task).loss

    def reading(self: Any, batch: Any) -> Any:
        if int(batch.source.max()):
            return loss(self, batch)
        return Tensor()

    monkeypatch.setattr(type(alike.task), "loss", reading)
    with pytest.raises(RuntimeError):
        estimate(alike)
