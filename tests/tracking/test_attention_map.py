"""Attention maps: their weights and names are right, and recording them changes nothing."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_lab.attention import attention_layers, record_attention
from attention_lab.tracking.attention_map import AttentionMap, attention_maps
from attention_lab.tracking.recorded_attention import record_layers
from attention_lab.training.build import BuiltRun
from tests.conftest import Compose
from tests.runs import build


def probe_maps(run: BuiltRun, size: int = 3) -> list[AttentionMap]:
    """The maps of a run's probe."""
    batch = run.data.probe(size)
    layers = record_layers(run.task, batch)
    return attention_maps(run.task, layers, run.data.position_labels(batch), step=7)


ATTENTIONS = ["scaled_dot_product", "additive", "multi_head", "none", "masked"]
MODELS = ["encoder_decoder", "recurrent_encoder_decoder"]


@pytest.fixture(scope="module")
def build_words(compose: Compose, tiny: Compose) -> Callable[..., BuiltRun]:
    """Builds runs on the same tiny words."""
    settings = ["trainer=cpu", "logger=csv", "data.limit=20", "data.evaluation_limit=9"]
    data = build(tiny(*settings[2:])).data
    return lambda *overrides: build(compose(*settings, "model.d_model=16", *overrides), data)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_weights_are_those_of_a_direct_call(
    attention: str, model: str, build_words: Callable[..., BuiltRun]
) -> None:
    run = build_words(f"attention={attention}", f"model={model}")
    run.task.eval()
    direct: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(_call_again(name, direct), with_kwargs=True)
        for name, layer in attention_layers(run.task.model).items()
    ]
    batch = run.data.probe(5)
    run.task.record_attention(batch)
    for hook in hooks:
        hook.remove()
    labels = run.data.position_labels(batch)
    maps = probe_maps(run, 5)
    assert len(maps) == 5 * len(direct)
    for number, each in enumerate(maps):
        rows, columns = len(each.rows), len(each.columns)
        weights = direct[each.layer][number % 5, :, :rows, :columns]
        torch.testing.assert_close(each.weights, weights)
        assert each.example == "".join(labels[number % 5]["source"])
        assert each.step == 7


def _call_again(name: str, direct: dict[str, Tensor]) -> Callable[..., None]:
    """A hook that calls its layer again and keeps the weights."""

    def hook(layer: Any, arguments: Any, named: Any) -> None:
        with torch.no_grad():
            direct[name] = layer.forward(*arguments, **named, need_weights=True).weights

    return hook


@pytest.mark.parametrize(
    ("model", "attention"),
    [
        *itertools.product(MODELS, ATTENTIONS),
        *itertools.product(["recurrent_encoder_decoder model.input_feeding=true"], ATTENTIONS[:-1]),
    ],
)
def test_rows_sum_to_one_without_the_padding(
    attention: str, model: str, build_words: Callable[..., BuiltRun]
) -> None:
    run = build_words(f"attention={attention}", *f"model={model}".split())
    maps = probe_maps(run, 5)
    assert len({len(each.columns) for each in maps}) > 1  # so there was padding
    for each in maps:
        assert each.weights.shape[1:] == (len(each.rows), len(each.columns))
        assert each.weights.min() >= 0
        torch.testing.assert_close(each.weights.sum(-1), torch.ones(each.weights.shape[:2]))
        if each.layer.endswith("decoder.0.self_attention"):
            assert each.weights.triu(1).abs().max() == 0


def test_a_decoder_that_runs_step_by_step_gives_the_same_maps(
    build_words: Callable[..., BuiltRun],
) -> None:
    """A layer that is called once for each row gives one map, rows in order."""
    run = build_words("model=recurrent_encoder_decoder", "model.input_feeding=true")
    batch = run.data.probe(3)
    with torch.no_grad(), record_attention(run.task.model) as calls:
        run.task.eval().record_attention(batch)
    steps = calls["cross_attention"]
    assert len(steps) == batch.target.shape[1] - 1
    for number, each in enumerate(probe_maps(run)):
        for row, weights in zip(range(len(each.rows)), steps, strict=False):
            torch.testing.assert_close(
                each.weights[:, row], weights[number, :, 0, : len(each.columns)]
            )


def test_positions_of_images_are_named_by_row(tiny_digits: Compose) -> None:
    maps = probe_maps(build(tiny_digits()))
    assert [each.example for each in maps] == ["example 1", "example 2", "example 3"]
    assert maps[0].rows == maps[0].columns == [f"row {row}" for row in range(1, 9)]


@pytest.mark.parametrize("training", [True, False])
def test_recording_attention_does_not_change_the_run(
    training: bool, build_words: Callable[..., BuiltRun]
) -> None:
    run = build_words("model.dropout=0.5", "attention.dropout=0.5")
    run.task.train(training)
    run.data.probe(3)
    before = torch.random.get_rng_state()
    first = probe_maps(run)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {module.training for module in run.task.modules()} == {training}
    assert not any(layer.weight_hooks for layer in attention_layers(run.task.model).values())
    assert all(parameter.grad is None for parameter in run.task.parameters())
    for one, other in zip(first, probe_maps(run), strict=True):
        assert torch.equal(one.weights, other.weights)  # recorded without dropout
        assert not one.weights.requires_grad


def test_recording_stops_after_an_error(
    build_words: Callable[..., BuiltRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = build_words()
    monkeypatch.setattr(run.task.model, "lm_head", None)
    with pytest.raises(TypeError):
        probe_maps(run)
    assert not any(layer.weight_hooks for layer in attention_layers(run.task.model).values())


def test_positions_over_both_sequences_are_named_by_both(compose: Compose) -> None:
    small = ["data.examples=100", "data.evaluation_examples=50", "model.d_model=16"]
    run = build(compose("data=reverse", "model=prefix_decoder", "trainer=cpu", *small))
    batch = run.data.probe(1)
    (names,) = run.data.position_labels(batch)
    for each in probe_maps(run, size=1):
        assert each.example == " ".join(names["source"])
        assert each.rows == [*names["source"], *names["target"]]
        assert each.columns == [*names["source"], "<s>", *names["target"][:-1]]
        assert each.sources == len(names["source"])


@pytest.mark.parametrize(
    ("overrides", "teacher_forced"),
    [
        (("data=reverse", "model=recurrent_encoder_decoder"), {"cross_attention"}),
        (
            ("data=reverse", "model.num_encoder_layers=1", "model.num_decoder_layers=1"),
            {"decoder.0.self_attention", "decoder.0.cross_attention"},
        ),
        (("data=reverse", "model=prefix_decoder", "model.num_layers=1"), None),
        (("data=recall", "data.vocab_size=20", "model.num_layers=1"), None),
        (("data=parity", "model.num_layers=1"), set()),
    ],
)
def test_maps_of_predicted_targets_have_a_note(
    overrides: tuple[str, ...], teacher_forced: set[str] | None, compose: Compose
) -> None:
    small = ("data.examples=40", "data.evaluation_examples=20", "model.d_model=16", "trainer=cpu")
    maps = probe_maps(build(compose(*overrides, *small, "logger=csv")), 1)
    noted = {each.layer for each in maps if each.note == "teacher-forced: the targets are given"}
    assert noted == ({each.layer for each in maps} if teacher_forced is None else teacher_forced)
    assert {each.note for each in maps if each.layer not in noted} <= {""}


def test_a_map_without_hidden_pairs_has_none(compose: Compose) -> None:
    """Sources of one length are not padded, but a decoder hides later positions."""
    small = ["data.examples=100", "data.evaluation_examples=50", "model.d_model=16"]
    hidden = {
        each.layer.partition(".")[2]: each.hidden is not None
        for each in probe_maps(build(compose("data=reverse", "trainer=cpu", *small)), size=3)
        if each.layer.startswith("decoder.0")
    }
    assert hidden == {"0.self_attention": True, "0.cross_attention": False}


def test_white_space_has_visible_names(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b\tc\n" * 100)
    options = ["data=text", f"data.path={tmp_path / 'text.txt'}", "data.length=12"]
    run = build(compose(*options, "trainer=cpu", "model.d_model=16", "attention.num_heads=1"))
    (each, *_) = probe_maps(run, size=1)
    assert "".join(each.rows) in "a␣b⇥c↵" * 4
    assert each.columns == each.rows


def test_a_cut_map_says_so(compose: Compose) -> None:
    small = ["data.examples=100", "data.evaluation_examples=50", "model.d_model=16"]
    run = build(compose("data=reverse", "model=prefix_decoder", "trainer=cpu", *small))
    batch = run.data.probe(1)
    labels = run.data.position_labels(batch)
    total = len(labels[0]["source"]) + len(labels[0]["target"])
    for each in attention_maps(
        run.task, record_layers(run.task, batch), labels, 0, max_positions=4
    ):
        assert each.weights.shape[1:] == (4, 4)
        assert each.note.endswith(f"; the first 4 of {total} positions")
