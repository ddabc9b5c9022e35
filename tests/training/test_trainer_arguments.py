"""Every argument of lightning.Trainer: a key, or refused with a reason; and debug runs."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import lightning
import pytest
import torch
from lightning.fabric.plugins.precision.precision import (
    _PRECISION_INPUT_INT,
    _PRECISION_INPUT_STR_ALIAS,
    _PRECISION_INPUT_STR_ALIAS_CONVERSION,
)

from attention_lab.config.components import ConfigError, check_value
from attention_lab.config.trainer_arguments import REFUSED, debug_settings
from attention_lab.config.validate import check
from attention_lab.data.core.bucket_sampler import BucketBatchSampler
from attention_lab.training.evaluation import evaluate, restored
from attention_lab.training.trainer import TrainerOptions
from tests.conftest import Compose
from tests.runs import build, launch, train
from tests.training.conftest import (
    Interrupt,
    assert_identical,
    read_metrics,
    read_status,
    result,
    train_until_interrupted,
)

DOCS = Path(__file__).parents[2] / "docs" / "trainer.md"
ARGUMENTS = inspect.signature(lightning.Trainer).parameters
KEYS = inspect.signature(TrainerOptions).parameters


def test_each_argument_of_the_trainer_is_a_key_or_refused() -> None:
    """This fails if a new version of Lightning adds an argument."""
    assert set(ARGUMENTS) == (KEYS.keys() & ARGUMENTS.keys()) | REFUSED.keys()
    assert not KEYS.keys() & REFUSED.keys()


def table() -> Iterator[str]:
    """The lines of the table in docs/trainer.md."""
    yield "| argument | default | Lightning's default |"
    yield "|---|---|---|"
    for name, argument in ARGUMENTS.items():
        if name in REFUSED:
            yield f"| `{name}` | refused: {REFUSED[name]} | |"
        else:
            ours, theirs = (_yaml(each) for each in (KEYS[name].default, argument.default))
            yield f"| `{name}` | `{ours}` | `{theirs}` |"


def _yaml(value: object) -> str:
    return {None: "null"}.get(value, str(value).lower())  # type: ignore[call-overload, no-any-return]


def test_the_table_in_the_docs_has_all_arguments() -> None:
    text = DOCS.read_text("utf-8")
    assert "\n".join(table()) in text, "\n".join(["replace the table by", *table()])


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_argument_says_what_to_set(name: str, tiny_digits: Compose) -> None:
    config = tiny_digits()
    config["trainer"][name] = True
    with pytest.raises(ConfigError) as refused:
        check(config)
    assert str(refused.value) == f"trainer.{name}: {REFUSED[name]}"


#: Values other than Lightning's defaults, and the attribute of the Trainer that shows each.
PASSED = {
    "accumulate_grad_batches": (3, "accumulate_grad_batches"),
    "min_epochs": (2, "min_epochs"),
    "min_steps": (7, "min_steps"),
    "max_epochs": (4, "max_epochs"),
    "max_steps": (9, "max_steps"),
    "limit_train_batches": (0.5, "limit_train_batches"),
    "limit_val_batches": (3, "limit_val_batches"),
    "fast_dev_run": (2, "fast_dev_run"),
    "gradient_clip_val": (0.5, "gradient_clip_val"),
    "gradient_clip_algorithm": ("value", "gradient_clip_algorithm"),
    "val_check_interval": (0.5, "val_check_interval"),
    "check_val_every_n_epoch": (2, "check_val_every_n_epoch"),
    "log_every_n_steps": (5, "log_every_n_steps"),
    "detect_anomaly": (True, "_detect_anomaly"),
    "precision": ("bf16-true", "precision"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PASSED)
def test_a_key_reaches_the_trainer(name: str, tmp_path: Path) -> None:
    value, path = PASSED[name]
    found: Any = TrainerOptions(accelerator="cpu", **{name: value}).trainer(tmp_path, [], [])
    for attribute in path.split("."):
        found = getattr(found, attribute)
    assert found == value


@pytest.mark.filterwarnings("ignore")
def test_sync_batchnorm_reaches_the_trainer(tmp_path: Path) -> None:
    for value in (True, False):
        options = TrainerOptions(accelerator="cpu", sync_batchnorm=value)
        connector = options.trainer(tmp_path, [], [])._accelerator_connector
        assert (connector._layer_sync is not None) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_train_batches": 0}, "limit_train_batches must be at least 1 batch, or a fraction"),
        ({"limit_val_batches": 1.5}, "limit_val_batches must be at least 1 batch"),
        ({"overfit_batches": -1}, "overfit_batches must be at least 1 batch"),
        ({"fast_dev_run": -1}, "fast_dev_run must be at least 0"),
        ({"min_steps": 0}, "min_steps must be at least 1"),
        ({"strategy": "fsdp", "precision": "64-true"}, "strategy=fsdp needs precision 32-true or"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainerOptions(**options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("trainer.precision=16-mixed", "16-mixed needs a GPU; use bf16-mixed on the CPU"),
        ("trainer.limit_train_batches=0.1", "trainer.limit_train_batches=0.1: is less than 1 of 4"),
        ("trainer.limit_test_batches=0.1", "trainer.limit_test_batches=0.1: is less than 1 of 2"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    option: str, message: str, tiny_digits: Compose
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_digits("trainer=cpu", option))


def test_every_short_spelling_of_lightning_is_a_precision() -> None:
    spellings = (*get_args(_PRECISION_INPUT_STR_ALIAS), *get_args(_PRECISION_INPUT_INT))
    for spelling in spellings:
        expected = _PRECISION_INPUT_STR_ALIAS_CONVERSION[str(spelling)]
        check_value("trainer.precision", spelling, get_type_hints(TrainerOptions)["precision"])
        assert TrainerOptions(precision=spelling).precision == expected


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_a_run_trains_and_is_evaluated_in_every_precision(
    precision: str, tiny: Compose, tmp_path: Path
) -> None:
    train(tiny(f"trainer.precision={precision}", "trainer.max_epochs=1"), tmp_path / "run", [])
    found = evaluate(restored(tmp_path / "run"), "test")
    assert found["loss"] == pytest.approx(result(tmp_path / "run")["test"]["loss"])
    weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    expected = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {expected}


#: 3 of 13 steps an epoch.
LIMITED = (
    *("attention.dropout=0.2", "data.batch_size=100", "trainer.limit_train_batches=3"),
    *("trainer.limit_test_batches=1", "trainer.max_epochs=4", "trainer.val_check_interval=2"),
)


def test_a_limited_run_says_so_and_resumes_exactly(
    tiny_digits: Compose,
    tmp_path: Path,
    interrupt_after: Interrupt,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_digits(*LIMITED)
    train(config, tmp_path / "whole" / "run", [])
    said = capsys.readouterr().out
    assert "training for 12 steps (4 epochs of 3 steps)" in said
    settings = ["trainer.limit_train_batches=3", "trainer.limit_test_batches=1"]
    assert f"a debug run, which reports leave out: {', '.join(settings)}\n" in said
    status = read_status(tmp_path / "whole" / "run")
    assert status["debug"] == debug_settings(config) == settings
    for number in (3, 5, 6, 8, 11):
        interrupt_after(number)
        train_until_interrupted(config, tmp_path / "run")
    train(config, tmp_path / "run", [])
    assert_identical(tmp_path / "run", tmp_path / "whole" / "run")


def test_overfitting_repeats_the_same_batches(
    tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[int]] = []
    counted = BucketBatchSampler._counted

    def record(self: BucketBatchSampler, rows: Any) -> Any:
        for batch in counted(self, rows):
            if self.shuffle:
                batches.append(batch.tolist())
            yield batch

    monkeypatch.setattr(BucketBatchSampler, "_counted", record)
    options = ("data.batch_size=100", "trainer.overfit_batches=2", "trainer.max_epochs=3")
    assert train(tiny_digits(*options), tmp_path / "run", [])["steps"] == 6
    assert len(batches) == 6
    assert batches[:2] == batches[2:4] == batches[4:]


def test_a_fast_dev_run_records_nothing(
    tiny: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("trainer.fast_dev_run=2", "trainer.profiler=simple")
    assert launch(config, tmp_path / "run", []) is None
    said = "fast_dev_run: 2 batches of training, validation and test ran; nothing was recorded\n"
    assert capsys.readouterr().out == said
    assert list(tmp_path.iterdir()) == []


def test_early_stopping_waits_for_min_epochs(tiny_digits: Compose, tmp_path: Path) -> None:
    stops = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=0.3")
    options = ("trainer.max_epochs=9", *stops)
    alone = train(tiny_digits(*options), tmp_path / "alone", [])["steps"]
    assert alone < 4 * 8
    ours = train(tiny_digits(*options, "trainer.min_epochs=8"), tmp_path / "run", [])["steps"]
    assert ours == 4 * 8


def test_the_last_step_is_validated_even_before_min_epochs(
    tiny_digits: Compose, tmp_path: Path
) -> None:
    options = ("trainer.max_steps=6", "trainer.max_epochs=9", "trainer.min_epochs=8")
    assert train(tiny_digits(*options), tmp_path / "run", [])["steps"] == 6
    assert [step for step, _ in read_metrics(tmp_path / "run", "validation/loss")] == [4, 6]
