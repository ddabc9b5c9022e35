"""`attention-lab view`: a page with the attention maps of one's own input."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attention_lab import memory
from attention_lab.attention import record_attention
from attention_lab.memory import TooLarge
from attention_lab.training.build import BuiltRun
from attention_lab.training.input_maps import CannotMap, input_maps
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence
from tests.cli.conftest import Ask, Command
from tests.conftest import Compose, FinishedRun
from tests.runs import build

GENERATED = "free-running: greedy decoding"


@pytest.fixture
def own_run(words_run: FinishedRun, tmp_path: Path) -> Path:
    """A copy of a finished run on words, into which pages are written."""
    shutil.copytree(words_run.directory, tmp_path / "words")
    return tmp_path / "words"


def maps_of(page: Path) -> list[dict[str, Any]]:
    text = page.read_text("utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert match is not None
    maps: list[dict[str, Any]] = json.loads(match[1])["maps"]
    return maps


def test_the_page_of_an_input_has_the_generated_output(
    command: Command, own_run: Path, words: BuiltRun
) -> None:
    answer = command("view", str(own_run), "tea")
    page = own_run / "attention" / "view" / "tea.html"
    assert answer == (0, f"{page}\n", "")
    assert isinstance(words.task, SequenceToSequence)
    source = torch.tensor([words.task.data.source_vocabulary.encode("tea")])
    (generated,) = words.task.generate(source)
    names = [words.task.data.target_vocabulary.token(id) for id in generated]
    for each in maps_of(page):
        assert (each["example"], each["step"], each["run"]) == ("tea", 2, "words, step 2")
        is_encoder = each["layer"].startswith("encoder")
        assert each["rows"][: len(names)] == (list("tea") if is_encoder else names)[: len(names)]
        assert each["note"] == ("" if is_encoder else GENERATED)


def test_the_weights_are_those_of_decoding_step_by_step(words: BuiltRun) -> None:
    task = words.task
    assert isinstance(task, SequenceToSequence)
    found = {each.layer: each for each in input_maps(task, "tomato", 4).maps}
    source = torch.tensor([task.data.source_vocabulary.encode("tomato")])
    with torch.no_grad(), record_attention(task.model) as calls:
        task.generate(source)
    decoded = torch.cat(calls["decoder.0.cross_attention"], dim=2)[0]
    torch.testing.assert_close(found["decoder.0.cross_attention"].weights, decoded)


def test_a_given_target_is_forced(command: Command, own_run: Path) -> None:
    assert command("view", str(own_run), "tea", "--target", "T IY").code == 0
    for each in maps_of(own_run / "attention" / "view" / "tea.html"):
        if each["layer"].startswith("decoder"):
            assert each["rows"] == ["T", "IY", "</s>"]
            assert each["note"] == "forced: the output is given"


def test_beam_search_is_named(command: Command, own_run: Path, tmp_path: Path) -> None:
    options = ["--num-beams", "3", "--output", str(tmp_path / "new" / "page.html")]
    assert command("view", str(own_run), "tea", *options).out == f"{options[-1]}\n"
    notes = {each["note"] for each in maps_of(Path(options[-1]))}
    assert notes == {"", "free-running: beam search with 3 beams"}


def test_two_runs_are_on_one_page(command: Command, own_run: Path) -> None:
    """The page's name has the other run's as it is."""
    other = own_run.rename(own_run.with_name("attention=additive-1a2b"))
    last = ["--checkpoint", "best", "--checkpoint", "last"]
    assert command("view", str(other), str(other), "tea", *last).code == 0
    maps = maps_of(other / "attention/view/tea-vs-attention=additive-1a2b.html")
    assert len(maps) == 6


def test_a_step_names_its_checkpoint(command: Command, own_run: Path) -> None:
    """The best checkpoint is of step 2, the last one of step 4."""
    steps = ["--step", "4", "--step", "2"]
    answer = command("view", str(own_run), str(own_run), "thoroughly", *steps)
    page = own_run / "attention/view/thoroughly-step-4-vs-words-step-2.html"
    assert answer == (0, f"{page}\n", "")
    assert [each["run"] for each in maps_of(page)] == 3 * ["words, step 4"] + 3 * ["words, step 2"]
    alone, both = own_run / "attention/view/thoroughly-step-4.png", page.with_suffix(".png")
    answer = command("view", str(own_run), "thoroughly", "--format", "png", *steps[:2])
    assert answer == (0, f"{alone}\n", "")
    answer = command("view", str(own_run), str(own_run), "thoroughly", "--format", "png", *steps)
    assert answer == (0, f"{both}\n", "")
    with Image.open(alone) as one, Image.open(both) as two:
        assert two.width > 1.5 * one.width


def test_unknown_tokens_are_counted(command: Command, own_run: Path) -> None:
    answer = command("view", str(own_run), "zöö")
    assert answer.code == 0
    assert answer.err == "attention-lab: tokens not in the vocabulary, read as <unk>: 2\n"


def test_a_language_model_shows_the_text(
    command: Command, letters_run: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    options = ["--target", "cd", "--output", str(page)]
    assert command("view", str(letters_run), "ab", *options).code == 0
    for each in maps_of(page):
        assert (each["rows"], each["example"]) == (list("abcd"), "ab")


def test_a_language_model_continues_the_text_greedily(
    command: Command, ask: Ask, letters_run: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    options = ["--length", "2", "--output", str(page)]
    assert command("view", str(letters_run), "ab", *options).code == 0
    greedy = ask(letters_run, "ab\n", "--length=2", "--temperature=0")
    for each in maps_of(page):
        assert "".join(each["rows"]) == greedy.out.strip("\n")
        assert each["note"] == "free-running: greedy decoding after the input"
    title = re.search("<title>(.*)</title>", page.read_text("utf-8"))
    assert title is not None
    assert title[1] == f"ab → {greedy.out.strip()[2:]}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN"], 2, "view: needs one or two runs and an input, got 0 runs"),
        (["RUN", "RUN", "RUN", "a"], 2, "view: needs one or two runs and an input, got 3 runs"),
        (["RUN", "  "], 1, "RUN: the input is empty"),
        (["RUN", "a", "--head=2"], 2, "view: --layer and --head are for --format png, pdf or svg;"),
        (["RUN", "a", "--format=npz", "--head=0"], 2, "view: --layer and --head are for --format"),
        (["RUN", "RUN", "a", "--format=npz"], 2, "view: --format npz holds the maps of one run"),
        (["RUN", "a", "--format=png", "--layer=x"], 1, "--layer x: must be one of encoder.0.self"),
        (
            ["RUN", "a", "--format=svg", "--head=9"],
            1,
            "--head 9: decoder.0.cross_attention has heads 0 to 0,",
        ),
        (["LETTERS", "a", "--num-beams=2"], 1, "LETTERS is for language_model, which has no beam"),
        (["RUN", "a", "--length=2"], 1, "--length is for language_model; RUN is for sequence_to"),
        (["LETTERS", "a", "--length=2", "--target=b"], 2, "view: --target gives the output, so"),
        (["LETTERS", "a", "--length=200000"], 1, "LETTERS: the maps of 200,001 positions have"),
        (["RUN", "a", "--step=3"], 1, "RUN has no checkpoint of step 3; it has those of: 2, 4\n"),
        (["RUN", "a", "--step=2", "--checkpoint=last"], 2, "view: --step names a checkpoint, so"),
        (["RUN", "a", "--step=2", "--step=4"], 2, "view: more values of --step than runs"),
        (["RUN", "LETTERS", "a"], 1, "the runs are on different data: G2P and Alphabet"),
        (["RUN", "a" * 20_000], 1, "RUN: the maps of 20,000 positions have"),
        (["RUN", "a", "--output=/dev/null/x"], 1, "/dev/null/x cannot be written: "),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    code: int,
    message: str,
    command: Command,
    words_run: FinishedRun,
    letters_run: Path,
) -> None:
    names = {"RUN": str(words_run.directory), "LETTERS": str(letters_run)}
    for name, directory in names.items():
        message = message.replace(name, directory)
    answer = command("view", *(names.get(each, each) for each in arguments))
    assert answer.code == code
    assert answer.err.startswith(f"attention-lab: {message}")
    assert (answer.err.count("\n"), answer.out) == (1, "")


@pytest.mark.parametrize(
    ("run", "problem"),
    [("missing", "missing is not a directory"), ("", "needs the path of a directory")],
)
def test_a_run_that_is_not_a_directory_is_refused(run: str, problem: str, command: Command) -> None:
    assert command("view", run, "a") == (2, "", f"attention-lab: view: argument RUN: {problem}\n")


def test_a_run_without_checkpoint_is_refused(command: Command, own_run: Path) -> None:
    shutil.rmtree(own_run / "checkpoints")
    answer = command("view", str(own_run), "tea")
    assert answer.code == 1
    assert "words has no checkpoint best.ckpt; it was deleted" in answer.err


def test_a_mechanism_without_weights_has_none(compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("".join(f"a{n} b\t{n % 2}\n" for n in range(200)))
    settings = ["data=labels", f"data.train={tmp_path / 'texts.tsv'}", "attention=linformer"]
    run = build(compose(*settings, "trainer=cpu", "logger=csv", "model.d_model=16"))
    with pytest.raises(CannotMap, match="Linformer has no attention weights"):
        input_maps(run.task, "a b", 0)


def test_maps_must_fit_into_memory(tiny: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hidden layers of all pairs, which the eager backend keeps, count as well."""
    fused, eager = (
        build(tiny("attention=additive", f"attention.backend={backend}")).task
        for backend in ("fused", "eager")
    )
    monkeypatch.setattr(memory, "machine_memory", lambda: 1_000_000)
    assert input_maps(fused, "a" * 100, 0, "T").maps
    for task, length in ((fused, "1,000"), (eager, "100")):
        with pytest.raises(TooLarge, match=f"^the maps of {length} positions need at least "):
            input_maps(task, "a" * int(length.replace(",", "")), 0, "T")


def test_implied_weights_are_labelled(tiny: Compose) -> None:
    run = build(tiny("attention=linear"))
    notes = {each.note for each in input_maps(run.task, "tea", 0).maps}
    assert all("implied weights: the mechanism computes its output without" in n for n in notes)


def test_hidden_pairs_are_those_of_the_mask(words: BuiltRun) -> None:
    for each in input_maps(words.task, "tomato", 0).maps:
        if "decoder.0.self" in each.layer:
            assert each.hidden is not None
            later = torch.ones(each.hidden.shape[1:], dtype=torch.bool).triu(1)
            assert torch.equal(each.hidden, later.expand_as(each.hidden))
        else:
            assert each.hidden is None


def test_the_maps_are_written_as_arrays(command: Command, own_run: Path) -> None:
    answer = command("view", str(own_run), "tea", "--format", "npz")
    file = own_run / "attention" / "view" / "tea.npz"
    assert answer == (0, f"{file}\n", "")
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["encoder.0.self_attention/columns"].tolist() == ["t", "e", "a"]
        assert arrays["encoder.0.self_attention/weights"].shape[1:] == (3, 3)


def test_a_figure_shows_one_map(command: Command, own_run: Path) -> None:
    for kind in ("png", "pdf", "svg"):
        answer = command("view", str(own_run), "tea", "--format", kind)
        file = own_run / "attention" / "view" / f"tea.{kind}"
        assert answer == (0, f"{file}\n", "")
        assert file.stat().st_size > 1000
