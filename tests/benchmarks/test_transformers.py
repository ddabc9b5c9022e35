"""The Transformers that training is compared with: same sizes, same inputs, causal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attention_lab.benchmarks import training
from attention_lab.benchmarks.implementations import Skipped
from attention_lab.benchmarks.training import (
    SAME_MODEL,
    TrainingSetting,
    _config,
    _models,
    loss_of,
    plain_loop,
)
from attention_lab.benchmarks.transformers import OTHERS, Maker, Sizes
from attention_lab.config.resolve import RunSpec
from attention_lab.data.core.batches import LabelledPositions, LabelledSequences, SequencePairs
from attention_lab.tracking.run_config import resolve
from attention_lab.training.build import build

SIZES = Sizes(16, 2, 2, 11, 12, source_vocab_size=13)


def made(makers: Mapping[str, Maker], name: str) -> nn.Module:
    model = makers[name](SIZES)
    assert not isinstance(model, Skipped)
    return model.eval()


@pytest.mark.parametrize("name", OTHERS["decoder"])
def test_a_language_model_is_causal(name: str) -> None:
    model = made(OTHERS["decoder"], name)
    tokens = torch.randint(11, (2, 8))
    changed = tokens.index_fill(1, torch.tensor([7]), 3)
    with torch.no_grad():
        logits, others = model(tokens), model(changed)
    assert logits.shape == (2, 8, 11)
    torch.testing.assert_close(logits[:, :7], others[:, :7])


@pytest.mark.parametrize("name", OTHERS["encoder_decoder"])
def test_an_encoder_decoder_is_causal_and_ignores_padding(name: str) -> None:
    model = made(OTHERS["encoder_decoder"], name)
    source, target = torch.randint(1, 13, (2, 6)), torch.randint(11, (2, 8))
    padded = torch.cat([source, torch.zeros(2, 2, dtype=torch.int64)], 1)
    changed = target.index_fill(1, torch.tensor([7]), 3)
    with torch.no_grad():
        logits, others = model(source, target), model(padded, changed)
    assert logits.shape == (2, 8, 11)
    torch.testing.assert_close(logits[:, :7], others[:, :7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["character", "encoder_decoder"])
def test_the_models_of_a_training_have_the_same_size(name: str, tmp_path: Path) -> None:
    models, skipped = _models(name, _config(name, TrainingSetting(9), tmp_path))
    assert skipped == []
    assert len(models) >= 3
    sizes = {key: sum(p.numel() for p in model.parameters()) for key, model in models.items()}
    for key, size in sizes.items():
        assert size == pytest.approx(sizes[SAME_MODEL], rel=0.03), key


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_loops_train_in_the_precision_of_the_run(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config("encoder_decoder", TrainingSetting(9, precision=precision), tmp_path)
    assert config["trainer"]["precision"] == precision
    autocast: list[bool] = []

    def recorded(*arguments: Any) -> torch.Tensor:
        autocast.append(torch.is_autocast_enabled("cpu"))
        return loss_of(*arguments)

    monkeypatch.setattr(training, "loss_of", recorded)
    next(plain_loop(config, build(resolve(config)).task.model, "cpu"))
    assert autocast == [precision == "bf16-mixed"]


def test_a_compiled_benchmark_compiles_the_run_and_the_loops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled, runs = list[str](), list[RunSpec]()
    monkeypatch.setattr(nn.Module, "compile", lambda model: compiled.append(type(model).__name__))
    monkeypatch.setattr(training, "train", runs.append)
    monkeypatch.setattr(training, "_speeds", lambda *_: [])
    training.benchmark("encoder_decoder", TrainingSetting(9, compiled=True), lambda _: None)
    assert [spec.config.values["trainer"]["compile"] for spec in runs] == [True]
    assert len(compiled) == 1 + len(OTHERS["encoder_decoder"])


def test_the_large_character_model_is_trained_on_a_cpu_only_if_it_is_named() -> None:
    on_cpu, on_gpu = (TrainingSetting(9, device).default_trainings() for device in ("cpu", "cuda"))
    assert set(on_gpu) - set(on_cpu) == {"character_gpu"}


@pytest.mark.parametrize("name", ["character", "encoder_decoder", "encoder_classifier"])
def test_the_loss_written_by_hand_is_that_of_the_task(name: str, tmp_path: Path) -> None:
    config = _config(name, TrainingSetting(9), tmp_path)
    run = build(resolve(config))
    batch = next(iter(run.data.train_dataloader()))
    assert isinstance(batch, (SequencePairs, LabelledPositions, LabelledSequences))
    if isinstance(batch, SequencePairs):  # padding has no loss
        batch = batch._replace(target=torch.nn.functional.pad(batch.target, (0, 2)))
    smoothing = config["task"].get("label_smoothing", 0.0)
    by_hand = loss_of(run.task.model, batch, smoothing)
    torch.testing.assert_close(by_hand, run.task.loss(batch).mean)
