"""The table of predictions: its rows are right, and training does not change."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CometLogger, Logger, MLFlowLogger

from attention_lab.data.core.vocabulary import SPECIALS
from attention_lab.tracking.csv_file import CSVFile
from attention_lab.tracking.media import log_table, wandb_table
from attention_lab.training.tasks.base import Prediction
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence
from tests.conftest import Compose, FinishedRun
from tests.runs import build, train


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def trained(run: FinishedRun) -> Any:
    """The run's task with the weights of its last checkpoint."""
    built = build(run.config)
    checkpoint = run.directory / "checkpoints" / "last.ckpt"
    built.task.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    return built.task.eval()


def test_each_validation_has_the_same_examples(words_run: FinishedRun) -> None:
    found, data = rows(words_run.directory), build(words_run.config).data
    size = min(16, data.batch_size)
    assert [row["step"] for row in found] == ["2"] * size + ["4"] * size
    assert list(found[0]) == ["step", "example", "input", "reference", "prediction", "correct"]
    names = data.position_labels(data.probe(size))
    for row, other, name in zip(found[:size], found[size:], names, strict=True):
        assert row["input"] == other["input"] == "".join(name["source"])
        assert row["reference"] == other["reference"] == " ".join(name["target"][:-1])


def test_generated_targets_are_those_of_the_checkpoint(words_run: FinishedRun) -> None:
    task = trained(words_run)
    last = [row for row in rows(words_run.directory) if row["step"] == "4"]
    batch = task.data.probe(len(last))
    with torch.no_grad():
        generated = task.generate(batch.source)
    accepted = task.data.references("validation")
    for row, ids, index in zip(last, generated, batch.index.tolist(), strict=True):
        text = task.data.target_vocabulary.decode(ids)
        assert row["prediction"] == (text if len(text) <= 200 else f"{text[:200]}…")
        assert row["correct"] == str(tuple(ids) in accepted[index])


def test_every_accepted_target_is_correct(
    words_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trained(words_run)
    accepted = [[(5, 6), (7,)]] * len(task.data.references("validation"))
    monkeypatch.setattr(task.data, "references", lambda _: accepted)
    monkeypatch.setattr(task, "generate", lambda _: [[5, 6], [7], [5], []])
    found = task.predict_examples(task.data.probe(4))
    assert [each.is_correct for each in found] == [True, True, False, False]


def test_classes_are_those_of_the_checkpoint(digits_run: FinishedRun) -> None:
    task = trained(digits_run)
    last = [row for row in rows(digits_run.directory) if row["step"] == "20"]
    batch = task.data.probe(len(last))
    with torch.no_grad():
        predicted = task.model(batch.inputs).argmax(-1)
    assert [int(row["prediction"]) for row in last] == predicted.tolist()
    assert [int(row["reference"]) for row in last] == batch.labels.tolist()
    assert [row["correct"] == "True" for row in last] == (predicted == batch.labels).tolist()
    assert {row["correct"] for row in last} == {"True", "False"}
    assert last[1]["input"] == "example 2"


def test_classes_of_text_have_their_names(compose: Compose, tmp_path: Path) -> None:
    lines = "".join(f"word {number}\t{'even' if number % 2 else 'odd'}\n" for number in range(200))
    (tmp_path / "labels.tsv").write_text(lines)
    small = ["data=labels", f"data.train={tmp_path / 'labels.tsv'}", "model.d_model=16"]
    run = build(compose(*small, "trainer=cpu", "logger=csv"))
    for each in run.task.eval().predict_examples(run.data.probe(5)):
        assert {each.reference, each.prediction} <= {"even", "odd"}
        assert each.input.startswith("word ")
        assert each.is_correct == (each.reference == each.prediction)


def test_language_models_predict_the_labelled_tokens(compose: Compose) -> None:
    small = ["data.examples=40", "data.evaluation_examples=20", "model.d_model=16"]
    options = ["data=recall", "data.vocab_size=20", "data.lengths=[16,32]", "data.pairs=[2,3]"]
    run = build(compose(*options, *small, "trainer=cpu", "logger=csv"))
    batch = run.data.probe(4)
    task = run.task.eval()
    found = task.predict_examples(batch)
    with torch.no_grad():
        best = task.model.lm_head(task.model.hidden_states(batch.inputs)).argmax(-1)  # type: ignore
    for row, each in enumerate(found):
        asked = batch.labels[row] >= 0
        assert each.input.split() == list(map(str, batch.inputs[row, : batch.length[row]].tolist()))
        assert each.reference.split() == list(map(str, batch.labels[row, asked].tolist()))
        assert each.prediction.split() == list(map(str, best[row, asked].tolist()))
        assert each.is_correct == (each.prediction == each.reference)


def test_text_is_decoded(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a b\tc\n" * 100)
    options = ["data=text", f"data.path={tmp_path / 'text.txt'}", "data.length=12"]
    run = build(compose(*options, "trainer=cpu", "model.d_model=16", "attention.num_heads=1"))
    (each,) = run.task.eval().predict_examples(run.data.probe(1))
    assert each.input[1:] == each.reference[:-1]
    assert each.input in "a b\tc\n" * 4
    assert not any(special in each.prediction for special in SPECIALS[:2])


def test_there_are_no_more_examples_than_in_a_batch(tiny_digits: Compose, tmp_path: Path) -> None:
    train(tiny_digits("data.batch_size=5", "trainer.max_steps=1"), tmp_path / "run")
    assert [row["example"] for row in rows(tmp_path / "run")] == list("12345")


def test_time_spent_predicting_is_measured(words_run: FinishedRun) -> None:
    seconds = words_run.result["seconds"]
    assert 0 < seconds["predictions"] < seconds["total"]


def test_a_resumed_run_has_each_row_once(
    digits_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails after the predictions of a validation, before its checkpoint."""
    with monkeypatch.context() as patch:
        calls: list[object] = []
        log = "attention_lab.training.predictions_table.log_table"
        patch.setattr(log, lambda *arguments: calls.append(arguments) or (1 / (3 - len(calls))))
        with pytest.raises(ZeroDivisionError):
            train(digits_run.config, tmp_path / "run")
    assert {row["step"] for row in rows(tmp_path / "run")} == {"4", "8", "12"}
    train(digits_run.config, tmp_path / "run")
    assert rows(tmp_path / "run") == rows(digits_run.directory)


def test_no_text_is_a_formula_for_a_spreadsheet(
    words_run: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [Prediction("=1+1", "-1", "@a", is_correct=False)]
    monkeypatch.setattr(SequenceToSequence, "predict_examples", lambda *_: odd)
    train(words_run.config, tmp_path / "run")
    (first, *_) = rows(tmp_path / "run")
    assert list(first.values())[2:] == ["'=1+1", "-1", "'@a", "False"]


def test_markup_in_a_table_is_text() -> None:
    page = wandb_table(("<b>",), [("<script>&",)]).html
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert "&lt;script&gt;&amp;" in page


def test_columns_keep_their_order(tmp_path: Path) -> None:
    file = CSVFile(tmp_path / "predictions.csv", ("step", "example"))
    for number in (1, 2):
        file.append({"example": number, "step": 3})
        file.save()
    assert file.path.read_text() == "step,example\n3,1\n3,2\n"


# Loggers


class Recorder:
    """Keeps the arguments of its methods."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log_table(self, *arguments: Any, **named: Any) -> None:
        self.calls.append((*arguments, named))

    log_text = log_table


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (
            MLFlowLogger,
            ("id", "input,correct\n'=1+1,True\n", "key/step-000003.csv", {}),
        ),
        (
            CometLogger,
            ("key/step-000003.csv", [["'=1+1", True]], {"headers": ["input", "correct"]}),
        ),
    ],
)
def test_tables_are_logged_as_the_service_takes_them(
    kind: type[Logger], call: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kind, "experiment", recorder)
    monkeypatch.setattr(kind, "run_id", "id", raising=False)
    log_table([kind.__new__(kind)], "key", ("input", "correct"), [("=1+1", True)], 3)
    assert recorder.calls == [call]


def test_loggers_without_tables_are_skipped() -> None:
    log_table([SimpleNamespace()], "key", ("input",), [("a",)], 3)  # type: ignore[list-item]
