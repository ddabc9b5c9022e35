"""`attention-lab train --extend RUN`: train a finished run longer, in a new directory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.tracking.run_directory import read_config
from attention_lab.training.checkpoint.checkpoint_io import checksum_of, read
from attention_lab.training.extension import begin_extension, check_extension
from tests.cli.conftest import Answer, Command
from tests.conftest import Compose
from tests.runs import train
from tests.training.conftest import (
    Interrupt,
    assert_identical,
    interrupt_after,
    read_metrics,
    read_weights,
    same_weights,
)

__all__ = ["interrupt_after"]  # a fixture

CONSTANT = ("scheduler=constant", "attention.dropout=0.2", "trainer=cpu")


@pytest.fixture(scope="module")
def short(tiny_digits: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 2 epochs of 4 steps."""
    directory = tmp_path_factory.mktemp("short") / "run"
    train(tiny_digits(*CONSTANT), directory)
    return directory


Extend = Callable[..., Answer]


@pytest.fixture
def extend(command: Command, short: Path, tmp_path: Path) -> Extend:
    """Extends a copy of the short run into the directory "long/run"."""
    shutil.copytree(short, tmp_path / "short")
    return lambda *more: command("train", "--extend", "short", *more, "hydra.run.dir=long/run")


def test_an_extended_run_equals_one_that_was_as_long_from_the_start(
    extend: Extend, tiny_digits: Compose, tmp_path: Path, interrupt_after: Interrupt
) -> None:
    """The extension is killed in mid-epoch and resumed; weights, metrics and maps are the same."""
    whole = tmp_path / "whole" / "run"
    train(tiny_digits(*CONSTANT, "trainer.max_epochs=4"), whole)
    interrupt_after(13)
    stopped = extend("trainer.max_epochs=4")
    assert stopped.code == 1, stopped.err
    resumed = extend("trainer.max_epochs=4")
    assert resumed.code == 0, resumed.err
    assert "extending " in stopped.out
    assert "/short from step 8 to step 16\n" in stopped.out
    assert "extending" not in resumed.out
    assert_identical(tmp_path / "long" / "run", whole)
    extends = read_config(tmp_path / "long" / "run")["extends"]
    assert extends["run"] == str(tmp_path / "short")


def test_a_decaying_schedule_is_computed_for_the_new_length(
    extend: Extend, tiny_digits: Compose, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "short")
    cosine = tiny_digits("scheduler=cosine", "scheduler.warmup_steps=0")
    train(cosine, tmp_path / "short")
    whole = tiny_digits("scheduler=cosine", "scheduler.warmup_steps=0", "trainer.max_epochs=4")
    train(whole, tmp_path / "whole")
    answer = extend("trainer.max_epochs=4")
    assert answer.code == 0, answer.err
    assert (
        "scheduler=cosine is extended: computed for 16 steps from step 8 on, so the result differs "
        "from training 16 steps at once\n"
    ) in answer.out
    rates, whole_rates = (
        [(step, rate) for step, rate in read_metrics(run, "train/learning_rate") if step >= 8]
        for run in (tmp_path / "long" / "run", tmp_path / "whole")
    )
    assert rates == whole_rates
    assert not same_weights(
        read_weights(tmp_path / "long" / "run"), read_weights(tmp_path / "whole")
    )


REFUSED = {
    "trainer.max_epochs=2": "it has trained 8 steps, and this training ends after 8 steps",
    "trainer.max_steps=9 trainer.max_epochs=1": "this training ends after 4 steps",
    "seed=3 trainer.max_epochs=4": "but seed is 0 there, 3 here",
    "attention=additive trainer.max_epochs=4": "can only change trainer, scheduler, callbacks",
    "data=reverse trainer.max_epochs=4": "data=reverse: cannot be combined with --extend",
    "optimizer.lr=1 trainer.max_epochs=4": "but optimizer.lr is ",
    "trainer=ddp_cpu trainer.max_epochs=4": "it was trained by 1 process, and this training would "
    "have 2; set trainer.devices=1",
    "model.init_from=short trainer.max_epochs=4": "but init_from.sha256 is not there, ",
    "--from short": "--extend: cannot be combined with --from; leave one out",
}


@pytest.mark.parametrize("more", REFUSED)
def test_an_extension_that_is_not_one_is_refused(more: str, extend: Extend, tmp_path: Path) -> None:
    answer = extend(*more.split())
    assert (answer.code, answer.out) == (2, "")
    assert REFUSED[more] in answer.err
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "long").exists()


def _preempt(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"status": "preempted"}))


def _forget_last(run: Path) -> None:
    (run / "checkpoints" / "last.ckpt").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_preempt, "only a finished run can be extended, and it is preempted; resume it first"),
        (_forget_last, "--extend short: short/checkpoints/last.ckpt is missing"),
        (shutil.rmtree, "--extend short: short/config.yaml is missing"),
    ],
)
def test_a_run_that_cannot_be_extended_is_refused(
    change: Callable[[Path], Any], message: str, extend: Extend, tmp_path: Path
) -> None:
    change(tmp_path / "short")
    answer = extend("trainer.max_epochs=4")
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert message in answer.err
    assert not (tmp_path / "long").exists()


def test_a_checkpoint_that_has_changed_since_is_refused(short: Path) -> None:
    extends = {"run": str(short), "sha256": "0" * 64}
    with pytest.raises(ConfigError, match=r"last\.ckpt has changed since this run's config was"):
        check_extension(RunConfig(read_config(short) | {"extends": extends}))


def test_an_average_can_begin_or_end_with_an_extension(extend: Extend, tmp_path: Path) -> None:
    """Without the average, training continues with the latest weights, not with the average."""
    answer = extend("callbacks=ema", "trainer.max_epochs=3")
    assert answer.code == 0, answer.err
    run = tmp_path / "long" / "run"
    averaged = read(run / "checkpoints" / "last.ckpt")
    assert averaged["callbacks"]["EMA"]["n_averaged"] == 4
    extends = {"run": str(run), "sha256": checksum_of(run / "checkpoints" / "last.ckpt")}
    config = RunConfig({**read_config(run), "callbacks": {}, "extends": extends})
    assert begin_extension(RunSpec(config, tmp_path / "next"))
    continued, latest = read_weights(tmp_path / "next"), averaged["latest_weights"]
    assert same_weights({name: continued[name] for name in latest}, latest)
    assert not same_weights({name: averaged["state_dict"][name] for name in latest}, latest)


@pytest.mark.parametrize("average", ["swa", "checkpoint_average"])
def test_the_average_of_an_extension_is_that_of_all_steps(
    average: str, command: Command, tiny_digits: Compose, tmp_path: Path
) -> None:
    """The shorter run's mean for ``swa`` is of steps that are not in the last quarter of all."""
    options = (*CONSTANT, f"callbacks={average}")
    train(tiny_digits(*options), tmp_path / "averaged")
    train(tiny_digits(*options, "trainer.max_epochs=4"), tmp_path / "whole")
    more = ("trainer.max_epochs=4", "hydra.run.dir=long")
    answer = command("train", "--extend", "averaged", *more)
    assert answer.code == 0, answer.err
    assert same_weights(read_weights(tmp_path / "long"), read_weights(tmp_path / "whole"))


@pytest.mark.parametrize("first", ["ema", "checkpoint_average"])
def test_another_average_has_new_steps_only(
    first: str,
    command: Command,
    tiny_digits: Compose,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    train(tiny_digits(*CONSTANT, f"callbacks={first}"), tmp_path / "averaged")
    more = ("callbacks=swa", "callbacks.swa.update_starting_at_step=0", "trainer.max_epochs=3")
    answer = command("train", "--extend", "averaged", *more, "hydra.run.dir=long")
    assert answer.code == 0, answer.err
    last = read(tmp_path / "long" / "checkpoints" / "last.ckpt")
    assert last["callbacks"]["SWA"]["n_averaged"] == 4
    assert not [each for each in recwarn if "callbacks" in str(each.message)]
