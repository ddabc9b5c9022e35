"""`attention-lab predict` of language models: the continuation of each line."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Ask
from tests.cli.letters import language_run
from tests.conftest import Compose


def following(start: str, length: int) -> str:
    """The letters and line breaks after a start."""
    endless = itertools.cycle("abcd\n")
    after = itertools.dropwhile(lambda character: character != start[-1], endless)
    return "".join(itertools.islice(after, 1, length + 1))


def test_a_language_model_continues_its_prompt(ask: Ask, letters_run: Path) -> None:
    written = ask(letters_run, "a\n\nbcd\n", "--length", "5", "--temperature", "0")
    assert written.out == "abcd\\na\n\nbcd\\nabcd\n"
    assert written.out.splitlines()[0] == "a" + following("a", 5).replace("\n", "\\n")
    # What it does not know stays as it was typed.
    written = ask(letters_run, "Zä a\n", "--length", "2", "--temperature", "0")
    assert written.out.startswith("Zä a")
    assert written.out[4:].startswith("bc")
    # Nor does it lose white space at its ends, of which a blank is a token as any other.
    written = ask(letters_run, " a \n", "--length", "2", "--temperature", "0")
    assert written.out.startswith(" a ")
    assert written.err.endswith("read as <unk>: 2\n")


def test_samples_depend_on_the_seed(ask: Ask, letters_run: Path) -> None:
    options = ["--length", "6", "--temperature", "5"]
    lines = "a\nb\na\n"
    first = ask(letters_run, lines, *options)
    assert first.code == 0
    one, _, again = first.out.splitlines()
    assert one != again  # the same prompt, drawn anew
    assert ask(letters_run, lines, *options, "--batch", "2", "--seed", "0") == first
    assert ask(letters_run, lines, *options, "--seed", "1").out != first.out
    for option in (["--top-k", "1"], ["--top-p", "1e-9"]):
        coldest = ask(letters_run, lines, *options, *option, "--seed", "1")
        assert coldest.out == ask(letters_run, lines, "--length", "6", "--temperature", "0").out


def test_prompt_and_continuation_must_fit_the_positions(ask: Ask, letters_run: Path) -> None:
    answer = ask(letters_run, "a\nabcdabc\na\n", "--length", "4", "--temperature", "0")
    assert answer.out == "abcd\\n\n"
    assert answer.code == 1
    assert answer.err == (
        "attention-lab: line 2: a prompt of 7 tokens and --length 4 need 10 positions, the model "
        "has 8: use --length 2\n"
    )
    fits = ask(letters_run, "abcdabc\n", "--length", "2", "--temperature", "0")
    assert fits == (0, "abcdabcd\\n\n", "")
    for option in ([], ["--length", "1"]):
        answer = ask(letters_run, "abcdabcda\n", *option)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err == (
            "attention-lab: line 1: a prompt of 9 tokens, but the model has 8 positions\n"
        )


@pytest.mark.parametrize(
    ("positions", "written"),
    [
        (["model.positions=learned"], [8, 6, 1]),
        (["model.positions=none", "attention/positions=learned"], [8, 6, 1]),
        (["model.positions=sinusoidal"], [100, 100, 100]),
    ],
)
def test_the_default_length_is_what_fits(
    ask: Ask, compose: Compose, tmp_path: Path, positions: list[str], written: list[int]
) -> None:
    if len(positions) > 1:
        positions = ["attention=multi_head", *positions, "attention.positions.max_length=8"]
    run = language_run(compose, tmp_path / "run", "trainer.max_steps=1", *positions)
    prompts = ["a", "abc", "abcdabcd"]
    answer = ask(run, "\n".join(prompts))
    assert answer.code == 0, answer.err
    lines = [line.replace("\\n", "\n") for line in answer.out.splitlines()]
    assert [len(line) - len(p) for line, p in zip(lines, prompts, strict=True)] == written


def test_special_tokens_are_never_generated(ask: Ask, compose: Compose, tmp_path: Path) -> None:
    """This holds for an untrained network, too, which gives them as much probability as others."""
    options = ["trainer.max_steps=1", "model.positions=sinusoidal"]
    run = language_run(compose, tmp_path / "run", *options)
    for temperature in ("0", "1", "50"):
        options = ["--length", "300", "--temperature", temperature]
        (line,) = ask(run, "a\n", *options).out.splitlines()
        text = line.replace("\\n", "\n")
        assert len(text) == 301
        assert set(text) <= set("abcd\n")


def predicting(directory: Path, *options: str) -> subprocess.Popen[bytes]:
    """The command in a new process, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "attention_lab", "predict", str(directory), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_predictions_come_while_the_input_is_open_and_the_reader_may_close_the_pipe(
    letters_run: Path,
) -> None:
    options = ["--batch", "1", "--length", "3", "--temperature", "0"]
    with predicting(letters_run, *options) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for line in ("a", "b"):
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()
            answer = process.stdout.readline().decode()
            assert answer == line + following(line, 3).replace("\n", "\\n") + "\n"
        process.stdout.close()
        process.stdin.write(b"a\n" * 50)
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
