"""The language model task computes its loss and metrics at labelled positions only."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attention_lab.data.core.batches import IGNORE
from attention_lab.data.synthetic.recall import Recall
from attention_lab.training.tasks.language_model import LanguageModel
from tests.conftest import Compose
from tests.runs import build, load_data, train

TINY = (
    "data=recall",
    "data.examples=60",
    "data.evaluation_examples=300",
    "data.vocab_size=20",
    "data.lengths=[16,24]",
    "data.pairs=[2,4]",
    "model.d_model=16",
    "model.tie_word_embeddings=false",
    "trainer=cpu",
    "trainer.max_epochs=1",
    "logger=csv",
)


@pytest.fixture(scope="module")
def config(compose: Compose) -> dict[str, Any]:
    return compose(*TINY)


@pytest.fixture(scope="module")
def data(config: dict[str, Any]) -> Recall:
    loaded = load_data(config)
    assert isinstance(loaded, Recall)
    return loaded


@pytest.fixture
def task(config: dict[str, Any], data: Recall) -> LanguageModel:
    made = build(config, data).task.eval()
    assert isinstance(made, LanguageModel)
    return made


def test_the_loss_is_the_mean_over_labelled_positions(task: LanguageModel, data: Recall) -> None:
    batch = data.split("train")
    loss, _, tokens = task.loss(batch)
    logits = task.model(batch.inputs)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(tokens) == int(batch.length.sum())


def test_logits_are_computed_at_labelled_positions_only(task: LanguageModel, data: Recall) -> None:
    seen: list[torch.Size] = []
    task.model.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.shape))
    batch = data.split("train")
    task.loss(batch)
    assert seen == [(int((batch.labels != IGNORE).sum()), 20)]


def test_metrics_do_not_depend_on_the_sizes_of_batches(task: LanguageModel, data: Recall) -> None:
    """The last batch is smaller, and must have less weight."""
    everything = data.split("validation")
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        for rows in torch.arange(300).split(70):
            task.update_metrics(everything.select(rows), "validation")
        logits = task.model(everything.inputs)
    results = task.compute_metrics("validation")
    asked = everything.labels != IGNORE
    loss = F.cross_entropy(logits[asked], everything.labels[asked])
    right = (logits.argmax(-1) == everything.labels) & asked
    assert right.sum() > 0
    assert {name: float(value) for name, value in results.items()} == pytest.approx(
        {
            "loss": float(loss),
            "perplexity": math.exp(float(loss)),
            "accuracy": float(right.sum() / asked.sum()),
            "sequence_accuracy": float((right.sum(1) == asked.sum(1)).float().mean()),
        },
        rel=1e-4,
    )


def test_a_run_reports_the_accuracy_of_each_slice(config: dict[str, Any], tmp_path: Any) -> None:
    test = train(config, tmp_path / "run", [])["test"]
    assert {"accuracy/length=16,pairs=2", "accuracy/length=24,pairs=4"} <= set(test)
    assert test["accuracy/length=16,pairs=2"] <= 1


def test_slice_accuracy_counts_each_labelled_position(
    task: LanguageModel, data: Recall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that predicts the first value everywhere is correct once in each example."""
    everything = data.split("test")

    def first_value(tokens: torch.Tensor, caches: object = None) -> torch.Tensor:
        return F.one_hot(tokens[:, 1], 20).float().unsqueeze(1).expand(-1, tokens.shape[1], -1)

    monkeypatch.setattr(task.model, "hidden_states", first_value)
    task.model.lm_head = torch.nn.Identity()
    task.update_metrics(everything, "test")
    rates = task.slice_accuracy["test"].compute()
    assert {name: float(rate) for name, rate in rates.items()} == {
        "accuracy/length=16,pairs=2": 0.5,
        "accuracy/length=24,pairs=4": 0.25,
    }


def test_text_data_has_no_sequence_accuracy(compose: Any, tmp_path: Any, own_cache: None) -> None:
    """A window of text is never predicted without an error, so the metric would always be 0."""
    (tmp_path / "own.txt").write_text("to be or not to be, that is the question\n" * 40)
    options = ["data.length=16", "model.d_model=16", "trainer=cpu", "logger=csv"]
    config = compose("data=text", f"data.path={tmp_path / 'own.txt'}", *options)
    run = build(config)
    run.task.update_metrics(run.data.split("test").select(torch.arange(3)), "test")
    metrics = {"loss", "perplexity", "accuracy", "bits_per_character"}
    assert run.task.compute_metrics("test").keys() == metrics
    assert run.data.trivial_baseline("test").keys() == metrics
