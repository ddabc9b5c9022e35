"""Errors of `attention-lab predict` are one line with the cause."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.tracking.run_directory import read_config, write_config
from attention_lab.training.checkpoint.checkpoint_io import write
from tests.cli.conftest import Ask, Command
from tests.conftest import Compose, FinishedRun
from tests.runs import train


def test_options_of_another_task_are_refused(
    ask: Ask, command: Command, words_run: FinishedRun, letters_run: Path, digits_run: FinishedRun
) -> None:
    answer = ask(words_run.directory, "zoo\n", "--top-k", "3")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("attention-lab: --top-k is for language_model; ")
    assert answer.err.endswith("words is for sequence_to_sequence\n")
    answer = ask(letters_run, "a\n", "--n-best", "1")
    assert answer.err.startswith("attention-lab: --n-best is for sequence_to_sequence; ")
    answer = ask(letters_run, "a\n", "--length-penalty", "1")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("attention-lab: --length-penalty is for sequence_to_sequence; ")
    for run in (letters_run, digits_run.directory):
        answer = command("evaluate", str(run), "--num-beams", "3")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.endswith(", which has no beam search\n")
        assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--batch=0", "argument --batch: must be at least 1, got 0"),
        ("--num-beams=0", "argument --num-beams: must be at least 1, got 0"),
        ("--num-beams=x", "argument --num-beams: invalid whole number value: 'x'"),
        ("--length-penalty=-1", "argument --length-penalty: must be from 0 to inf, got -1"),
        ("--temperature=nan", "argument --temperature: must be from 0 to inf, got nan"),
        ("--top-p=1.5", "argument --top-p: must be from 0 to 1, got 1.5"),
        ("--seed=-1", "argument --seed: must be at least 0, got -1"),
    ],
)
def test_wrong_options_are_refused(
    ask: Ask, words_run: FinishedRun, option: str, message: str
) -> None:
    answer = ask(words_run.directory, "zoo\n", option)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.endswith(f"{message}\n")


def test_models_that_do_not_read_text_are_refused(
    ask: Ask, compose: Compose, digits_run: FinishedRun, tmp_path: Path
) -> None:
    answer = ask(digits_run.directory, "a\n")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith(
        "Digits is not a text dataset, so its models cannot predict from lines of text\n"
    )
    small = ["data.examples=64", "data.evaluation_examples=8", "data.vocab_size=16"]
    small += ["data.lengths=[8]", "data.pairs=[2]", "trainer.max_steps=1"]
    small += ["trainer=cpu", "logger=csv", "model.d_model=16"]
    train(compose("data=recall", *small), tmp_path / "recall", [])
    answer = ask(tmp_path / "recall", "a\n")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith(
        "Recall is not a text dataset, so its models cannot predict from lines of text\n"
    )


def test_a_directory_without_a_run_gives_one_line(ask: Ask, tmp_path: Path) -> None:
    answer = ask(tmp_path, "a\n")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("is not a run's directory: it has no config.yaml\n")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("lost", "missing"), [(["G2P"], "'G2P'"), (["G2P", "longest"], "'longest'")]
)
def test_a_checkpoint_without_its_data_is_an_error(
    ask: Ask, words_run: FinishedRun, tmp_path: Path, lost: list[str], missing: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    file = run / "checkpoints" / "best.ckpt"
    whole = torch.load(file, weights_only=True)
    part = whole
    for name in lost[:-1]:
        part = part[name]
    del part[lost[-1]]
    write(whole, file)
    answer = ask(run, "zoo\n")
    assert (answer.code, answer.out) == (1, "")
    problem = f"{file} cannot be used: it lacks {missing} of the dataset G2P"
    assert answer.err == f"attention-lab: {problem}\n"


def test_a_checkpoint_without_weights_is_an_error(
    ask: Ask, command: Command, words_run: FinishedRun, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    file = run / "checkpoints" / "best.ckpt"
    kept = torch.load(file, weights_only=True)
    del kept["state_dict"]
    write(kept, file)
    problem = f"attention-lab: {file} cannot be used: it holds no 'state_dict'\n"
    assert ask(run, "zoo\n") == command("evaluate", str(run)) == (1, "", problem)


def test_a_damaged_checkpoint_is_an_error(
    ask: Ask, command: Command, words_run: FinishedRun, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    file = run / "checkpoints" / "best.ckpt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    problem = f"attention-lab: {file} is damaged: its checksum is wrong\n"
    assert ask(run, "zoo\n") == command("evaluate", str(run)) == (1, "", problem)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_nan_are_refused(
    value: float, ask: Ask, command: Command, words_run: FinishedRun, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    file = run / "checkpoints" / "best.ckpt"
    kept = torch.load(file, weights_only=True)
    name = next(name for name in kept["state_dict"] if name.endswith("bias"))
    kept["state_dict"][name].view(-1)[-1] = value
    write(kept, file)
    weight = name.removeprefix("model.")
    problem = f"cannot be used: its weights are NaN or infinite, as in {weight}; train it again"
    line = f"attention-lab: {file} {problem}\n"
    assert ask(run, "zoo\n") == command("evaluate", str(run)) == (1, "", line)


class Code:
    """Pickled as a call of a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.yaml", "a: &a [x]\nb: *a", "contains an alias"),
        ("config.yaml", "schema_version: 2", "has schema_version 2, and this release reads 1"),
        ("config.yaml", "- " * 100_000, "is nested more than 64 levels deep"),
        ("status.json", '{"schema_version": 0}', "has schema_version 0, and this release reads 1"),
        ("checkpoints/best.ckpt", Code(), "holds Python objects (posix.system)"),
        ("checkpoints/best.ckpt", [1], "holds Python objects"),
    ],
)
def test_an_unsafe_run_is_refused_in_one_line(
    name: str,
    content: Any,
    reason: str,
    ask: Ask,
    command: Command,
    words_run: FinishedRun,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    if isinstance(content, str):
        (run / name).write_text(content)
    else:
        write({"state_dict": content if isinstance(content, Code) else Path()}, run / name)
    for answer in (ask(run, "zoo\n"), command("evaluate", str(run))):
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith(f"attention-lab: {run / name} ")
        assert reason in answer.err
        assert answer.err.count("\n") == 1
        assert "weights_only" not in answer.err


def test_a_config_edited_after_the_run_is_reported(
    ask: Ask, command: Command, words_run: FinishedRun, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    config = read_config(run)
    config["optimizer"]["lr"] *= 10
    write_config(run, config)
    message = "was edited after the run, so it may not match the weights"
    for use in (lambda: ask(run, "zoo\n"), lambda: command("evaluate", str(run))):
        with pytest.warns(UserWarning, match=message):
            answer = use()
        assert answer.code == 0
        assert answer.out
