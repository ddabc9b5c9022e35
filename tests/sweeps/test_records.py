"""Run directories are read as they are, and compared by what was swept."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from attention_lab.sweeps.comparison import Comparison, Difference, Group, compare
from attention_lab.sweeps.records import NotARun, Run, read_runs
from attention_lab.sweeps.statistics import Interval
from tests.sweeps.conftest import WriteRun


def run_named(runs: list[Run], part: str) -> Run:
    (run,) = [run for run in runs if part in run.name]
    return run


def labels(comparison: Comparison) -> list[str]:
    return [group.label for group in comparison.groups]


def test_reads_a_sweep(sweep: Path) -> None:
    runs = read_runs([sweep])
    run = run_named(runs, "attention=additive,data=g2p,seed=2")
    assert len(runs) == 10
    assert (run.name, run.directory) == (f"sweep/{run.directory.name}", sweep / run.directory.name)
    assert (run.status, run.error, run.seed) == ("finished", None, 2)
    assert run.overrides == ("attention=additive", "data=g2p", "seed=2")
    assert run.config["data"]["_target_"] == "data.G2P"
    assert run.result is not None
    assert run.result["test"]["per"] == 0.14
    assert run.metrics[:2] == [
        {"step": 99, "epoch": 0, "train/loss": 1.5},
        {"step": 100, "epoch": 0, "validation/per": 0.4},
    ]


def test_reads_single_runs_and_each_run_once(sweep: Path) -> None:
    run = next(sweep.iterdir())
    assert [r.directory for r in read_runs([run])] == [run]
    assert len(read_runs([run, sweep, sweep])) == 10


def test_runs_come_by_number_then_by_start(write_run: WriteRun) -> None:
    # The longer the overrides, the later the fixture says that the run began.
    write_run("a=long_value", 0)
    write_run("b=value", 1)
    write_run("a=x", 2, name="10")
    sweep = write_run("a=x", 3, name="9").parent
    assert [run.seed for run in read_runs([sweep])] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "missing is no directory"),
        ("empty", "empty is neither a run .* nor a sweep"),
        ("empty/file", "file is no directory"),
    ],
)
def test_anything_else_is_not_a_run(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty" / "plots").mkdir(parents=True)
    (tmp_path / "empty" / "file").write_text("")
    with pytest.raises(NotARun, match=message) as error:
        read_runs([tmp_path / path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("status.json", '{"status": "finis', "status.json is unreadable or half-written"),
        ("status.json", "[]", "status.json holds no mapping"),
        ("status.json", '{"status": "finished"}', "status.json lacks"),
        ("status.json", None, "status.json is missing"),
        ("result.json", '{"test": {"per"', "result.json is unreadable or half-written"),
        ("result.json", None, "result.json is missing"),
        ("config.yaml", "data: [1, 2", "config.yaml is unreadable or half-written"),
        ("config.yaml", None, "config.yaml is missing"),
    ],
)
def test_a_broken_record_is_a_failed_run(
    sweep: Path, file: str, content: str | None, reason: str
) -> None:
    broken = sweep / "attention=scaled,data=g2p,seed=1" / file
    broken.unlink()
    if content is not None:
        broken.write_text(content)
    run = run_named(runs := read_runs([sweep]), "scaled,data=g2p,seed=1")
    assert run.status == "failed"
    assert run.error is not None
    assert reason in run.error
    assert run.result is None
    # Neither is it dropped, nor does it change what the other runs are compared by.
    comparison = compare(runs)
    assert run in [unfinished for _, unfinished in comparison.unfinished]
    assert set(labels(comparison)) == {"additive", "scaled", "general"}


def test_a_metrics_file_ends_with_its_last_whole_line(write_run: WriteRun) -> None:
    run = write_run("a=b", 0, curve={100: 0.5, 200: 0.25})
    file = run / "metrics.csv"
    file.write_text(file.read_text() + "300,0,,0.1")  # of 0.125, say
    (read,) = read_runs([run])
    assert read.status == "finished"
    assert [row["step"] for row in read.metrics] == [99, 100, 199, 200]
    file.write_text("step,epo")
    assert read_runs([run])[0].metrics == []


def test_cells_without_a_finite_number_are_left_out(write_run: WriteRun) -> None:
    run = write_run("a=b", 0)
    (run / "metrics.csv").write_text("step,loss,per\n1,nan,inf\n2,?,0.5,7\n")
    assert read_runs([run])[0].metrics == [{"step": 1}, {"step": 2, "per": 0.5}]


def test_a_running_run_whose_process_is_gone_has_failed(write_run: WriteRun, dead_pid: int) -> None:
    write_run("a=dead", 0, status="running", record={"pid": dead_pid})
    write_run("a=elsewhere", 0, status="running", record={"pid": dead_pid, "host": "another"})
    sweep = write_run("a=alive", 0, status="running").parent
    runs = read_runs([sweep])
    assert {run.name: run.status for run in runs} == {
        "sweep/a=dead,seed=0": "failed",
        "sweep/a=elsewhere,seed=0": "running",
        "sweep/a=alive,seed=0": "running",
    }
    assert run_named(runs, "dead").error == f"died without a word (process {dead_pid} is gone)"


def test_numbers_of_a_group_by_hand(sweep: Path) -> None:
    comparison = compare(read_runs([sweep]))
    (additive,) = [group for group in comparison.groups if group.label == "additive"]
    interval = additive.interval("per")
    assert interval is not None
    # 0.10, 0.12, 0.14: t(2 degrees) is 4.302653, the deviation 0.02.
    half_width = 4.302653 * 0.02 / math.sqrt(3)
    assert (interval.n, interval.mean) == pytest.approx((3, 0.12))
    assert (interval.low, interval.high) == pytest.approx((0.12 - half_width, 0.12 + half_width))
    assert additive.interval("no such metric") is None
    assert additive.median("parameters") == 1_234_567
    assert additive.median("seconds", "training") == 75
    assert additive.median("seconds", "asleep") is None
    assert comparison.metrics == ["per", "wer", "loss"]
    assert comparison.floor == {"per": 0.70, "wer": 0.99}
    assert (comparison.mode, comparison.threshold) == ("min", 0.3)


def test_counts_and_reasons(sweep: Path) -> None:
    comparison = compare(read_runs([sweep]))
    (general,) = [group for group in comparison.groups if group.label == "general"]
    assert general.counts == {"finished": 1, "diverged": 1, "failed": 2}
    assert len(general.finished) == 1
    reasons = {run.seed: run.error for _, run in comparison.unfinished}
    assert reasons[1] == "the loss is nan at step 70"
    assert "general: 3 of 4 runs gave no result; the means leave them out." in comparison.warnings
    assert "The groups have not finished the same seeds; only shared seeds are paired." in (
        comparison.warnings
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["attention=additive", "attention=dot"], ["additive", "dot"]),
        (["data=g2p,attention=b", "data=g2p,attention=a"], ["b", "a"]),
        (["model.width=32", "model.width=64"], ["width=32", "width=64"]),
        (["attention=a,b.width=32", "attention=c,b.width=64"], ["a, width=32", "c, width=64"]),
        (["attention=a", "attention=a,model.width=64"], ["default", "width=64"]),
        (["attention=a", "+attention=b", "hydra.verbose=true"], ["a", "b", "default"]),
        (["e.d=1,f.d=1", "e.d=2,f.d=2"], ["e.d=1, f.d=1", "e.d=2, f.d=2"]),
        (["x=a", "y=a"], ["x=a", "y=a"]),
        (["model.bias=true", "model.bias=false"], ["bias=true", "bias=false"]),
        (["attention=additive"], ["additive"]),
        (["model=encoder"], ["all runs"]),
    ],
)  # fmt: skip
def test_groups_by_what_was_swept(
    write_run: WriteRun, overrides: list[str], expected: list[str]
) -> None:
    for number, override in enumerate(overrides):
        for seed in range(2):
            run = write_run(override, seed, name=f"{number}{seed}")
    comparison = compare(read_runs([run.parent]))
    assert labels(comparison) == expected
    assert [len(group.runs) for group in comparison.groups] == [2] * len(expected)


@pytest.mark.parametrize("baseline", ["scaled", "attention=scaled", "data=g2p,attention=scaled"])
def test_differences_to_the_baseline_by_hand(sweep: Path, baseline: str) -> None:
    comparison = compare(read_runs([sweep]), baseline)
    additive, general = sorted(comparison.to_baseline("per"), key=lambda d: d.group.label)
    # -0.10, -0.09, -0.08. With two degrees of freedom p is 1 - t / √(t² + 2).
    t = 0.09 / (0.01 / math.sqrt(3))
    half_width = 4.302653 * 0.01 / math.sqrt(3)
    assert (additive.group.label, additive.reference.label) == ("additive", "scaled")
    assert (additive.interval.n, additive.interval.mean) == pytest.approx((3, -0.09))
    assert additive.interval.high == pytest.approx(-0.09 + half_width)
    assert additive.p_value == pytest.approx(1 - t / math.sqrt(t**2 + 2))
    # The other group shares one seed: nothing to test, so nothing to adjust for.
    assert additive.adjusted_p == additive.p_value
    assert additive.is_supported
    assert (general.interval.n, general.interval.mean) == pytest.approx((1, -0.05))
    assert math.isnan(general.adjusted_p)
    assert not general.is_supported


def test_an_unknown_baseline_lists_the_groups(sweep: Path) -> None:
    with pytest.raises(ValueError, match=r"attention=addtive.* fits no group of: .*additive"):
        compare(read_runs([sweep]), "attention=addtive")
    with pytest.raises(ValueError, match="fits more than one group"):
        compare(read_runs([sweep]), "data=g2p")


def test_the_best_group_is_judged_against_all_pairs(write_run: WriteRun) -> None:
    for seed, noise in enumerate([0.000, 0.001, 0.003]):
        write_run("a=worst", seed, test={"per": 0.90 + noise})
        write_run("a=best", seed, test={"per": 0.10 + 2 * noise})
        sweep = write_run("a=middle", seed, test={"per": 0.20 - noise}).parent
    differences = compare(read_runs([sweep])).from_best()
    assert [(d.group.label, d.reference.label) for d in differences] == [
        ("best", "middle"),
        ("best", "worst"),
    ]
    # The lead over the worst is the clearest of all three differences.
    assert differences[1].adjusted_p == pytest.approx(3 * differences[1].p_value)


@pytest.mark.parametrize(
    ("n", "low", "high", "adjusted_p", "is_supported"),
    [
        (3, 0.1, 0.3, 0.04, True),
        (3, -0.3, -0.1, 0.04, True),
        (2, 0.1, 0.3, 0.04, False),
        (3, -0.1, 0.3, 0.04, False),
        (3, 0.1, 0.3, 0.06, False),
        (3, 0.2, 0.2, math.nan, False),
        (1, math.nan, math.nan, math.nan, False),
    ],
)
def test_what_it_takes_to_support_a_difference(
    n: int, low: float, high: float, adjusted_p: float, is_supported: bool
) -> None:
    one, other = Group("one", {}, []), Group("other", {}, [])
    difference = Difference(one, other, Interval(n, 0.2, low, high), 0.01, adjusted_p)
    assert difference.is_supported == is_supported


def test_the_best_is_the_highest_where_higher_is_better(write_run: WriteRun) -> None:
    for name, accuracy in {"low": 0.8, "high": 0.9, "middle": 0.85}.items():
        for seed in range(2):
            result = {"monitor": "accuracy", "mode": "max"}
            run = write_run(f"a={name}", seed, test={"accuracy": accuracy}, result=result)
    ranked = compare(read_runs([run.parent])).ranked()
    assert [group.label for group, _ in ranked] == ["high", "middle", "low"]


@pytest.mark.parametrize(
    ("steps", "expected"), [([10, 30, 20], 20), ([10, 30, None], 30), ([10, None, None], math.inf)]
)
def test_steps_to_the_threshold_count_those_that_never_got_there(
    write_run: WriteRun, steps: list[int | None], expected: float
) -> None:
    for seed, step in enumerate(steps):
        run = write_run("a=b", seed, result={"steps_to_threshold": step})
    (group,) = compare(read_runs([run.parent])).groups
    assert group.steps_to_threshold == expected


def test_without_a_threshold_there_are_no_steps_to_it(write_run: WriteRun) -> None:
    run = write_run("a=b", 0, result={"threshold": None, "steps_to_threshold": None})
    assert compare(read_runs([run])).groups[0].steps_to_threshold is None


def test_a_good_sweep_has_no_warnings(write_run: WriteRun) -> None:
    for seed in range(2):
        write_run("a=x", seed, test={"per": 0.1 + seed})
        sweep = write_run("a=y", seed, test={"per": 0.2 + seed}).parent
    assert compare(read_runs([sweep])).warnings == []


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"config": {"data": {"_target_": "data.G2P", "limit": 9}}},
            "differ in their data (limit)",
        ),
        ({"config": {"data": {"_target_": "data.Digits"}}}, "differ in their data (_target_)"),
        ({"test": {"per": 0.1, "wer": 0.2}}, "same test metrics (wer)"),
        ({"result": {"monitor": "wer"}}, "differ in their monitor"),
        ({"result": {"floor": {"per": 0.6}}}, "differ in their floor"),
        ({"record": {"host": "another"}}, "differ in host"),
        ({"record": {"versions": {"torch": "2.12.0"}}}, "differ in versions"),
        ({"test": {"per": math.nan}}, "y: 1 finished runs have no per on test"),
    ],
)
def test_warns_of_what_does_not_compare(
    write_run: WriteRun, changes: dict[str, object], warning: str
) -> None:
    write_run("a=x", 0, test={"per": 0.3})
    run = write_run("a=y", 0, **{"test": {"per": 0.4}, **changes})
    warnings = compare(read_runs([run.parent])).warnings
    assert [line for line in warnings if warning in line], warnings


def test_a_seed_counts_once_and_the_last_run_of_it(write_run: WriteRun) -> None:
    write_run("a=x", 0, name="1", test={"per": 0.1})
    write_run("a=x", 1, name="2", test={"per": 0.3})
    sweep = write_run("a=x", 0, name="3", test={"per": 0.2}).parent
    comparison = compare(read_runs([sweep]))
    assert comparison.groups[0].scores("per") == {0: 0.2, 1: 0.3}
    assert "all runs: a seed has finished more than once; its last run counts." in (
        comparison.warnings
    )


def test_seeds_without_effect_are_suspect(write_run: WriteRun) -> None:
    for seed in range(2):
        run = write_run("a=x", seed, test={"per": 0.1})
    (warning,) = compare(read_runs([run.parent])).warnings
    assert "all seeds have the very same per" in warning


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([0.1, 0.1], "Every run had the same optimizer"), ([0.1, 0.2], "optimizer (lr)")],
)
def test_says_whether_optimizers_were_tuned(
    write_run: WriteRun, rates: list[float], expected: str
) -> None:
    for name, rate in zip("xy", rates, strict=True):
        run = write_run(f"a={name}", 0, config={"optimizer": {"lr": rate}})
    assert expected in str(compare(read_runs([run.parent])).tuning)


def test_reading_records_imports_nothing_heavy() -> None:
    code = "import sys, json, attention_lab.sweeps.records; print(json.dumps(list(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    heavy = {"torch", "lightning", "matplotlib", "rich", "jinja2", "wandb"}
    assert heavy & set(json.loads(output)) == set()
