"""`attention-lab predict RUN RUN…`: several runs predict together."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_lab.data.core.vocabulary import BOS, EOS, SPECIALS
from attention_lab.training.build import BuiltRun
from attention_lab.training.evaluation import restored
from tests.cli.conftest import Ask
from tests.cli.letters import language_run
from tests.conftest import Compose, FinishedRun
from tests.runs import train

WORDS = ["tomato", "a", "", "knightly", "zoo"]
PARITY = ("data=parity", "trainer=cpu", "logger=csv", "model.d_model=16", "trainer.max_steps=60")
PARITY += ("data.examples=200", "data.evaluation_examples=40", "data.batch_size=32")
PARITY += ("data.lengths=[4,6]", "data.test_lengths=[4,6]", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def recurrent_run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of another model on the same words; more of them are in training."""
    directory = tmp_path_factory.mktemp("recurrent") / "run"
    options = ["model=recurrent_encoder_decoder", "attention=general", "model.d_model=24"]
    options += ["data.limit=300", "data.evaluation_limit=40", "trainer.max_steps=4"]
    train(compose(*options, "trainer=cpu", "logger=csv", "optimizer.lr=0.03"), directory)
    return directory


def mean_log_p(runs: Sequence[BuiltRun], *inputs: Tensor) -> Tensor:
    """The logarithm of the mean of the runs' probabilities, without a cache."""
    with torch.no_grad():
        each: list[Any] = [run.task.cpu().eval().model(*inputs).softmax(-1) for run in runs]
    return torch.stack(each).mean(0).log()


def generated(runs: Sequence[BuiltRun], source: list[int]) -> list[int]:
    """The greedy prediction of the ensemble for source tokens, without the code under test."""
    tokens, longest = [BOS], int(runs[0].task.max_length)  # type: ignore[arg-type]
    while len(tokens) <= longest:
        log_p = mean_log_p(runs, torch.tensor([source]), torch.tensor([tokens]))
        if (token := int(log_p[0, -1].argmax())) == EOS:
            break
        tokens.append(token)
    return tokens[1:]


def pronounced(runs: Sequence[BuiltRun], word: str) -> str:
    """The greedy prediction for one word."""
    data: Any = runs[0].data
    source = data.source_vocabulary.encode(word)
    return data.target_vocabulary.decode(generated(runs, source)) if source else ""


def test_two_models_predict_by_their_mean_probabilities(
    ask: Ask, words_run: FinishedRun, recurrent_run: Path
) -> None:
    runs = [restored(words_run.directory), restored(recurrent_run)]
    lines = "\n".join(WORDS)
    answer = ask(words_run.directory, lines, "--batch", "2", str(recurrent_run))
    assert answer == (0, "".join(f"{pronounced(runs, word)}\n" for word in WORDS), "")
    alone = [ask(run, lines).out for run in (words_run.directory, recurrent_run)]
    assert answer.out not in alone


def test_a_run_twice_predicts_as_once(ask: Ask, words_run: FinishedRun, letters_run: Path) -> None:
    beam = ["--num-beams", "4", "--n-best", "3"]
    lines = "\n".join(WORDS)
    for run, options in ((words_run.directory, []), (words_run.directory, beam), (letters_run, [])):
        once = ask(run, lines, *options)
        assert once.code == 0
        assert ask(run, lines, str(run), *options) == once


def test_language_models_continue_a_prompt_together(
    ask: Ask, compose: Compose, tmp_path: Path
) -> None:
    options = ["model.positions=sinusoidal", "trainer.max_steps=3", "optimizer.lr=0.03"]
    directories = [
        language_run(compose, tmp_path / str(seed), *options, f"seed={seed}") for seed in (0, 1, 2)
    ]
    runs = [restored(directory) for directory in directories]
    vocabulary: Any = runs[0].data.text_vocabulary  # type: ignore[attr-defined]
    prompts, expected = ["a", "b", "c", "d", "abc"], ""
    for prompt in prompts:
        ids = vocabulary.encode(prompt)
        for _ in range(9):
            log_p = mean_log_p(runs, torch.tensor([ids]))[0, -1]
            ids.append(int(log_p[len(SPECIALS) :].argmax()) + len(SPECIALS))
        expected += vocabulary.decode(ids).replace("\n", "\\n") + "\n"
    lines, greedy = "\n".join(prompts), ["--length", "9", "--temperature", "0"]
    answer = ask(directories[0], lines, *map(str, directories[1:]), *greedy)
    assert answer == (0, expected, "")
    assert answer.out not in [ask(each, lines, *greedy).out for each in directories]


def test_a_prompt_must_fit_the_positions_of_all(
    ask: Ask, compose: Compose, letters_run: Path, tmp_path: Path
) -> None:
    run = language_run(compose, tmp_path / "run", "trainer.max_steps=1", "model.positions=none")
    assert len(ask(run, "a\n", "--length", "30").out) > 30
    for first, second in ((run, letters_run), (letters_run, run)):
        answer = ask(first, "a\n", str(second), "--length", "30")
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.endswith("need 30 positions, the model has 8: use --length 8\n")


def test_classifiers_predict_by_their_mean_probabilities(
    ask: Ask, compose: Compose, tmp_path: Path
) -> None:
    directories = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, directory in enumerate(directories):
        train(compose(*PARITY, f"seed={seed}"), directory)
    runs = [restored(directory) for directory in directories]
    batch = runs[0].data.split("train")
    expected = mean_log_p(runs, batch.inputs).argmax(-1).tolist()
    texts = "\n".join("".join(row["input"]) for row in runs[0].data.position_labels(batch))
    answer = ask(directories[0], texts, str(directories[1]))
    assert answer == (0, "".join(f"{('even', 'odd')[label]}\n" for label in expected), "")
    assert answer.out not in [ask(each, texts).out for each in directories]


def test_runs_that_differ_are_refused_in_one_line(
    ask: Ask, compose: Compose, words_run: FinishedRun, letters_run: Path, tmp_path: Path
) -> None:
    small = ["trainer=cpu", "logger=csv", "model.d_model=16", "trainer.max_steps=1"]
    for name, letters, labels in (("ab", "ab", "xy"), ("ac", "ac", "xy"), ("ab2", "ab", "xz")):
        table = tmp_path / f"{name}.tsv"
        texts = [f"{first * n}{second * n}" for n in range(1, 60) for first, second in [letters]]
        table.write_text("".join(f"{t}\t{labels[n % 2]}\n" for n, t in enumerate(texts)))
        for kind in ("pairs", "labels"):
            options = [f"data={kind}", f"data.train={table}", *small]
            train(compose(*options), tmp_path / f"{kind}-{name}")
    cases = [
        (words_run.directory, letters_run, "they are for sequence_to_sequence and language_model"),
        (words_run.directory, tmp_path / "pairs-ab", "they are on different data: G2P and Pairs"),
        *(
            (tmp_path / f"{kind}-ab", tmp_path / f"{kind}-{name}", what)
            for kind, name, what in (
                ("pairs", "ac", "they are on different data: their source vocabulary differs"),
                ("pairs", "ab2", "they are on different data: their target vocabulary differs"),
                ("labels", "ac", "they are on different data: their text vocabulary differs"),
                ("labels", "ab2", "their classes differ"),
            )
        ),
    ]
    for first, second, what in cases:
        answer = ask(first, "a\n", str(first), str(second))
        line = f"attention-lab: {first} and {second} cannot predict together: {what}\n"
        assert answer == (1, "", line)


def test_the_wrong_run_is_named(
    ask: Ask, words_run: FinishedRun, letters_run: Path, tmp_path: Path
) -> None:
    good = words_run.directory
    answer = ask(good, "a\n", str(tmp_path))
    says = f"attention-lab: {tmp_path} is not a run's directory: it has no config.yaml\n"
    assert answer == (1, "", says)
    answer = ask(good, "a\n", str(tmp_path / "nope"))
    says = f"predict: argument RUN: {tmp_path / 'nope'} is not a directory"
    assert answer == (2, "", f"attention-lab: {says}\n")
    answer = ask(letters_run, "a\n", str(good), "--length", "3")
    says = f"attention-lab: --length is for language_model; {good} is for sequence_to_sequence\n"
    assert answer == (2, "", says)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_bytes((good / "config.yaml").read_bytes())
    answer = ask(good, "a\n", str(tmp_path))
    says = f"attention-lab: {tmp_path} has no checkpoint best.ckpt; no validation has finished\n"
    assert answer == (1, "", says)


def test_the_checkpoint_is_that_of_each_run(
    ask: Ask, words_run: FinishedRun, recurrent_run: Path, tmp_path: Path
) -> None:
    runs = [restored(run, "last") for run in (words_run.directory, recurrent_run)]
    for name, run in (("one", words_run.directory), ("two", recurrent_run)):
        shutil.copytree(run, tmp_path / name)
        (tmp_path / name / "checkpoints" / "best.ckpt").unlink()
    answer = ask(tmp_path / "one", "zoo\n", str(tmp_path / "two"), "--checkpoint", "last")
    assert answer == (0, f"{pronounced(runs, 'zoo')}\n", "")
