"""`attention-lab evaluate --ensemble`: the metrics of several runs that predict together."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.data.core.batches import IGNORE
from attention_lab.data.core.vocabulary import PAD
from attention_lab.training.checkpoint.checkpoint_io import read, write
from attention_lab.training.evaluation import restored
from tests.cli.conftest import Answer, Command
from tests.cli.letters import language_run
from tests.cli.test_predict_ensemble import PARITY, generated, mean_log_p
from tests.conftest import Compose, FinishedRun
from tests.runs import train


def metrics_of(answer: Answer) -> dict[str, float]:
    """The printed metrics by name; shares are in percent."""
    assert (answer.code, answer.err) == (0, "")
    return {line.split()[0]: float(line.split()[1]) for line in answer.out.splitlines()}


def test_targets(command: Command, tiny: Compose, words_run: FinishedRun, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(tiny("attention=multi_head", "seed=2", "data.batch_size=64", "data.packing=true"), other)
    found = metrics_of(command("evaluate", str(words_run.directory), "--ensemble", str(other)))
    runs = [restored(words_run.directory), restored(other)]
    data: Any = runs[0].data
    batch = data.split("test")
    labels = batch.target[:, 1:]
    log_p = mean_log_p(runs, batch.source, batch.target[:, :-1])
    losses = -log_p.gather(2, labels.unsqueeze(2)).squeeze(2)[labels != PAD]
    assert found["test/loss"] == pytest.approx(float(losses.mean()), abs=1e-4)
    predicted = [generated(runs, row[row != PAD].tolist()) for row in batch.source]
    per = data.scores(predicted, "test")["per"]
    assert found["test/per"] == pytest.approx(100 * per, abs=0.01)
    assert not (other / "evaluations").exists()


def test_next_tokens(command: Command, compose: Compose, tmp_path: Path) -> None:
    directories = [
        language_run(compose, tmp_path / str(seed), "trainer.max_steps=3", f"seed={seed}")
        for seed in (0, 1)
    ]
    found = metrics_of(command("evaluate", *map(str, directories), "--ensemble"))
    runs = [restored(directory) for directory in directories]
    batch = runs[0].data.split("test")
    log_p = mean_log_p(runs, batch.inputs)
    is_labelled = batch.labels != IGNORE
    losses = -log_p[is_labelled].gather(1, batch.labels[is_labelled].unsqueeze(1))
    assert found["test/loss"] == pytest.approx(float(losses.mean()), abs=1e-4)


def test_classes(command: Command, compose: Compose, tmp_path: Path) -> None:
    directories = [str(tmp_path / str(seed)) for seed in (0, 1)]
    for seed, directory in enumerate(directories):
        train(compose(*PARITY, f"seed={seed}"), Path(directory))
    found = metrics_of(command("evaluate", *directories, "--ensemble"))
    runs = [restored(Path(directory)) for directory in directories]
    batch = runs[0].data.split("test")
    log_p = mean_log_p(runs, batch.inputs)
    loss = torch.nn.functional.nll_loss(log_p, batch.labels)
    assert found["test/loss"] == pytest.approx(float(loss), abs=1e-4)
    right = (log_p.argmax(-1) == batch.labels).double().mean()
    assert found["test/accuracy"] == pytest.approx(100 * float(right), abs=0.01)
    for options in (["--num-beams", "2"], ["--ablate-heads"], ["data.test_lengths=[3,4]"]):
        answer = command("evaluate", *directories, *options, "--ensemble")
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)


def test_runs_with_other_examples_are_refused(
    command: Command, compose: Compose, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(compose(*PARITY), one)
    train(compose(*PARITY, "data.examples=300"), two)
    answer = command("evaluate", str(one), str(two), "--ensemble")
    problem = f"{two} has other examples than {one}: data.examples is 200 there, 300 here"
    assert answer == (1, "", f"attention-lab: {problem}\n")


def test_a_network_with_too_few_positions_is_refused(
    command: Command, tiny: Compose, tmp_path: Path
) -> None:
    long, short = tmp_path / "long", tmp_path / "short"
    train(tiny("task.max_length=40"), long)
    learned = ("attention/positions=learned", "attention.positions.max_length=30")
    train(tiny("attention=multi_head", *learned), short)
    code, out, err = command("evaluate", str(long), str(short), "--ensemble")
    assert (code, out) == (1, "")
    advice = f"name {short} first"
    assert err.startswith(f"attention-lab: {short} cannot decode as many tokens as {long}: decoder")
    assert err.endswith(f": 40 positions are more than max_length=30 learned ones; {advice}\n")
    assert command("evaluate", str(short), str(long), "--ensemble").code == 0


def test_a_loss_that_is_not_finite_is_one_line(
    command: Command, compose: Compose, tmp_path: Path
) -> None:
    train(compose(*PARITY), tmp_path)
    file = tmp_path / "checkpoints" / "best.ckpt"
    checkpoint = read(file)
    for weight in checkpoint["state_dict"].values():
        weight.mul_(1e30)
    write(checkpoint, file)
    answer = command("evaluate", str(tmp_path), str(tmp_path), "--ensemble")
    problem = "the ensemble cannot be evaluated: the test loss is nan at step 0"
    assert answer == (1, "", f"attention-lab: {problem}\n")
