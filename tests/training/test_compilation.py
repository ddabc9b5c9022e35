"""A compiled run trains as an uncompiled one, and one that cannot be compiled trains uncompiled."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch._dynamo.utils import counters

from attention_lab.config.identity import identity
from attention_lab.training.evaluation import evaluate, restored
from attention_lab.training.trainer import TrainerOptions
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import (
    Interrupt,
    assert_identical,
    read_metrics,
    read_result,
    read_weights,
    same_weights,
    train_until_interrupted,
)

#: Pairs of different lengths, validated with beam search.
PAIRS = (
    *("data=reverse", "data.examples=120", "data.evaluation_examples=20", "data.batch_size=10"),
    *("model=encoder_decoder", "model.d_model=16", "model.num_encoder_layers=1"),
    *("model.num_decoder_layers=1", "task.num_beams=2", "trainer=cpu", "logger=csv"),
    *("trainer.max_epochs=1", "trainer.log_every_n_steps=1"),
    "trainer.accumulate_grad_batches=2",
)

#: Expressions of 22 to 99 tokens in six batches, with dropout.
EXPRESSIONS = (
    *("data=listops", "data.examples=60", "data.evaluation_examples=20", "data.batch_size=10"),
    *("model=encoder_classifier", "model.d_model=16", "model.num_layers=1", "logger=csv"),
    *("trainer.max_epochs=1", "trainer.log_every_n_steps=1", "trainer.every_n_train_steps=2"),
)


def with_compile(config: Mapping[str, Any], option: bool | dict[str, Any] = True) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "compile": option}}


@pytest.fixture(scope="module")
def compiler() -> None:
    """Skips a test where torch finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("needs a C++ compiler")


@pytest.mark.usefixtures("compiler")
def test_a_compiled_run_equals_an_uncompiled_one_and_resumes_exactly(
    config: dict[str, Any], whole: Path, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    compiled, directory = with_compile(config), tmp_path / "whole"
    train(compiled, directory)
    ours, theirs = read_result(directory), read_result(whole)
    assert (ours["compiled"], theirs["compiled"]) == (True, False)
    # Dropout draws the same numbers, so that only rounding differs.
    losses = [dict(read_metrics(run, "train/loss")) for run in (directory, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != losses[1], "nothing was compiled"
    assert read_weights(directory).keys() == read_weights(whole).keys()
    assert evaluate(restored(directory), "test") == pytest.approx(ours["test"])
    interrupt_after(8)
    train_until_interrupted(compiled, tmp_path / "run")
    train(compiled, tmp_path / "run")
    assert_identical(tmp_path / "run", directory)


def test_lengths_and_decoding_do_not_recompile(compose: Compose, tmp_path: Path) -> None:
    config = compose(*PAIRS)
    train(config, tmp_path / "uncompiled")
    counters.clear()
    train(with_compile(config, {"backend": "eager"}), tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 1, "for 12 batches"
    uncompiled, compiled = tmp_path / "uncompiled", tmp_path / "compiled"
    assert same_weights(read_weights(compiled), read_weights(uncompiled))
    maps = [next((run / "attention").rglob("maps.json")) for run in (compiled, uncompiled)]
    assert maps[0].read_text() == maps[1].read_text()


def test_without_a_compiler_a_run_trains_uncompiled(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch._inductor.config

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/compiler",))
    train(with_compile(config), tmp_path / "run")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trainer.compile: InvalidCxxCompiler: No working C++ compiler found")
    assert line.endswith("; training uncompiled")
    assert_identical(tmp_path / "run", whole)
    assert not read_result(tmp_path / "run")["compiled"]


def test_a_run_whose_backend_cannot_be_loaded_trains_uncompiled(
    config: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise ImportError("no module named tvm")

    monkeypatch.setattr(torch, "compile", fail)
    train(with_compile(config, {"backend": "tvm"}), tmp_path / "run")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "trainer.compile: no module named tvm; training uncompiled"
    assert_identical(tmp_path / "run", whole)


def test_compiling_does_not_change_the_identity(config: dict[str, Any]) -> None:
    for option in (True, {"mode": "max-autotune"}):
        assert identity(with_compile(config, option)) == identity(config)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"mod": "default"}, "compile has no key 'mod'; did you mean mode?"),
        ({"mode": "fast"}, "compile.mode must be one of default, "),
        ({"backend": "inductr"}, "no backend 'inductr'; did you mean inductor?"),
        ({"mode": True}, "compile.mode must be a name, got True"),
        ({"dynamic": "true"}, "compile.dynamic must be true or false, got 'true'"),
    ],
)
def test_wrong_arguments_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainerOptions(compile=option)


def test_fsdp_is_refused() -> None:
    with pytest.raises(ValueError, match="compile must be false with strategy=fsdp"):
        TrainerOptions(compile=True, strategy="fsdp")


def test_a_compiled_run_of_changing_lengths_resumes_exactly(
    compose: Compose, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    config = with_compile(compose(*EXPRESSIONS, "trainer=cpu"), {"backend": "aot_eager"})
    train(config, tmp_path / "whole")
    interrupt_after(4)
    train_until_interrupted(config, tmp_path / "run")
    train(config, tmp_path / "run")
    assert_identical(tmp_path / "run", tmp_path / "whole")
    assert read_result(tmp_path / "run")["compiled"]
