"""The state of the dataset in checkpoints: it reveals changed data and replaces missing files."""

from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.config.components import ConfigError, create
from attention_lab.data.core.datamodule import SplitDataModule
from attention_lab.tracking.run_directory import read_config, write_config
from attention_lab.training.checkpoint.checkpoint_io import write
from attention_lab.training.evaluation import evaluate, restored
from tests.conftest import Compose, FinishedRun
from tests.runs import build
from tests.training.conftest import Train

pytestmark = pytest.mark.usefixtures("own_cache")

SETTINGS = ("trainer=cpu", "logger=csv", "trainer.max_epochs=1", "model.d_model=16")


@pytest.fixture(params=["text", "pairs", "byte pairs"])
def own(request: pytest.FixtureRequest, compose: Compose, tmp_path: Path) -> dict[str, Any]:
    """The config of a tiny run on the user's own files."""
    lines = "".join(f"{n}\t{'ab'[n % 2] * (n % 4 + 1)} c\n" for n in range(200))
    path = tmp_path / "own.tsv"
    path.write_text(lines)
    if request.param == "text":
        return compose("data=text", f"data.path={path}", "data.length=16", *SETTINGS)
    tokens = {"pairs": "whitespace", "byte pairs": "bpe"}[request.param]
    options = [f"data.train={path}", f"data.target_tokens={tokens}"]
    if tokens == "bpe":
        options.append("data.vocab_size=270")
    return compose("data=pairs", *options, *SETTINGS)


def data_state(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The state of the dataset in a run's best checkpoint."""
    path = directory / "checkpoints" / "best.ckpt"
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    state: dict[str, Any] = checkpoint[config["data"]["_target_"].rpartition(".")[2]]
    return state


def rewrite(config: dict[str, Any], old: str, new: str) -> None:
    path = Path(config["data"].get("path") or config["data"]["train"])
    path.write_text(path.read_text().replace(old, new))


def test_evaluation_on_data_with_another_vocabulary_is_refused(
    own: dict[str, Any], trained: Train
) -> None:
    directory = trained(own)
    before = evaluate(restored(directory), "test")
    # Without hashes, as for datasets that are part of a package.
    recorded = {k: value for k, value in read_config(directory).items() if k != "data_files"}
    write_config(directory, recorded)
    rewrite(own, "a", "d")  # the same number of tokens, but a different one
    with pytest.raises(ConfigError, match=r"vocabulary differs from the checkpoint's, so") as e:
        evaluate(restored(directory), "test")
    assert "\n" not in str(e.value)
    rewrite(own, "d", "a")
    assert evaluate(restored(directory), "test") == before


def test_a_checkpoint_restores_the_vocabularies_without_the_files(
    own: dict[str, Any], trained: Train
) -> None:
    directory = trained(own)
    loaded: SplitDataModule[Any] = create(own["data"], (SplitDataModule,))
    loaded.setup()
    Path(own["data"].get("path") or own["data"]["train"]).unlink()
    alone: SplitDataModule[Any] = create(own["data"], (SplitDataModule,))
    alone.restore(data_state(directory, own))
    assert alone.model_arguments() == loaded.model_arguments()
    assert alone.longest() == loaded.longest()
    assert alone.state_dict() == loaded.state_dict() == data_state(directory, own)
    for name in loaded.vocabularies:
        one, other = getattr(alone, name), getattr(loaded, name)
        assert one.encode("ab c") == other.encode("ab c")


def test_the_g2p_dataset_is_restored_without_the_dictionary(words_run: FinishedRun) -> None:
    alone: SplitDataModule[Any] = create(words_run.config["data"], (SplitDataModule,))
    alone.restore(data_state(words_run.directory, words_run.config))
    assert alone.model_arguments() == {"source_vocab_size": 33, "target_vocab_size": 43}
    assert alone.longest()[0] > 5


def test_a_checkpoint_without_the_datasets_state_can_be_evaluated(
    digits_run: FinishedRun, tmp_path: Path
) -> None:
    """Older checkpoints do not have this state."""
    source = digits_run.directory / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(source, weights_only=True)
    del checkpoint["Digits"]
    (tmp_path / "checkpoints").mkdir()
    write(checkpoint, tmp_path / "checkpoints" / "best.ckpt")
    (tmp_path / "config.yaml").write_bytes((digits_run.directory / "config.yaml").read_bytes())
    assert evaluate(restored(tmp_path), "test").keys() == digits_run.result["test"].keys()


def test_bits_per_character_of_a_byte_model_count_characters(
    compose: Compose, trained: Train, tmp_path: Path
) -> None:
    """The loss per byte is converted to bits per character: 11 bytes are 8 characters."""
    path = tmp_path / "own.txt"
    path.write_text("雨 and ü\n" * 300)
    options = [f"data.path={path}", "data.tokens=bytes", "data.length=32", *SETTINGS]
    directory = trained(compose("data=text", *options))
    values = evaluate(restored(directory), "test")
    bits = values["loss"] / torch.log(torch.tensor(2.0)).item()
    assert values["bits_per_character"] == pytest.approx(bits * 11 / 8, rel=0.01)


def test_sources_longer_than_the_models_positions_are_refused_before_training(
    compose: Compose, tmp_path: Path
) -> None:
    path = tmp_path / "own.tsv"
    path.write_text("".join(f"{'a' * (n % 40 + 1)}{n}\tb\n" for n in range(200)))
    positions = ["attention/positions=learned", "attention.positions.max_length=16"]
    config = compose("data=pairs", f"data.train={path}", *positions, *SETTINGS)
    with pytest.raises(ConfigError, match=r"43 positions are more .*=16 .*; max_length=43 works"):
        build(config)
