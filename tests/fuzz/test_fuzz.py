"""Mutated commands end in one clear line, in time, and leave nothing behind."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.cli.conftest import fresh
from tests.conftest import Compose
from tests.fuzz.commands import BASES, FILES, LABELS, TINY, draw_command
from tests.fuzz.faults import faults
from tests.fuzz.forked import Outcome, Trial, run_forked
from tests.fuzz.records import draw_record, read_run
from tests.runs import train

#: Commands in each test, and the number of tests for mutated commands and for damaged records.
EACH, COMMANDS, RECORDS = 45, 5, 7
FIRST_SEED = 1000


@pytest.fixture(scope="session")
def run_files(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a finished run on labelled texts."""
    place = tmp_path_factory.mktemp("fuzz")
    (place / "labels.tsv").write_text(LABELS)
    base = ("data=labels", "model=encoder_classifier", f"data.train={place / 'labels.tsv'}")
    train(compose(*base, *TINY, "trainer=cpu"), place / "run")
    return read_run(place / "run")


@pytest.mark.parametrize("part", range(COMMANDS))
def test_mutated_commands_end_in_one_clear_line(part: int, tmp_path: Path) -> None:
    assert _all_faults(part, tmp_path, draw_command) == {}


@pytest.mark.parametrize("part", range(RECORDS))
def test_commands_on_damaged_records_end_in_one_clear_line(
    part: int, tmp_path: Path, run_files: dict[str, bytes]
) -> None:
    assert _all_faults(part, tmp_path, lambda random: draw_record(random, run_files)) == {}


def _all_faults(part: int, folder: Path, draw: Callable[[Random], Trial]) -> dict[int, object]:
    """The faults of a part of the commands, by seed."""
    found: dict[int, object] = {}
    for seed in range(FIRST_SEED + part * EACH, FIRST_SEED + (part + 1) * EACH):
        place = folder / str(seed)
        place.mkdir()
        trial = draw(Random(seed))
        outcome = run_forked(trial, place)
        if said := list(faults(trial, outcome)):
            found[seed] = (said, trial.arguments, outcome)
        shutil.rmtree(place)
    return found


@pytest.mark.parametrize(
    "arguments", [["train", "--nosuch"], ["train", "attention=[1,2]"], ["evaluate", "nope"]]
)
def test_a_fork_does_what_a_process_does(arguments: list[str], tmp_path: Path) -> None:
    trial = Trial(arguments)
    forked = run_forked(trial, tmp_path)
    done = fresh("-m", "attention_lab", *arguments, cwd=tmp_path / "here")
    assert done == (forked.code, forked.out, forked.err)


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (Outcome(1, "", "Traceback (most recent call last):\nattention-lab: x\n", 0, []), "prints"),
        (Outcome(-9, "", "", 0, []), "exit code -9"),
        (Outcome(2, "", "attention-lab: x\n", 0, ["outputs"]), "makes files and ends with 2"),
        (Outcome(2, "x", "attention-lab: x\n", 0, []), "prints to standard output"),
        (Outcome(2, "", "attention-lab: x\nattention-lab: y\n", 0, []), "2 lines"),
        (Outcome(2, "", "", 0, []), "0 lines"),
        (Outcome(2, "", "usage: x\n", 0, []), "ends without a message"),
        (Outcome(2, "", f"attention-lab: {'x' * 1000}\n", 0, []), "a long line"),
        (Outcome(0, "", "", 11, []), "took 11 s"),
        (Outcome(0, "", "attention-lab: x\n", 0, ["outputs"]), "prints an error"),
        (Outcome(0, "", "", 0, []), "makes nothing and ends with 0"),
        (Outcome(1, "", "attention-lab: x\n", 0, []), "exit code 1, not [0, 2]"),
        (Outcome(0, "", "attention-lab: 'NoneType' has no len()\n", 0, []), "prints NoneType"),
    ],
)
def test_a_fault_is_found(outcome: Outcome, fault: str) -> None:
    trial = Trial([], expected=frozenset({0, 2}), trains=True)
    assert any(said.startswith(fault) for said in faults(trial, outcome))


@pytest.mark.parametrize("base", BASES)
def test_a_command_without_mutation_reaches_training(base: tuple[str, ...], tmp_path: Path) -> None:
    trial = Trial(["train", *base, *TINY], FILES)
    outcome = run_forked(trial, tmp_path)
    assert (outcome.code, list(faults(trial, outcome))) == (0, [])
    assert any(path.endswith("status.json") for path in outcome.made)
