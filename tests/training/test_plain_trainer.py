"""The tasks train with a plain lightning.Trainer, without the command and a run directory."""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch

from attention_lab.attention import ScaledDotProduct, ScoredAttention, Softmax
from attention_lab.data.bundled.digits import Digits
from attention_lab.data.synthetic.copying import Copy
from attention_lab.data.synthetic.induction import Induction
from attention_lab.models.decoder import Decoder
from attention_lab.models.encoder_decoder import EncoderDecoder
from attention_lab.models.self_attention_classifier import SelfAttentionClassifier
from attention_lab.training.lr_schedules import Cosine
from attention_lab.training.optim import Optimization
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.classification import Classification
from attention_lab.training.tasks.language_model import LanguageModel
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence

attention = functools.partial(
    ScoredAttention, score=ScaledDotProduct, normalizer=Softmax, num_heads=2
)
OPTIMIZATION = Optimization(functools.partial(torch.optim.AdamW, lr=3e-3), Cosine(warmup_steps=2))


def classification() -> Classification:
    data = Digits(batch_size=64)
    data.setup()
    model = SelfAttentionClassifier(**data.model_arguments(), self_attention=attention, d_model=16)
    return Classification(model, data, OPTIMIZATION)


def language_model() -> LanguageModel:
    data = Induction(examples=128, evaluation_examples=64)
    data.setup()
    model = Decoder(**data.model_arguments(), self_attention=attention, d_model=16, num_layers=1)
    return LanguageModel(model, data, OPTIMIZATION)


def sequence_to_sequence() -> SequenceToSequence:
    data = Copy(
        examples=512, evaluation_examples=64, lengths=(1, 5), test_lengths=(1, 6), batch_size=64
    )
    data.setup()
    model = EncoderDecoder(**data.model_arguments(), cross_attention=attention, d_model=16)
    return SequenceToSequence(model, data, OPTIMIZATION)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [classification, language_model, sequence_to_sequence])
def test_a_task_trains_and_tests_with_the_trainers_defaults(
    make: Callable[[], AttentionTask], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These are Lightning's own logger, checkpoints, sanity check and progress bar."""
    monkeypatch.chdir(tmp_path)
    task = make()
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=1)
    trainer.fit(task, datamodule=task.data)
    assert trainer.global_step > 1
    assert int(task.tokens) > 0
    assert math.isfinite(trainer.callback_metrics["train/loss"])
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    (metrics,) = trainer.test(task, datamodule=task.data, ckpt_path=checkpoint)
    assert math.isfinite(metrics["test/loss"])
    assert f"test/{task.data.monitor}" in metrics
    assert any(name.startswith("test/accuracy/") for name in metrics)
