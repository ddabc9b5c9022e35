"""`attention-lab predict` and `evaluate --beam`: lines in, lines out, in order and at once."""

import io
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.data.batches import LabelledPositions, SequencePairs
from attention_lab.data.language_model import LanguageModelData
from attention_lab.data.sequence_pairs import SequencePairsData
from attention_lab.data.vocabulary import BOS, EOS, PAD, Characters, Words
from attention_lab.models.decoding import beam_search, greedy
from attention_lab.training.building import Run, build
from attention_lab.training.checkpoint_file import write
from attention_lab.training.finished import restored
from attention_lab.training.prediction import Predictor
from attention_lab.training.run import train
from tests.cli.conftest import Answer, Command
from tests.conftest import Compose, FinishedRun

WORDS = ["tomato", "a", "", "knightly", "it's", "zoo", "   "]


class Alphabet(LanguageModelData):
    """Windows of letters in their order, a b c d a b c d …, and of lines in between."""

    monitor = "loss"
    mode = "min"

    def __init__(self, batch_size: int = 8, length: int = 8, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.length = length
        self.text_vocabulary = self.vocabulary = Characters("abcd\n")

    def load(self) -> dict[str, LabelledPositions]:
        """Every window, in every split."""
        ids = torch.tensor(self.vocabulary.read("abcd\n" * self.length))
        windows = ids.unfold(0, self.length + 1, 1)
        inputs, labels = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
        whole = LabelledPositions(
            inputs, labels, torch.full((len(ids) - self.length,), self.length)
        )
        return dict.fromkeys(("train", "validation", "test"), whole)

    def model_arguments(self) -> dict[str, int]:
        """The sizes of the vocabulary and of a window."""
        return {"vocabulary": len(self.vocabulary), "length": self.length}

    def floor(self, split: str) -> dict[str, float]:
        """Of knowing how many characters there are."""
        return {"loss": 1.6}

    def labels(self, batch: LabelledPositions) -> list[dict[str, list[str]]]:
        """The characters."""
        return [{"input": list(self.vocabulary.write(row))} for row in batch.inputs.tolist()]


def language_run(compose: Compose, directory: Path, data: dict[str, Any], *overrides: str) -> Path:
    """A finished run of a tiny decoder."""
    config = compose("data=recall", "trainer=cpu", "logger=csv", "model.width=16", *overrides)
    train({**config, "data": data}, directory, [])
    return directory


@pytest.fixture(scope="module")
def letters_run(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that has learned the order of four letters and a line break."""
    return language_run(
        compose,
        tmp_path_factory.mktemp("letters") / "run",
        {"_target_": f"{__name__}.Alphabet"},
        "model.dropout=0.0",
        "trainer.max_steps=60",
        "optimizer.lr=0.01",
        "optimizer.warmup_steps=0",
    )


Ask = Callable[..., Answer]


@pytest.fixture
def ask(command: Command, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs `attention-lab predict RUN OPTIONS…` on some input."""

    def run(directory: Path, text: str | bytes, *options: str) -> Answer:
        data = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return command("predict", str(directory), *options)

    return run


@pytest.fixture(scope="module")
def words(words_run: FinishedRun) -> Run:
    """The run on words with the weights of its best checkpoint."""
    run = restored(words_run.directory)
    run.objective.cpu().eval()
    return run


def pronounced(run: Run, word: str, **beam: Any) -> str:
    """What the network writes for one word, without the code under test."""
    assert isinstance(run.data, SequencePairsData)
    ids = run.data.source_vocabulary.read(word.strip(" "))
    if not ids:
        return ""
    write, length = beam_search if beam else greedy, run.objective.max_length
    written = write(run.objective.model, torch.tensor([ids]), BOS, EOS, length, **beam)[0].tolist()
    return run.data.target_vocabulary.write(written)


@pytest.mark.parametrize("batch", [[], ["--batch", "1"], ["--batch", "3"]])
def test_each_line_has_its_answer_in_order(
    ask: Ask, words_run: FinishedRun, words: Run, batch: Sequence[str]
) -> None:
    written = ask(words_run.directory, "\n".join(WORDS), *batch)  # and no break at the end
    expected = [pronounced(words, word) for word in WORDS]
    assert written.out.split("\n") == [*expected, ""]
    assert written.code == 0
    assert len(set(expected)) > 3
    assert expected[2] == ""


def test_a_beam_may_be_asked_for(ask: Ask, words_run: FinishedRun, words: Run) -> None:
    lines = "\n".join(WORDS)
    for penalty, option in ((0.6, []), (3.0, ["--length-penalty", "3"])):
        written = ask(words_run.directory, lines, "--beam", "4", *option)
        expected = [pronounced(words, w, beams=4, length_penalty=penalty) for w in WORDS]
        assert written.out.splitlines() == expected
    assert written.out != ask(words_run.directory, lines).out


def test_windows_line_ends_are_line_ends(ask: Ask, words_run: FinishedRun) -> None:
    assert ask(words_run.directory, "zoo\r\na\r\n") == ask(words_run.directory, "zoo\na\n")


def test_white_space_around_a_line_is_not_read(ask: Ask, words_run: FinishedRun) -> None:
    plain = ask(words_run.directory, "zoo\n\ntomato\n")
    assert ask(words_run.directory, "  zoo\t\n \u3000\n tomato \r\n") == plain
    assert (plain.code, plain.err) == (0, "")


def test_no_input_gives_no_output(ask: Ask, words_run: FinishedRun) -> None:
    assert ask(words_run.directory, "") == (0, "", "")


def test_unknown_characters_are_counted_once(ask: Ask, words_run: FinishedRun) -> None:
    answer = ask(words_run.directory, "zöö\nzoo\nÅngström\n")
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 3
    assert answer.err == "attention-lab: tokens that the run does not know, read as <unk>: 4\n"
    assert ask(words_run.directory, "zoo\n").err == ""


@pytest.mark.parametrize("batch", ["1", "2", "64"])
def test_what_is_not_utf8_is_named_after_what_comes_before(
    ask: Ask, words_run: FinishedRun, batch: str
) -> None:
    answer = ask(words_run.directory, b"zoo\na\nc\xe4fe\ntomato\n", "--batch", batch)
    assert answer.code == 1
    assert answer.err == "attention-lab: line 3 is not UTF-8, from its byte 2 on\n"
    assert answer.out == ask(words_run.directory, "zoo\na\n").out


def test_a_line_longer_than_the_positions_is_named_after_what_comes_before(
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
            "shorter lines can be read"
        )
        assert unknown.endswith(": 1")
        assert answer.code == 1
        assert answer.out == before.out


class Echo(Predictor):
    """Answers with the ids that it read."""

    def _answers(self, texts: Sequence[str], ids: Sequence[list[int]]) -> list[str]:
        return [" ".join(map(str, row)) for row in ids]


def test_special_tokens_spelt_out_are_unknown_words() -> None:
    """Padding inside a text would hide it, or be all there is."""
    echo = Echo(Words(["a", "b"]))
    assert echo.answer(["<pad> a", "", "</s>", "b <s>"]) == ["3 4", "", "3", "5 3"]
    assert echo.unknown == 3


def following(start: str, length: int) -> str:
    """The letters and line breaks after a start."""
    endless = itertools.cycle("abcd\n")
    after = itertools.dropwhile(lambda character: character != start[-1], endless)
    return "".join(itertools.islice(after, 1, length + 1))


def test_a_language_model_goes_on(ask: Ask, letters_run: Path) -> None:
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


def test_the_seed_decides_what_is_drawn(ask: Ask, letters_run: Path) -> None:
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


def test_a_prompt_and_what_follows_must_fit(ask: Ask, letters_run: Path) -> None:
    answer = ask(letters_run, "a\nabcdabc\na\n", "--length", "4", "--temperature", "0")
    assert answer.out == "abcd\\n\n"
    assert answer.code == 1
    assert answer.err == (
        "attention-lab: line 2: a prompt of 7 tokens and --length 4 need 10 positions, the model "
        "has 8: --length 2 works\n"
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
def test_without_a_length_there_is_as_much_as_fits(
    ask: Ask, compose: Compose, tmp_path: Path, positions: list[str], written: list[int]
) -> None:
    if len(positions) > 1:
        positions = ["attention=multi_head", *positions, "attention.positions.max_length=8"]
    data = {"_target_": f"{__name__}.Alphabet"}
    run = language_run(compose, tmp_path / "run", data, "trainer.max_steps=1", *positions)
    prompts = ["a", "abc", "abcdabcd"]
    answer = ask(run, "\n".join(prompts))
    assert answer.code == 0, answer.err
    lines = [line.replace("\\n", "\n") for line in answer.out.splitlines()]
    assert [len(line) - len(p) for line, p in zip(lines, prompts, strict=True)] == written


def test_special_tokens_are_never_written(ask: Ask, compose: Compose, tmp_path: Path) -> None:
    """Also by a network that knows nothing yet, for which they are as probable as any."""
    data = {"_target_": f"{__name__}.Alphabet"}
    options = ["trainer.max_steps=1", "model.positions=sinusoidal"]
    run = language_run(compose, tmp_path / "run", data, *options)
    for temperature in ("0", "1", "50"):
        options = ["--length", "300", "--temperature", temperature]
        (line,) = ask(run, "a\n", *options).out.splitlines()
        text = line.replace("\\n", "\n")
        assert len(text) == 301
        assert set(text) <= set("abcd\n")


def test_a_classifier_names_the_class(ask: Ask, compose: Compose, tmp_path: Path) -> None:
    """Also when the files that it learned from are gone."""
    kinds = {"vowels": "aeiou", "consonants": "bcdfg"}
    pairs = [(a + b, kind) for kind, of in kinds.items() for a in of for b in of]
    lines = tmp_path / "kinds.tsv"
    lines.write_text("".join(f"{text}\t{kind}\n" for text, kind in pairs))
    options = ["trainer=cpu", "logger=csv", "model.width=16", "trainer.max_steps=30"]
    options += ["optimizer.lr=0.01", "optimizer.warmup_steps=0", "model.dropout=0.0"]
    files = [f"data.{split}={lines}" for split in ("train", "validation", "test")]
    with pytest.warns(UserWarning, match="in the training split as well"):
        train(compose("data=labels", "data.batch_size=25", *files, *options), tmp_path / "run", [])
    lines.unlink()
    answer = ask(tmp_path / "run", "bcd\na \n\nuuiiaa\n\tg\n", "--batch", "4")
    assert answer == (0, "consonants\nvowels\n\nvowels\nconsonants\n", "")


@pytest.mark.parametrize(
    ("data", "names", "space", "lines"),
    [
        ("parity", ("even", "odd"), "", ["abba", " b\t"]),
        ("even_pairs", ("even", "odd"), "", ["abba", "ab"]),
        ("listops", tuple("0123456789"), " ", ["[MAX 2 9 [MIN 4 7 ] 0 ]"]),
    ],
)
def test_tasks_on_symbols_are_answered(
    ask: Ask,
    compose: Compose,
    tmp_path: Path,
    data: str,
    names: Sequence[str],
    space: str,
    lines: Sequence[str],
) -> None:
    """As the network answers what it was trained on, without the code under test."""
    options = ["trainer=cpu", "logger=csv", "model.width=32", "trainer.max_steps=120"]
    options += ["data.examples=500", "data.evaluation_examples=40", "optimizer.lr=0.01"]
    options += ["optimizer.warmup_steps=0", "model.dropout=0.0"]
    options += ["data.lengths=[4,6]", "data.test_lengths=[4,6]", "data.batch_size=32"]
    train(compose(f"data={data}", *options), tmp_path, [])
    run, last = restored(tmp_path, "last"), ["--checkpoint", "last"]
    batch = run.data.split("train").select(torch.arange(60))
    texts = [space.join(row["input"]) for row in run.data.labels(batch)]
    with torch.no_grad():
        chosen = run.objective.cpu().eval().model(batch.inputs).argmax(-1).tolist()
    assert len(set(chosen)) > 1
    answer = ask(tmp_path, "\n".join(texts), *last)
    assert answer == (0, "".join(f"{names[label]}\n" for label in chosen), "")
    answer = ask(tmp_path, "\n".join(lines), *last)
    assert (answer.code, answer.err) == (0, "")  # no token is unknown
    assert set(answer.out.splitlines()) <= set(names)


def test_classes_that_changed_are_noticed(
    command: Command, compose: Compose, tmp_path: Path
) -> None:
    lines = tmp_path / "kinds.tsv"
    texts = map("".join, itertools.product("abcxyz", repeat=3))
    lines.write_text("".join(f"{text}\t{text > 'm'}\n" for text in texts))
    options = ["trainer=cpu", "logger=csv", "model.width=16", "trainer.max_steps=1"]
    train(compose("data=labels", f"data.train={lines}", *options), tmp_path / "run", [])
    lines.write_text(lines.read_text().replace("True", "maybe"))
    answer = command("evaluate", str(tmp_path / "run"))
    assert (answer.code, answer.out) == (1, "")
    assert "the labels are not the checkpoint's" in answer.err


def test_options_of_another_task_are_refused(
    ask: Ask, command: Command, words_run: FinishedRun, letters_run: Path, digits_run: FinishedRun
) -> None:
    answer = ask(words_run.directory, "zoo\n", "--top-k", "3")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("attention-lab: --top-k is for language_model; ")
    assert answer.err.endswith("words is for sequence_to_sequence\n")
    answer = ask(letters_run, "a\n", "--length-penalty", "1")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("attention-lab: --length-penalty is for sequence_to_sequence; ")
    for run in (letters_run, digits_run.directory):
        answer = command("evaluate", str(run), "--beam", "3")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.endswith("; it writes nothing with a beam\n")
        assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--batch=0", "argument --batch: must be at least 1, got 0"),
        ("--beam=0", "argument --beam: must be at least 1, got 0"),
        ("--beam=x", "argument --beam: invalid whole number value: 'x'"),
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


def test_what_does_not_read_text_is_refused(
    ask: Ask, compose: Compose, digits_run: FinishedRun, tmp_path: Path
) -> None:
    answer = ask(digits_run.directory, "a\n")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("Digits is not made of text; there is nothing to read\n")
    small = ["data.examples=64", "data.evaluation_examples=8", "data.vocabulary=16"]
    small += ["data.lengths=[8]", "data.pairs=[2]", "trainer.max_steps=1"]
    data = compose("data=recall", *small)["data"]
    run = language_run(compose, tmp_path / "recall", data, "trainer.max_steps=1")
    answer = ask(run, "a\n")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("Recall is not made of text; there is nothing to read\n")


def test_a_directory_that_is_no_run_is_one_clear_line(ask: Ask, tmp_path: Path) -> None:
    answer = ask(tmp_path, "a\n")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("is not a run's directory: it has no config.yaml\n")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("lost", "missing"), [(["G2P"], "'G2P'"), (["G2P", "longest"], "'longest'")]
)
def test_a_checkpoint_without_its_data_is_to_blame(
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
    problem = f"{file} cannot be used: of its data, G2P, it does not hold {missing}"
    assert answer.err == f"attention-lab: {problem}\n"


def test_a_checkpoint_without_weights_is_to_blame(
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


def test_a_damaged_checkpoint_is_to_blame(
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


def test_a_beam_may_be_evaluated(command: Command, words_run: FinishedRun, words: Run) -> None:
    beam = ["--beam", "5", "--length-penalty", "2.0", "--split", "validation"]
    answer = command("evaluate", str(words_run.directory), *beam)
    assert answer.code == 0, answer.err
    batch: SequencePairs = words.data.split("validation")
    length = words.objective.max_length
    written = beam_search(words.objective.model, batch.source, BOS, EOS, length, 5, 2.0).tolist()
    assert isinstance(words.data, SequencePairsData)
    errors = words.data.metric()
    errors.update(
        [row[: row.index(EOS)] if EOS in row else row for row in written],
        words.data.references("validation"),
    )
    per = float(errors.compute()["per"])
    assert f"validation/per {per:.4f}" in " ".join(answer.out.split())
    greedily = command("evaluate", str(words_run.directory), "--split", "validation")
    assert answer.out != greedily.out


def test_training_may_validate_with_a_beam(tiny: Compose) -> None:
    run = build(tiny("objective.beams=3", "objective.length_penalty=1.5"))
    objective, batch = run.objective.eval(), run.data.probe(3)
    assert batch.source.min() == PAD
    length = objective.max_length
    expected = beam_search(objective.model, batch.source, BOS, EOS, length, 3, 1.5).tolist()
    expected = [row[: row.index(EOS)] if EOS in row else row for row in expected]
    assert objective.write(batch.source) == expected  # type: ignore[operator]
    for wrong in ("objective.beams=0", "objective.length_penalty=-1"):
        with pytest.raises(ValueError, match="must be at least"):
            build(tiny(wrong), run.data)


def predicting(directory: Path, *options: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "attention_lab", "predict", str(directory), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_answers_come_while_the_input_is_open_and_a_reader_may_leave(letters_run: Path) -> None:
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
