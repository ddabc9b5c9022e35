"""`attention-lab predict`: a prediction for each line, in order."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.vocabulary import BOS, EOS, Words
from attention_lab.models.decoding import beam_search, greedy_search
from attention_lab.training.build import BuiltRun
from attention_lab.training.prediction import Predictor
from tests.cli.conftest import Ask
from tests.conftest import Compose, FinishedRun
from tests.runs import train

WORDS = ["tomato", "a", "", "knightly", "it's", "zoo", "   "]


def pronounced(run: BuiltRun, word: str, **beam: Any) -> str:
    """The prediction for one word, without the code under test."""
    assert isinstance(run.data, SequenceToSequenceDataModule)
    ids = run.data.source_vocabulary.encode(word.strip(" "))
    if not ids:
        return ""
    write, length = beam_search if beam else greedy_search, run.task.max_length
    written = write(run.task.model, torch.tensor([ids]), BOS, EOS, length, **beam)[0].tolist()
    return run.data.target_vocabulary.decode(written)


@pytest.mark.parametrize("batch", [[], ["--batch", "1"], ["--batch", "3"]])
def test_each_line_has_a_prediction_in_order(
    ask: Ask, words_run: FinishedRun, words: BuiltRun, batch: Sequence[str]
) -> None:
    written = ask(words_run.directory, "\n".join(WORDS), *batch)  # and no break at the end
    expected = [pronounced(words, word) for word in WORDS]
    assert written.out.split("\n") == [*expected, ""]
    assert written.code == 0
    assert len(set(expected)) > 3
    assert expected[2] == ""


def test_the_beam_size_can_be_set(ask: Ask, words_run: FinishedRun, words: BuiltRun) -> None:
    lines = "\n".join(WORDS)
    for penalty, option in ((0.6, []), (3.0, ["--length-penalty", "3"])):
        written = ask(words_run.directory, lines, "--num-beams", "4", *option)
        expected = [pronounced(words, w, num_beams=4, length_penalty=penalty) for w in WORDS]
        assert written.out.splitlines() == expected
    assert written.out != ask(words_run.directory, lines).out


def test_n_best_lists_are_printed_with_scores(
    ask: Ask, words_run: FinishedRun, words: BuiltRun
) -> None:
    answer = ask(words_run.directory, "zoo\n\nknightly\n", "--num-beams", "4", "--n-best", "3")
    assert answer.code == 0, answer.err
    rows = [line.split("\t") for line in answer.out.splitlines()]
    assert [row[0] for row in rows] == ["1", "1", "1", "2", "3", "3", "3"]
    assert rows[3] == ["2", "0.0000", ""]
    for first, word in ((0, "zoo"), (4, "knightly")):
        assert rows[first][2] == pronounced(words, word, num_beams=4)
        scores = [float(row[1]) for row in rows[first : first + 3]]
        assert scores == sorted(scores, reverse=True)
        assert len({row[2] for row in rows[first : first + 3]}) == 3
    refused = ask(words_run.directory, "zoo\n", "--n-best", "3")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "attention-lab: --n-best 3: add --num-beams 3; it is 1\n"


def test_windows_line_ends_are_line_ends(ask: Ask, words_run: FinishedRun) -> None:
    assert ask(words_run.directory, "zoo\r\na\r\n") == ask(words_run.directory, "zoo\na\n")


def test_white_space_around_a_line_is_ignored(ask: Ask, words_run: FinishedRun) -> None:
    plain = ask(words_run.directory, "zoo\n\ntomato\n")
    assert ask(words_run.directory, "  zoo\t\n \u3000\n tomato \r\n") == plain
    assert (plain.code, plain.err) == (0, "")


def test_no_input_gives_no_output(ask: Ask, words_run: FinishedRun) -> None:
    assert ask(words_run.directory, "") == (0, "", "")


def test_unknown_characters_are_counted_once(ask: Ask, words_run: FinishedRun) -> None:
    answer = ask(words_run.directory, "zöö\nzoo\nÅngström\n")
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 3
    assert answer.err == "attention-lab: tokens not in the vocabulary, read as <unk>: 4\n"
    assert ask(words_run.directory, "zoo\n").err == ""


@pytest.mark.parametrize("batch", ["1", "2", "64"])
def test_a_line_that_is_not_utf8_is_an_error_after_earlier_predictions(
    ask: Ask, words_run: FinishedRun, batch: str
) -> None:
    answer = ask(words_run.directory, b"zoo\na\nc\xe4fe\ntomato\n", "--batch", batch)
    assert answer.code == 1
    assert answer.err == "attention-lab: line 3 is not UTF-8: byte 2 is invalid\n"
    assert answer.out == ask(words_run.directory, "zoo\na\n").out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (gzip.compress(b"zoo\n"), "is compressed; decompress it with gunzip"),
        ("zoo\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ],
    ids=["gzip", "utf-16"],
)
def test_input_that_is_no_text_is_one_line(
    ask: Ask, words_run: FinishedRun, content: bytes, problem: str
) -> None:
    says = f"attention-lab: the input {problem}\n"
    assert ask(words_run.directory, content) == (1, "", says)


def test_a_line_that_is_too_long_is_an_error_after_earlier_predictions(
    ask: Ask, tiny: Compose, tmp_path: Path
) -> None:
    options = ["attention/positions=learned", "attention.positions.max_length=45"]
    train(tiny(*options, "trainer.max_steps=1"), tmp_path / "run", [])
    before = ask(tmp_path / "run", "zoo\n\nö\n")
    for batch in ("1", "2", "64"):
        long = "zoo\n\nö\n" + 50 * "a" + "\ntomato\n"
        answer = ask(tmp_path / "run", long, "--batch", batch)
        problem, unknown = answer.err.splitlines()
        assert problem == (
            "attention-lab: line 4: 50 positions are more than max_length=45 learned ones; "
            "use shorter lines"
        )
        assert unknown.endswith(": 1")
        assert answer.code == 1
        assert answer.out == before.out


class Echo(Predictor):
    """Predicts the ids of its input."""

    def _predict(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        return [" ".join(map(str, row)) for row in ids]


def test_names_of_special_tokens_in_a_line_are_unknown_words() -> None:
    """As padding, they would hide the text or replace it."""
    echo = Echo(Words(["a", "b"]))
    assert echo.predict(["<pad> a", "", "</s>", "b <s>"]) == ["3 4", "", "3", "5 3"]
    assert echo.unknown == 3


def test_a_byte_order_mark_is_dropped_as_in_training(ask: Ask, words_run: FinishedRun) -> None:
    plain = ask(words_run.directory, "zoo\nword\n")
    assert ask(words_run.directory, "\ufeffzoo\nword\n") == plain
    assert plain.code == 0
