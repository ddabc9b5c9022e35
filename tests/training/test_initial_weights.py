"""`model.init_from`: which weights of another run a model starts with, and what is refused."""

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attention_lab.config.components import ConfigError
from attention_lab.config.identity import identity
from attention_lab.config.resolve import RunConfig
from attention_lab.reports.runs import read_runs
from attention_lab.sweeps import sweep_file
from attention_lab.tracking import artifact_download, init_from
from attention_lab.tracking.run_config import resolve
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.checkpoint.checkpoint_io import write
from attention_lab.training.evaluation import restored
from attention_lab.training.initial_weights import load_initial_weights
from tests.conftest import Compose, FinishedRun
from tests.runs import build, spec, train
from tests.training.conftest import (
    Interrupt,
    assert_identical,
    interrupt_after,
    read_weights,
    train_until_interrupted,
)

__all__ = ["interrupt_after"]  # a fixture

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves the new weights of a config as a checkpoint."""

    def checkpoint(config: dict[str, Any], name: str = "start.ckpt") -> Path:
        built = build(config)
        content = {
            "state_dict": built.task.state_dict(),
            type(built.data).__qualname__: built.data.state_dict(),
        }
        write(content, tmp_path / name)
        return tmp_path / name

    return checkpoint


def test_a_model_starts_with_the_weights_of_a_run(
    tiny_digits: Compose, digits_run: FinishedRun
) -> None:
    """All weights match; no random number is drawn, so dropout and batches stay the same."""
    plain = build(tiny_digits())
    drawn = torch.rand(3)
    built = build(tiny_digits(f"model.init_from={digits_run.directory}"))
    assert torch.equal(torch.rand(3), drawn)
    known = read_weights(digits_run.directory, "best")
    for name, weight in built.task.state_dict().items():
        assert torch.equal(weight, known[name]), name
    weights = plain.task.model.state_dict()
    assert (
        f"model.init_from: loaded {len(weights)} of {len(weights)} weights from "
    ) in built.initial_weights
    assert ";" not in built.initial_weights


def test_weights_that_do_not_match_are_counted_and_named(
    tiny_digits: Compose, digits_run: FinishedRun
) -> None:
    built = build(
        tiny_digits(
            f"model.init_from={digits_run.directory}/checkpoints/last.ckpt",
            "attention.projections=all",
            "attention.bias=true",
            "model.d_model=32",
        )
    )
    _, *parts = built.initial_weights.split("; ")
    assert parts == [
        "8 of another shape (positions, embedding.weight, embedding.bias and 5 more)",
        "4 not in the checkpoint (self_attention.query_projection.bias, "
        "self_attention.key_projection.bias, self_attention.value_projection.bias and 1 more)",
    ]


def test_a_new_scalar_weight_is_not_in_the_checkpoint(tiny_digits: Compose, save: Save) -> None:
    """Its shape, (), must not equal the shape of a weight that is missing."""
    config = tiny_digits(f"model.init_from={save(tiny_digits())}")
    built = build(config)
    built.task.model.scale = nn.Parameter(torch.tensor(1.0))
    says = load_initial_weights(resolve(config), built.task.model, built.data)
    assert says.endswith("; 1 not in the checkpoint (scale)")


def _labels(compose: Compose, tmp_path: Path, name: str, letters: str, classes: str) -> Any:
    file = tmp_path / name
    texts = map("".join, product(letters, repeat=3))
    file.write_text("".join(f"{text}\t{classes[n % 2]}\n" for n, text in enumerate(texts)))
    small = ("model.d_model=16", "model.num_layers=1", "trainer=cpu", "logger=csv")
    return compose("data=labels", f"data.train={file}", "model=encoder_classifier", *small)


@pytest.mark.parametrize(
    ("letters", "classes", "left_out"),
    [
        ("abcdef", "xy", set()),
        ("abcdeg", "xy", {"embedding.weight"}),
        ("abcdef", "xz", {"classifier.weight", "classifier.bias"}),
    ],
)
def test_embeddings_of_other_tokens_are_not_loaded(
    letters: str, classes: str, left_out: set[str], compose: Compose, tmp_path: Path, save: Save
) -> None:
    """Shapes are the same, but a row would be the embedding of another letter, or class."""
    file = save(_labels(compose, tmp_path, "old.tsv", "abcdef", "xy"))
    config = _labels(compose, tmp_path, "new.tsv", letters, classes)
    config["seed"] = 1
    built = build({**config, "init_from": {"checkpoint": str(file)}})
    known = torch.load(file, weights_only=True)["state_dict"]
    fresh = build(config).task.state_dict()
    for name, weight in built.task.state_dict().items():
        expected = fresh if name.removeprefix("model.") in left_out else known
        assert torch.equal(weight, expected[name]), name
    assert ("of other tokens or classes" in built.initial_weights) == bool(left_out)
    for name in left_out:
        assert name in built.initial_weights


def test_a_joint_embedding_is_left_out_if_one_vocabulary_differs(
    compose: Compose, tmp_path: Path, save: Save
) -> None:
    def pairs(name: str, letters: str) -> dict[str, Any]:
        lines = "".join(f"{a}{b}\t{b}{a}x\n" for a in letters for b in letters)
        (tmp_path / name).write_text(lines)
        return compose(
            *("data=pairs", f"data.train={tmp_path / name}", "model=prefix_decoder"),
            *("model.d_model=16", "model.num_layers=1", "trainer=cpu", "logger=csv"),
        )

    file = save(pairs("old.tsv", "abcdef"))
    built = build({**pairs("new.tsv", "abcdeg"), "init_from": {"checkpoint": str(file)}})
    assert "of other tokens or classes (decoder.embedding.weight, decoder.lm_head.weight)" in (
        built.initial_weights
    )


def test_another_dataset_without_a_vocabulary_has_other_tokens(
    compose: Compose, save: Save
) -> None:
    small = ("model.d_model=16", "trainer=cpu", "data.examples=64", "logger=csv")
    file = save(compose("data=parity", "model=encoder_classifier", *small))
    config = compose("data=even_pairs", "model=encoder_classifier", *small)
    built = build({**config, "init_from": {"checkpoint": str(file)}})
    assert "3 of other tokens or classes (embedding.weight, classifier.weight, " in (
        built.initial_weights
    )


def test_nothing_matches(
    tiny_digits: Compose, compose: Compose, save: Save, tmp_path: Path
) -> None:
    file = save(tiny_digits())
    config = compose("data=parity", "model=encoder_classifier", f"model.init_from={file}")
    with pytest.raises(ConfigError, match=r"no weight of .*start.ckpt matches the model: .*not in"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _without_state(file: Path) -> None:
    write({"weights": {}}, file)


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-70] + b"x" * 70)


def _replace_by_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Path.unlink, r"no checkpoint .*start.ckpt: No such file or directory"),
        (_replace_by_directory, r"no checkpoint .*/checkpoints/best.ckpt: No such file"),
        (_damage, r"start.ckpt has no checksum"),
        (_without_state, r"start.ckpt holds no 'state_dict'"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    change: Callable[[Path], None], message: str, tiny_digits: Compose, save: Save
) -> None:
    file = save(tiny_digits())
    change(file)
    with pytest.raises(ConfigError, match=message):
        build(tiny_digits(f"model.init_from={file}"))


def test_the_content_of_the_checkpoint_is_part_of_the_identity(
    tiny_digits: Compose, save: Save, tmp_path: Path
) -> None:
    file = save(tiny_digits())
    config = tiny_digits(f"model.init_from={file}")
    first = resolve(config)
    assert first.record["init_from"]["checkpoint"] == str(file)
    assert first.identity != identity(tiny_digits())
    other = shutil.copy(file, tmp_path / "other.ckpt")
    assert resolve(tiny_digits(f"model.init_from={other}")).identity == first.identity
    jobs = [spec(config, tmp_path / "sweep" / "a", ["seed=0"])]
    sweep_file.add_jobs(tmp_path / "sweep", jobs)
    save(tiny_digits("seed=1"))
    assert resolve(config).identity != first.identity
    with pytest.raises(ConfigError, match=r"start.ckpt has changed since this run's config was"):
        build(dict(first.record))
    with pytest.raises(ConfigError, match=r"start.ckpt has changed since the sweep in .* started"):
        sweep_file.add_jobs(tmp_path / "sweep", [spec(config, tmp_path / "b", ["seed=1"])])


def test_a_resumed_run_keeps_its_own_weights(
    config: dict[str, Any],
    save: Save,
    tmp_path: Path,
    interrupt_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupted and resumed, it equals a whole run; once finished, it needs the file no more."""
    start = save({**config, "seed": 7})
    config = {**config, "init_from": {"checkpoint": str(start)}}
    train(config, tmp_path / "whole")
    assert capsys.readouterr().out.count("model.init_from: loaded ") == 1
    interrupt_after(8)
    train_until_interrupted(config, tmp_path / "run")
    assert "model.init_from: loaded " in capsys.readouterr().out
    train(config, tmp_path / "run")
    assert "model.init_from" not in capsys.readouterr().out
    assert_identical(tmp_path / "run", tmp_path / "whole")
    assert read_config(tmp_path / "run")["init_from"]["checkpoint"] == str(start)
    start.unlink()
    restored(tmp_path / "run")
    (run,) = read_runs([tmp_path / "run"])
    assert run.leaves["model.init_from"].startswith("SHA-256 ")
    assert "init_from.sha256" not in run.leaves


def test_an_averaging_callback_starts_with_them(
    tiny_digits: Compose, digits_run: FinishedRun, tmp_path: Path
) -> None:
    """With a learning rate of almost 0, the average stays at the initial weights."""
    still = ("callbacks=ema", "callbacks.ema.decay=0.5", "optimizer.lr=1e-12", "trainer=cpu")
    train(tiny_digits(*still, f"model.init_from={digits_run.directory}"), tmp_path / "run")
    known = read_weights(digits_run.directory, "best")
    for name, weight in read_weights(tmp_path / "run").items():
        torch.testing.assert_close(weight, known[name], msg=name)


def test_an_extended_run_does_not_load_them_again(tiny_digits: Compose, tmp_path: Path) -> None:
    gone = {"checkpoint": str(tmp_path / "gone.ckpt"), "sha256": "0" * 64}
    extended = {"extends": {"run": str(tmp_path), "sha256": "0" * 64}, "init_from": gone}
    config, built = RunConfig({**tiny_digits(), **extended}), build(tiny_digits())
    assert load_initial_weights(config, built.task.model, built.data) == ""


def test_a_wandb_artifact_is_downloaded(
    tiny_digits: Compose, digits_run: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    init_from._run_directory.cache_clear()
    downloaded = []

    def download(reference: str) -> Path:
        downloaded.append(reference)
        return digits_run.directory

    monkeypatch.setattr(artifact_download, "download_run", download)
    for seed in (0, 1):  # the jobs of a sweep need one download
        checked = resolve(tiny_digits("model.init_from='me/words/model-1a:best'", f"seed={seed}"))
    assert downloaded == ["me/words/model-1a:best"]
    best = digits_run.directory / "checkpoints" / "best.ckpt"
    assert checked.record["init_from"]["checkpoint"] == str(best.resolve())
    init_from._run_directory.cache_clear()
