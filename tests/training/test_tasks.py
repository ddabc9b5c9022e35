"""Losses and metrics of the tasks equal those of independent computations."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from attention_lab.data.bundled.g2p import G2P
from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.splits import SPLITS
from attention_lab.data.core.vocabulary import BOS, EOS, PAD
from attention_lab.models.base import SequenceToSequenceNetwork
from attention_lab.models.decoding import greedy_search
from attention_lab.training.finite import Diverged, RequireFinite
from attention_lab.training.tasks import sequence_to_sequence
from tests.conftest import Compose
from tests.runs import build, load_data


@pytest.fixture(scope="module")
def words(tiny: Compose) -> G2P:
    """A tiny dataset of words."""
    data: G2P = load_data(tiny())
    return data


def make(config: dict[str, Any], data: G2P) -> Any:
    """The task of a config, in eval mode."""
    return build(config, data).task.eval()


def loss_by_hand(logits: Tensor, target: Tensor, smoothing: float) -> float:
    """Mean over real positions of −Σ_v p_v log q_v, where p is smoothed over all tokens."""
    losses = []
    for row, tokens in zip(logits.log_softmax(-1), target[:, 1:].tolist(), strict=True):
        for log_q, token in zip(row, tokens, strict=True):
            if token != PAD:
                p = torch.full_like(log_q, smoothing / len(log_q))
                p[token] += 1 - smoothing
                losses.append(-(p * log_q).sum().item())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_only_the_training_loss_is_smoothed(smoothing: float, tiny: Compose, words: G2P) -> None:
    task = make(tiny(f"task.label_smoothing={smoothing}"), words)
    batch = words.split("validation")
    logits = task.model(batch.source, batch.target[:, :-1])
    loss = task.loss(batch).mean
    assert loss.item() == pytest.approx(loss_by_hand(logits, batch.target, smoothing), rel=1e-5)
    task.update_metrics(batch, "validation")
    expected = loss_by_hand(logits, batch.target, 0.0)
    assert float(task.compute_metrics("validation")["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_loss_counts_source_and_target_tokens_without_padding(tiny: Compose, words: G2P) -> None:
    spell = words.source_vocabulary.encode
    batch = SequencePairs(
        torch.tensor([spell("cat"), [*spell("a"), PAD, PAD]]),
        torch.tensor([[BOS, 5, 6, EOS, PAD], [BOS, 7, 8, 9, EOS]]),
        torch.tensor([0, 1]),
    )
    # The sources have 3 and 1 letters, the targets 2 and 3 phonemes, each with EOS.
    tokens = make(tiny(), words).loss(batch).tokens
    assert int(tokens) == 3 + 1 + 3 + 4


def test_a_batch_on_the_cpu_is_not_searched_for_tensors(words: G2P) -> None:
    batch = next(iter(words.train_dataloader()))
    assert words.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch


@cache
def distance(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Levenshtein distance by its recursive definition."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        distance(one[1:], other) + 1,
        distance(one, other[1:]) + 1,
        distance(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_metrics_do_not_depend_on_the_sizes_of_batches(tiny: Compose, words: G2P) -> None:
    """Smaller batches and shorter sequences must have less weight."""
    task = make(tiny("data.batch_size=7", "task.max_length=6"), words)
    everything = words.split("validation")
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter.mul_(2)  # so that it generates different words
        for rows in torch.arange(40).split(7):
            task.update_metrics(everything.select(rows), "validation")
        results = task.compute_metrics("validation")
        logits = task.model(everything.source, everything.target[:, :-1])
    following = everything.target[:, 1:]
    right = (logits.argmax(-1) == following)[following != PAD]
    edits = length = wrong = 0
    for row, references in enumerate(words.references("validation")):
        written = greedy_search(task.model, everything.source[row : row + 1], BOS, EOS, 6)[
            0
        ].tolist()
        written = written[: written.index(EOS)] if EOS in written else written
        errors = [(distance(tuple(written), spoken), -len(spoken)) for spoken in references]
        edits, length = edits + min(errors)[0], length - min(errors)[1]
        wrong += min(errors)[0] > 0
    assert results.keys() == {"loss", "token_accuracy", "per", "wer"}
    assert float(results["loss"]) == pytest.approx(
        loss_by_hand(logits, everything.target, 0.0), rel=1e-5
    )
    assert float(results["token_accuracy"]) == pytest.approx(float(right.float().mean()))
    assert float(results["per"]) == pytest.approx(edits / length)
    assert float(results["wer"]) == pytest.approx(wrong / 40)


def test_a_correctly_generated_word_has_no_errors(
    tiny: Compose, words: G2P, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any accepted pronunciation is correct, and tokens after EOS are ignored."""
    task, batch = make(tiny(), words), words.split("test")
    references = words.references("test")
    longest = max(len(accepted[-1]) for accepted in references)
    written = torch.full((len(references), longest + 3), 9)
    for row, accepted in enumerate(references):
        written[row, : len(accepted[-1]) + 1] = torch.tensor([*accepted[-1], EOS])
    monkeypatch.setattr(sequence_to_sequence, "greedy_search", lambda *_: written)
    task.update_metrics(batch, "test")
    results = task.compute_metrics("test")
    assert (float(results["per"]), float(results["wer"])) == (0.0, 0.0)


@pytest.mark.parametrize("kind", ["words", "digits"])
def test_computing_metrics_resets_them(
    kind: str, tiny: Compose, tiny_digits: Compose, words: G2P
) -> None:
    run = build(tiny(), words) if kind == "words" else build(tiny_digits())
    task, batch = run.task.eval(), run.data.split("validation")
    half, rest = (batch.select(rows) for rows in torch.arange(40).split(20))
    task.update_metrics(half, "validation")
    task.compute_metrics("validation")
    task.update_metrics(rest, "validation")
    after = task.compute_metrics("validation")
    task.update_metrics(rest, "validation")
    assert task.compute_metrics("validation") == after


def test_the_loss_and_metrics_of_a_classifier_equal_direct_computations(
    tiny_digits: Compose,
) -> None:
    run = build(tiny_digits())
    task, batch = run.task.eval(), run.data.split("validation")
    logits = task.model(batch.inputs)
    chosen = logits.log_softmax(-1)[torch.arange(len(batch.labels)), batch.labels]
    loss, _, tokens = task.loss(batch)
    assert loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)
    assert int(tokens) == batch.inputs.shape[0] * 8
    for rows in torch.arange(len(batch.labels)).split(50):
        task.update_metrics(batch.select(rows), "validation")
    results = task.compute_metrics("validation")
    assert results.keys() == {"loss", "accuracy"}
    assert float(results["loss"]) == pytest.approx(-chosen.mean().item(), rel=1e-5)
    right = (logits.argmax(-1) == batch.labels).float().mean()
    assert float(results["accuracy"]) == pytest.approx(float(right))


def plain_trainer(**options: Any) -> Trainer:
    """A Trainer that writes nothing."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(accelerator="cpu", enable_model_summary=False, **quiet, **options)


def poison(batch: Any) -> Any:
    """The batch with a NaN in it."""
    inputs = batch.inputs.clone()
    inputs[0] = float("nan")
    return batch._replace(inputs=inputs)


def test_nan_weights_of_a_sequence_to_sequence_model_raise_diverged(
    tiny: Compose, words: G2P
) -> None:
    task = make(tiny(), words)
    torch.nn.init.constant_(task.model.lm_head.bias, float("nan"))
    with pytest.raises(Diverged, match="the test loss is nan at step 0"):
        plain_trainer(callbacks=[RequireFinite()]).test(task, words)


@pytest.mark.parametrize("poisoned", ["all", "one of two"])
def test_a_nan_validation_loss_raises_diverged(poisoned: str, tiny_digits: Compose) -> None:
    run = build(tiny_digits())
    batch = run.data.split("validation")
    batches = [batch, poison(batch)] if poisoned == "one of two" else [poison(batch)]
    loader = DataLoader(batches, batch_size=None)
    with pytest.raises(Diverged, match="the validation loss is nan at step 0"):
        plain_trainer(callbacks=[RequireFinite()]).validate(run.task, loader)
    # Without the callback the mean is NaN: the batch is not dropped.
    (metrics,) = plain_trainer().validate(run.task, loader)
    assert math.isnan(metrics["validation/loss"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.label_smoothing=1.0", r"label_smoothing must be in \[0, 1\), got 1.0"),
        ("task.label_smoothing=-0.1", r"label_smoothing must be in \[0, 1\), got -0.1"),
        ("task.max_length=0", "max_length must be at least 1, got 0"),
    ],
)
def test_invalid_task_options_are_refused(
    override: str, message: str, tiny: Compose, words: G2P
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tiny(override), words)


@pytest.mark.parametrize("given", [3, None])
def test_max_length_limits_the_generated_tokens(
    given: int | None, tiny: Compose, words: G2P, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is the length of the longest target of any split, including EOS."""
    targets = [row for split in SPLITS for row in words.split(split).target.tolist()]
    longest = max(len(words.target_vocabulary.ids_to_tokens(row)) for row in targets)
    override = "null" if given is None else given
    task = make(tiny(f"task.max_length={override}"), words)
    asked: list[tuple[int, ...]] = []

    def spy(model: SequenceToSequenceNetwork, source: Tensor, *options: int) -> Tensor:
        asked.append(options)
        written: Tensor = greedy_search(model, source, *options)
        return written

    monkeypatch.setattr(sequence_to_sequence, "greedy_search", spy)
    task.update_metrics(words.probe(3), "validation")
    assert asked == [(BOS, EOS, given or longest + 1)]
