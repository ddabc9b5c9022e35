"""`attention-lab predict` of classifiers: the class of each line."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from attention_lab.training.evaluation import restored
from tests.cli.conftest import Ask, Command
from tests.conftest import Compose
from tests.runs import train


def test_a_classifier_names_the_class(ask: Ask, compose: Compose, tmp_path: Path) -> None:
    """This works without the files of the training data."""
    kinds = {"vowels": "aeiou", "consonants": "bcdfg"}
    pairs = [(a + b, kind) for kind, of in kinds.items() for a in of for b in of]
    lines = tmp_path / "kinds.tsv"
    lines.write_text("".join(f"{text}\t{kind}\n" for text, kind in pairs))
    options = ["trainer=cpu", "logger=csv", "model.d_model=16", "trainer.max_steps=30"]
    options += ["optimizer.lr=0.01", "scheduler.warmup_steps=0", "model.dropout=0.0"]
    files = [f"data.{split}={lines}" for split in ("train", "validation", "test")]
    with pytest.warns(UserWarning, match="in the training split too"):
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
def test_classifiers_of_generated_strings_predict(
    ask: Ask,
    compose: Compose,
    tmp_path: Path,
    data: str,
    names: Sequence[str],
    space: str,
    lines: Sequence[str],
) -> None:
    """The predictions for the training data, without the code under test."""
    options = ["trainer=cpu", "logger=csv", "model.d_model=32", "trainer.max_steps=120"]
    options += ["data.examples=500", "data.evaluation_examples=40", "optimizer.lr=0.01"]
    options += ["scheduler.warmup_steps=0", "model.dropout=0.0"]
    options += ["data.lengths=[4,6]", "data.test_lengths=[4,6]", "data.batch_size=32"]
    train(compose(f"data={data}", *options), tmp_path, [])
    run, last = restored(tmp_path, "last"), ["--checkpoint", "last"]
    batch = run.data.split("train").select(torch.arange(60))
    texts = [space.join(row["input"]) for row in run.data.position_labels(batch)]
    with torch.no_grad():
        chosen = run.task.cpu().eval().model(batch.inputs).argmax(-1).tolist()
    assert len(set(chosen)) > 1
    answer = ask(tmp_path, "\n".join(texts), *last)
    assert answer == (0, "".join(f"{names[label]}\n" for label in chosen), "")
    answer = ask(tmp_path, "\n".join(lines), *last)
    assert (answer.code, answer.err) == (0, "")  # no token is unknown
    assert set(answer.out.splitlines()) <= set(names)


def test_changed_classes_are_an_error(command: Command, compose: Compose, tmp_path: Path) -> None:
    lines = tmp_path / "kinds.tsv"
    texts = map("".join, itertools.product("abcxyz", repeat=3))
    lines.write_text("".join(f"{text}\t{text > 'm'}\n" for text in texts))
    options = ["trainer=cpu", "logger=csv", "model.d_model=16", "trainer.max_steps=1"]
    train(compose("data=labels", f"data.train={lines}", *options), tmp_path / "run", [])
    lines.write_text(lines.read_text().replace("True", "maybe"))
    answer = command("evaluate", str(tmp_path / "run"))
    assert (answer.code, answer.out) == (1, "")
    assert "kinds.tsv has changed since this run's config was recorded" in answer.err
