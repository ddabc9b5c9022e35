"""Mutated commands end in one clear line, in time, and leave nothing behind."""

import shutil
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.commands import BASES, FILES, TINY, draw_command
from tests.fuzz.faults import faults
from tests.fuzz.forked import Outcome, Trial, run_forked

#: Commands in each test, and the number of tests.
EACH, TESTS = 50, 4
FIRST_SEED = 1000


@pytest.mark.parametrize("part", range(TESTS))
def test_mutated_commands_end_in_one_clear_line(part: int, tmp_path: Path) -> None:
    found = {}
    for seed in range(FIRST_SEED + part * EACH, FIRST_SEED + (part + 1) * EACH):
        place = tmp_path / str(seed)
        place.mkdir()
        trial = draw_command(Random(seed))
        outcome = run_forked(trial, place)
        if said := list(faults(trial, outcome)):
            found[seed] = (said, trial.arguments, outcome)
        shutil.rmtree(place)
    assert found == {}


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
        (Outcome(0, "", "attention-lab: 'NoneType' has no len()\n", 0, []), "prints NoneType"),
    ],
)
def test_a_fault_is_found(outcome: Outcome, fault: str) -> None:
    assert any(said.startswith(fault) for said in faults(Trial([]), outcome))


@pytest.mark.parametrize("base", BASES)
def test_a_command_without_mutation_reaches_training(base: tuple[str, ...], tmp_path: Path) -> None:
    trial = Trial(["train", *base, *TINY], FILES)
    outcome = run_forked(trial, tmp_path)
    assert (outcome.code, list(faults(trial, outcome))) == (0, [])
    assert any(path.endswith("status.json") for path in outcome.made)
