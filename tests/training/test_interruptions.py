"""A run that is killed or signaled in any phase resumes and ends bit-identical.

A subset runs by default. ``REPEATS=3 pytest -n 0 tests/training/test_interruptions.py`` sends every
signal in every phase, three times, to runs of one process and of two ranks.
"""

import importlib
import itertools
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1, Signals
from typing import Any

import pytest
import torch

from tests.conftest import Compose
from tests.runs import launch, train
from tests.training.conftest import OPTIONS, assert_identical, read_status
from tests.training.ranks.conftest import TWO, Launcher, launcher, two_cores  # noqa: F401

#: Runs of 12 steps, validated after steps 5, 10 and 12; an epoch has 13.
STEPS = ("trainer.max_steps=12",)
#: The phases of a run: a function that is called in it, and a condition on its first argument.
PHASES = {
    "before it has a directory": ("training.run:build", "True"),
    "writing the config": ("tracking.run_directory:write_config", "True"),
    "the first step": (
        "training.tasks.base:AttentionTask.on_train_batch_end",
        "it.global_step == 1",
    ),
    "between steps": (
        "training.tasks.base:AttentionTask.on_train_batch_end",
        "it.global_step == 7",
    ),
    "the first validation": ("training.tasks.base:AttentionTask.on_validation_epoch_end", "True"),
    "a later validation": (
        "training.tasks.base:AttentionTask.on_validation_epoch_end",
        "it.global_step == 10",
    ),
    "attention maps": ("tracking.attention_callback:render", "it.step == 10"),
    "saving a checkpoint": ("training.checkpoint.checkpoint_io:_save", "it['global_step'] == 10"),
    "after the last step": (
        "training.tasks.base:AttentionTask.on_train_batch_end",
        "it.global_step == 12",
    ),
    "the last validation": (
        "training.tasks.base:AttentionTask.on_validation_epoch_end",
        "it.global_step == 12",
    ),
    "saving the last checkpoint": (
        "training.checkpoint.checkpoint_io:_save",
        "it['global_step'] == 12",
    ),
    "the end of training": ("training.history:History.on_train_end", "True"),
    "writing the page": ("tracking.attention_callback:write_viewer", "True"),
    "the test": ("training.tasks.base:AttentionTask.on_test_epoch_end", "True"),
    "writing the result": ("training.run:RunRecord.finish", "True"),
    "finishing loggers": ("tracking.safe_logger:SafeLogger.close", "True"),
}
#: Phases that only rank 0 enters.
OF_RANK_0 = {
    *("writing the config", "attention maps", "saving a checkpoint", "saving the last checkpoint"),
    *("writing the page", "the test", "writing the result", "finishing loggers"),
}
SIGNALS = (SIGKILL, SIGTERM, SIGUSR1, SIGINT)
#: Sends a signal in a phase, once. With several ranks their launcher receives it and relays it.
AIM = """
def aim():
    import importlib, os, time
    from lightning.pytorch.loggers.logger import DummyLogger
    from attention_lab.tracking import safe_logger
    from attention_lab.training import run
    log = lambda: safe_logger.SafeLogger("a service", {{"online": DummyLogger}}, None)
    run.start_loggers = lambda *_: {{"service": log()}}
    module, _, path = "attention_lab.{place}".partition(":")
    owner = importlib.import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, name)
    def aimed(it=None, *arguments, **options):
        if os.environ.get("RANK", "0") == "{rank}" and ({when}):
            setattr(owner, name, original)
            os.kill({pid}, {number})
            time.sleep({pause})
        return original(it, *arguments, **options)
    setattr(owner, name, aimed)
aim()
"""
REPEATS = int(os.environ.get("REPEATS", "0"))


def cases(defaults: list[tuple[str, Signals]]) -> list[Any]:
    """The phases and signals to try."""
    every = list(itertools.product(PHASES, SIGNALS)) * REPEATS or defaults
    return [pytest.param(phase, number, id=f"{phase}-{number.name}") for phase, number in every]


def run_aimed(config: dict[str, Any], directory: Path, aim: str) -> None:
    """Execute ``aim``, then train; for a new process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    exec(aim)
    train(config, directory, [])


def status(directory: Path) -> str | None:
    path = directory / "status.json"
    return read_status(directory)["status"] if path.exists() else None


# Runs of one process


@pytest.fixture(scope="module")
def short(tiny_digits: Compose) -> dict[str, Any]:
    return tiny_digits(*OPTIONS, *STEPS)


@pytest.fixture(scope="module")
def uninterrupted(short: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    train(short, directory, [])
    return directory


@pytest.mark.parametrize(
    ("phase", "number"),
    cases([(phase, SIGNALS[index % 4]) for index, phase in enumerate(PHASES)]),
)
def test_a_run_of_one_process_resumes_exactly(
    phase: str, number: Signals, short: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    place, when = PHASES[phase]
    aim = AIM.format(place=place, when=when, rank=0, pid="os.getpid()", number=int(number), pause=0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["attention_lab.training.run", __name__])
    process: ForkServerProcess = context.Process(
        target=run_aimed, args=(short, tmp_path / "run", aim)
    )
    process.start()
    process.join()
    has_finished = number != SIGKILL and phase == "finishing loggers"
    assert process.exitcode == (-SIGKILL if number == SIGKILL else 0 if has_finished else 1)
    found = status(tmp_path / "run")
    if phase in ("before it has a directory", "writing the config"):
        assert found in (None, "preempted")
    elif phase == "finishing loggers":
        assert found == "finished"
    else:
        assert found == ("running" if number == SIGKILL else "preempted")
    if found != "finished":
        train(short, tmp_path / "run", [])
    assert_identical(tmp_path / "run", uninterrupted)


# Runs on two ranks


@pytest.fixture(scope="module")
def pair(tiny_digits: Compose) -> dict[str, Any]:
    """The same on two ranks: an epoch has 13 steps of each rank."""
    more = ("data.batch_size=50", "trainer.enable_progress_bar=false")
    return tiny_digits(*OPTIONS, *STEPS, *TWO, *more)


@pytest.fixture(scope="module")
def uninterrupted_pair(pair: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attention_lab.training.distributed.launch.cores", lambda: 2)
        launch(pair, directory, [])
    return directory


@pytest.mark.parametrize(
    ("phase", "number"),
    cases(
        [
            ("the last validation", SIGUSR1),
            ("after the last step", SIGKILL),
            ("the test", SIGUSR1),
        ]
    ),
)
def test_a_run_on_two_ranks_resumes_exactly(
    phase: str,
    number: Signals,
    pair: dict[str, Any],
    uninterrupted_pair: Path,
    launcher: Launcher,  # noqa: F811
    tmp_path: Path,
) -> None:
    """SIGKILL is sent to the last rank that enters the phase, other signals to all ranks."""
    place, when = PHASES[phase]
    rank = 0 if phase in OF_RANK_0 or number != SIGKILL else 1
    pid, pause = ("os.getpid()", 0.0) if number == SIGKILL else (launcher.process.pid, 0.2)
    aim = AIM.format(place=place, when=when, rank=rank, pid=pid, number=int(number), pause=pause)
    launcher.start(pair, tmp_path / "run", aim)
    code, output = launcher.ended()
    found = status(tmp_path / "run")
    if phase == "finishing loggers":
        assert found == "finished", output
    else:
        assert code == 1, output
        assert found in (None, "failed" if number == SIGKILL else "preempted"), output
        launcher.start(pair, tmp_path / "run")
        code, output = launcher.ended()
        assert code == 0, output
    assert_identical(tmp_path / "run", uninterrupted_pair)


def test_every_phase_names_an_existing_function() -> None:
    for place, _ in PHASES.values():
        module, _, path = f"attention_lab.{place}".partition(":")
        owner: Any = importlib.import_module(module)
        for name in path.split("."):
            owner = getattr(owner, name)
        assert callable(owner)
    assert PHASES.keys() >= OF_RANK_0
