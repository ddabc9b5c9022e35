"""`attention-lab evaluate` on another test split, on several runs, and on sweeps."""

import json
import shutil
from pathlib import Path

import pytest

import attention_lab as al
from attention_lab.config.compose import WrongCommand
from attention_lab.tracking.record_files import read_record
from attention_lab.training.evaluation import evaluate, restored
from attention_lab.training.other_test import with_other_test
from tests.cli.conftest import Command
from tests.conftest import Compose
from tests.runs import train

SMALL = ("trainer=cpu", "logger=csv", "trainer.max_steps=3", "model.d_model=16")
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def pairs(numbers: range, suffix: str = "") -> str:
    """Lines of numbers in words, and in digits."""
    words = {n: "-".join(DIGITS[int(digit)] for digit in str(n)) for n in numbers}
    return "".join(f"{word}{suffix}\t{n}\n" for n, word in words.items())


@pytest.fixture(scope="module")
def trained(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two seeds on pairs, and beside it runs on parity, on labels and on a text."""
    home = tmp_path_factory.mktemp("trained")
    (home / "pairs.tsv").write_text(pairs(range(400)))
    (home / "labels.tsv").write_text("".join(f"{n} {n % 7}\t{n % 2}\n" for n in range(300)))
    (home / "text.txt").write_text(" ".join(map(str, range(2000))))
    for seed in (0, 1):
        config = compose("data=pairs", f"data.train={home / 'pairs.tsv'}", *SMALL, f"seed={seed}")
        train(config, home / "sweep" / f"seed{seed}", [f"seed={seed}"])
    sizes = ("data.examples=200", "data.evaluation_examples=40", "data.test_lengths=[41,60]")
    train(compose("data=parity", "model.positions=learned", *sizes, *SMALL), home / "parity")
    train(compose("data=labels", f"data.train={home / 'labels.tsv'}", *SMALL), home / "labels")
    text = (
        "data=text",
        f"data.path={home / 'text.txt'}",
        "data.length=16",
        "model.positions=sinusoidal",
    )
    train(compose(*text, *SMALL), home / "text")
    return home


@pytest.fixture
def home(trained: Path, tmp_path: Path) -> Path:
    """A copy of the runs, in which evaluations can be saved."""
    shutil.copytree(trained, tmp_path / "home")
    return tmp_path / "home"


def test_a_run_is_evaluated_on_another_file(command: Command, home: Path) -> None:
    (home / "other.tsv").write_text(pairs(range(400, 420), suffix="Ü"))
    run, result = home / "sweep" / "seed0", (home / "sweep" / "seed0" / "result.json").read_bytes()
    with pytest.warns(UserWarning, match=r"other\.tsv: 20 of the 290 source tokens of test do not"):
        answer = command("evaluate", str(run), "data.test=home/other.tsv")
    assert answer.code == 0
    file = run / "evaluations" / "test,data.test=home%2Fother.tsv.json"
    assert answer.out.splitlines()[-1] == f"saved to {file}"
    record = read_record(file)
    assert record["overrides"] == ["data.test=home/other.tsv"]
    assert (record["examples"], record["left_out"], record["checkpoint"]) == (20, 0, "best")
    assert len(record["data_files"]["test"]) == 64
    assert "evaluated" in record
    assert "trivial baseline" in answer.out
    assert record["trivial_baseline"].keys() == record["shortcut_baselines"]["copy"].keys()
    assert (run / "result.json").read_bytes() == result


def test_the_own_test_split_as_a_file_has_the_metrics_of_the_run(home: Path) -> None:
    """The training split stays the same, although the config had no file for the test split."""
    run = restored(home / "sweep" / "seed0")
    source, target = run.data.source_vocabulary, run.data.target_vocabulary  # type: ignore[attr-defined]
    batch = run.data.split("test")
    rows = zip(batch.source.tolist(), batch.target.tolist(), strict=True)
    (home / "own.tsv").write_text(
        "".join(f"{source.decode(s)}\t{target.decode(t)}\n" for s, t in rows)
    )
    other = with_other_test(
        home / "sweep" / "seed0", "best", None, [f"data.test={home / 'own.tsv'}"]
    )
    assert evaluate(other.run, "test", other.rows) == evaluate(run, "test")
    for split in ("train", "validation"):
        ours, theirs = other.run.data.split(split), run.data.split(split)
        assert all(map(bool, ((a == b).all() for a, b in zip(ours, theirs, strict=True))))


@pytest.mark.parametrize(
    ("run", "content"),
    [("labels", "7 7\t1\n8 ?\t0\n"), ("text", "1 2 3 4 5 6 7 8 9 ? 10 11 12 13")],
)
def test_labels_and_texts_are_evaluated_on_another_file(
    command: Command, home: Path, run: str, content: str
) -> None:
    (home / "other").write_text(content)
    with pytest.warns(UserWarning, match=r"home/other: 1 of the \d+ tokens of test do not occur"):
        answer = command("evaluate", str(home / run), f"data.test={home / 'other'}")
    assert answer.code == 0, answer.err
    (file,) = (home / run / "evaluations").iterdir()
    assert read_record(file)["metrics"]["loss"] > 0


def test_a_text_is_evaluated_with_longer_windows(command: Command, home: Path) -> None:
    answer = command("evaluate", str(home / "text"), "data.test_length=64")
    assert (answer.code, answer.err) == (0, "")
    record = read_record(home / "text" / "evaluations" / "test,data.test_length=64.json")
    assert record["examples"] < len(restored(home / "text").data.split("test").lengths())


def test_examples_that_are_too_long_are_counted(command: Command, home: Path) -> None:
    answer = command("evaluate", str(home / "parity"), "data.test_lengths=[50,70]")
    assert answer.code == 0
    file = home / "parity" / "evaluations" / "test,data.test_lengths=[50,70].json"
    record = read_record(file)
    assert 0 < record["left_out"] < record["examples"] == 40
    assert answer.err == (
        f"attention-lab: {record['left_out']} of 40 test examples are too long and are left out: "
        "70 positions, but only 60 were learned; positions=sinusoidal has no limit\n"
    )
    assert record["trivial_baseline"] == {}  # that of all examples
    assert "baseline" not in answer.out
    too_long = command("evaluate", str(home / "parity"), "data.test_lengths=[61,70]")
    assert (too_long.code, too_long.out) == (2, "")
    assert "all 40 test examples are too long: 70 positions" in too_long.err


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.train=other.tsv", "evaluate can change the test split only, for Pairs data.test;"),
        ("data.source_tokens=bytes", "evaluate can change the test split only"),
        ("model.d_model=8", "evaluate can change the test split only"),
        ("data.test_lengths=[1,2]", "evaluate can change the test split only"),
        ("data.test=no.tsv", "no.tsv: no such file or directory"),
        ("data.test=[a", "data.test=[a: cannot be parsed"),
        ("data.test=5", "data.test: input should be a valid string; got 5"),
        ("data.test=a,b", "data.test=a,b: must be data.test=VALUE, with one value"),
        ("+data.test=a", "+data.test=a: must be data.test=VALUE, with one value"),
        ("data.test=${oc.env:HOME}", "environment variables in a recorded config"),
    ],
)
def test_an_invalid_override_is_one_line(
    command: Command, home: Path, override: str, problem: str
) -> None:
    answer = command("evaluate", str(home / "sweep" / "seed0"), override)
    assert (answer.code, answer.out) == (2, "")
    assert problem in answer.err
    assert answer.err.count("\n") == 1
    assert not (home / "sweep" / "seed0" / "evaluations").exists()


def test_an_unknown_label_and_a_missing_run_are_one_line(command: Command, home: Path) -> None:
    (home / "other.tsv").write_text("7 7\tmaybe\n")
    answer = command("evaluate", str(home / "labels"), "data.test=home/other.tsv")
    assert answer.err.endswith("other.tsv, line 1: no training text has the label 'maybe'\n")
    assert answer.code == 2
    assert command("evaluate", "data.test=home/other.tsv").err.startswith(
        "attention-lab: evaluate: the following arguments are required: RUN"
    )
    for flags in (["--split", "validation"], ["--ablate-heads"]):
        answer = command("evaluate", str(home / "labels"), "data.test=home/other.tsv", *flags)
        assert (answer.code, answer.err) == (
            2,
            f"attention-lab: data.test=home/other.tsv: cannot be combined with {' '.join(flags)}\n",
        )


def test_a_changed_training_file_is_refused(command: Command, home: Path, tmp_path: Path) -> None:
    run = home / "labels"
    config = (run / "config.yaml").read_text()
    recorded = config[config.index("train: ", config.index("data_files")) + 7 :][:64]
    (run / "config.yaml").write_text(config.replace(recorded, "f" * 64))
    (home / "other.tsv").write_text("7 7\t1\n")
    with pytest.warns(UserWarning, match="was edited after the run"):
        answer = command("evaluate", str(run), "data.test=home/other.tsv")
    assert answer.code == 2
    assert "has changed since this run's config was recorded" in answer.err


def test_a_sweep_is_evaluated_and_reported(command: Command, home: Path) -> None:
    (home / "other.tsv").write_text(pairs(range(400, 420)))
    asked = ("report", str(home / "sweep"), "--evaluation", "data.test=home/other.tsv")
    answer = command(*asked)
    assert answer.code == 2
    assert "2 of 2 finished runs have no such evaluation; run attention-lab evaluate" in answer.err
    assert answer.err.endswith("seed0 data.test=home/other.tsv\n")

    answer = command("evaluate", str(home / "sweep"), "data.test=home/other.tsv")
    assert (answer.code, answer.err) == (0, "")
    assert [line for line in answer.out.splitlines() if line.startswith("/")] == [
        str((home / "sweep").resolve() / f"seed{seed}") for seed in (0, 1)
    ]
    answer = command(*asked)
    assert (answer.code, answer.err) == (0, "")
    place = home / "sweep" / "data.test=home%2Fother.tsv"
    assert (place / "report.html").exists()
    files = [
        home / "sweep" / f"seed{seed}" / "evaluations" / "test,data.test=home%2Fother.tsv.json"
        for seed in (0, 1)
    ]
    rates = [read_record(file)["metrics"]["token_error_rate"] for file in files]
    assert f"({100 * rates[0]:.1f}, {100 * rates[1]:.1f})" in answer.out
    baseline = read_record(files[0])["trivial_baseline"]["token_error_rate"]
    assert f"{100 * baseline:.1f}" in answer.out

    table = al.load_sweep(home / "sweep", evaluation="data.test=home/other.tsv").runs
    assert table["test/token_error_rate"].tolist() == rates

    record = json.loads(files[1].read_text())
    files[1].write_text(json.dumps({**record, "data_files": {"test": "0" * 64}}))
    assert "were evaluated on different files; run attention-lab evaluate" in command(*asked).err
    files[1].write_text(json.dumps({**record, "left_out": 3}))
    assert "left out 0 examples as too long, and" in command(*asked).err


def test_several_runs_are_evaluated_and_one_failure_fails(command: Command, home: Path) -> None:
    (home / "sweep" / "seed1" / "checkpoints" / "best.ckpt").unlink()
    answer = command("evaluate", str(home / "sweep"), str(home / "parity"))
    assert answer.code == 1
    assert "has no checkpoint best.ckpt" in answer.err
    assert answer.out.count("saved to") == 2


def test_python_evaluates_another_test_split(home: Path) -> None:
    run = al.load_run(home / "parity")
    with pytest.warns(UserWarning, match="are too long and are left out"):
        metrics = run.evaluate("test", "data.test_lengths=[50,70]")
    assert metrics["loss"] != run.evaluate()["loss"]
    assert not (home / "parity" / "evaluations").exists()
    with pytest.raises(WrongCommand, match="can change the test split only"):
        run.evaluate("test", "data.lengths=[1,2]")
    with pytest.raises(WrongCommand, match="cannot be combined with split='validation'"):
        run.evaluate("validation", "data.test_lengths=[1,2]")
