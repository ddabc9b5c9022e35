"""Every model trains on a GPU as on the CPU, in float32 and in bfloat16 mixed precision."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.training.tasks.base import AttentionTask
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import read_weights, same_weights

#: A small run, without dropout, because random numbers differ between devices.
SMALL = ("logger=csv", "trainer.log_every_n_steps=1", "trainer.max_steps=20", "model.dropout=0")
TRANSFORMER = ("model.d_model=32",)
REVERSE = ("data=reverse", "data.examples=1280", "data.evaluation_examples=128")
MODELS = {
    "encoder_decoder": (*TRANSFORMER, *REVERSE),
    "recurrent_encoder_decoder": ("model.d_model=32", *REVERSE),
    "prefix_decoder": (*TRANSFORMER, *REVERSE),
    "decoder": (
        *TRANSFORMER,
        *("data=recall", "data.vocab_size=64", "data.lengths=[32]"),
        *("data.examples=1280", "data.evaluation_examples=128", "data.batch_size=64"),
    ),
    "encoder_classifier": (
        *TRANSFORMER,
        *("data=listops", "data.examples=640", "data.evaluation_examples=64"),
    ),
    "self_attention_classifier": (*TRANSFORMER, "data=digits"),
}
MECHANISMS = ("scaled_dot_product", "additive", "multi_head", "linear", "cosine")


def composed(compose: Compose, model: str, *overrides: str) -> dict[str, Any]:
    return compose(*SMALL, f"model={model}", *MODELS[model], *overrides)


def losses(directory: Path) -> list[float]:
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


def trained(config: dict[str, Any], directory: Path) -> dict[str, Any]:
    result = train(config, directory, [])
    assert all(map(math.isfinite, losses(directory)))
    assert len(losses(directory)) == 20
    return result


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("model", MODELS)
def test_a_gpu_trains_as_the_cpu_does(
    model: str, mechanism: str, compose: Compose, tmp_path: Path
) -> None:
    options = (f"attention={mechanism}",)
    on_cpu = composed(compose, model, "trainer=cpu", *options)
    on_gpu = composed(compose, model, "trainer=gpu", "trainer.precision=32-true", *options)
    mixed = composed(compose, model, "trainer=gpu", *options)
    trained(on_cpu, tmp_path / "cpu")
    result = trained(on_gpu, tmp_path / "gpu")
    trained(mixed, tmp_path / "mixed")
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=2e-3)
    assert losses(tmp_path / "mixed") == pytest.approx(losses(tmp_path / "cpu"), rel=5e-2)
    assert 0 < result["peak_memory_bytes"] < 2e9, "the GPU's tensors, not the process"


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_a_run_on_a_gpu_is_resumed_exactly(
    backend: str, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(
        compose,
        "encoder_decoder",
        *("trainer=gpu", "trainer.deterministic=true"),
        *("attention=multi_head", f"attention.backend={backend}"),
        *("model.dropout=0.1", "attention.dropout=0.1", "trainer.every_n_train_steps=5"),
    )
    trained(config, tmp_path / "whole")
    step = AttentionTask.training_step

    def fail_at_12(self: AttentionTask, *arguments: Any) -> Any:
        if self.trainer.global_step == 12:
            raise RuntimeError("cut off")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AttentionTask, "training_step", fail_at_12)
        with pytest.raises(RuntimeError, match="cut off"):
            train(config, tmp_path / "run", [])
    trained(config, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert same_weights(read_weights(tmp_path / "run"), read_weights(tmp_path / "whole"))


@pytest.mark.parametrize("mechanism", ["multi_head", "additive", "linear"])
@pytest.mark.parametrize("model", [name for name in MODELS if "recurrent" not in name])
def test_a_training_step_never_waits_for_the_gpu(
    model: str, mechanism: str, compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each step waited, the GPU would idle while the CPU prepares the next kernels.

    Only a recurrent encoder waits: PyTorch packs sequences by lengths on the CPU.
    """
    config = composed(
        compose, model, "trainer=gpu", f"attention={mechanism}", "trainer.log_every_n_steps=50"
    )
    step = AttentionTask.training_step

    def without_waiting(self: AttentionTask, *arguments: Any) -> Any:
        # The first steps may wait, to choose kernels.
        torch.cuda.set_sync_debug_mode("error" if self.trainer.global_step > 2 else "default")
        try:
            return step(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(AttentionTask, "training_step", without_waiting)
    train(config, tmp_path / "run", [])


def test_the_cpu_evaluates_and_predicts_with_a_run_of_the_gpu(
    compose: Compose, tmp_path: Path
) -> None:
    run = tmp_path / "sweep" / "run"
    trained(composed(compose, "encoder_decoder", "trainer=gpu"), run)

    def command(*arguments: str, visible: str) -> str:
        return subprocess.check_output(
            [sys.executable, "-m", "attention_lab", *arguments, str(run)],
            input="1 2 3\n4 5 6\n",
            env=os.environ | {"CUDA_VISIBLE_DEVICES": visible},
            text=True,
        )

    for visible in ("0", ""):
        assert "accuracy" in command("evaluate", visible=visible)
    assert command("predict", visible="0") == command("predict", visible="")
