"""Caveats of a comparison: other data, other budgets, seeds without effect."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from attention_lab.reports.comparison import compare
from attention_lab.reports.page import render_page
from attention_lab.reports.runs import NotARun, read_runs
from attention_lab.tracking.record_files import with_version
from tests.reports.conftest import WriteRun


def test_a_sweep_without_problems_has_no_caveats(write_run: WriteRun) -> None:
    for seed in range(2):
        write_run("a=x", seed, test={"per": 0.1 + seed})
        sweep = write_run("a=y", seed, test={"per": 0.2 + seed}).parent
    assert compare(read_runs([sweep])).caveats == []


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"config": {"data": {"_target_": "data.G2P", "limit": 9}}},
            "differ in their data (data.limit: unset for x, 9 for y): their metrics",
        ),
        (
            {"config": {"data": {"_target_": "data.Digits", "limit": 9}}},
            "differ in their data (data._target_: data.G2P for x, data.Digits for y):",
        ),
        (
            {"config": {"trainer": {"max_epochs": 9}}},
            "differ in their training budget (trainer.max_epochs: unset for x, 9 for y)",
        ),
        (
            {"config": {"model": {"d_model": 9}}},
            "differ in settings that were not swept (model.d_model: unset",
        ),
        ({"test": {"per": 0.1, "wer": 0.2}}, "same test metrics (wer)"),
        ({"test": dict.fromkeys(["per", *"abcde"], 0.1)}, "same test metrics (a, b, c and 2 more)"),
        ({"result": {"monitor": "wer"}}, "differ in their monitor"),
        ({"result": {"trivial_baseline": {"per": 0.6}}}, "differ in their trivial baseline"),
        ({"result": {"compiled": True}}, "some of the runs were compiled"),
        (
            {"result": {"attention_mismatches": {"decoder.0.self_attention": 0.2}}},
            "attention maps may be wrong: sweep/a=y,seed=0. Weights",
        ),
        ({"record": {"host": "another"}}, "differ in host"),
        ({"record": {"versions": {"torch": "2.12.0"}}}, "differ in versions"),
        ({"test": {"per": math.nan}}, "y: 1 finished runs have no test per"),
    ],
)
def test_differences_between_runs_are_caveats(
    write_run: WriteRun, changes: dict[str, object], warning: str
) -> None:
    write_run("a=x", 0, test={"per": 0.3})
    run = write_run("a=y", 0, **{"test": {"per": 0.4}, **changes})
    warnings = compare(read_runs([run.parent])).caveats
    assert [line for line in warnings if warning in line], warnings


def test_data_files_are_compared_by_their_content(write_run: WriteRun) -> None:
    """An edited file is other data; a file that was moved is not."""

    def written(name: str, seed: int, path: str, digest: str) -> Path:
        config = {
            "data": {"_target_": "data.G2P", "train": path, "more": [path]},
            "data_files": {"train": digest * 64, "more": [digest * 64]},
        }
        return write_run("a=x", seed, name=name, config=config, test={"per": 0.1 + seed})

    written("1", 0, "/a/words.tsv", "1")
    sweep = written("2", 1, "/b/words.tsv", "1").parent
    comparison = compare(read_runs([sweep]))
    assert (len(comparison.groups), comparison.caveats) == (1, [])
    written("3", 0, "/a/words.tsv", "2")
    comparison = compare(read_runs([sweep]))
    assert [group.label for group in comparison.groups] == [
        "SHA-256 11111111…",
        "SHA-256 22222222…",
    ]
    (line,) = [line for line in comparison.caveats if "differ in" in line]
    assert "differ in their data" in line
    for name in ("train", "more"):
        assert f"data.{name}: SHA-256 11111111… for " in line


def test_different_metrics_are_not_different_data(write_run: WriteRun) -> None:
    for name, metrics in {"x": ["per", "wer"], "y": ["per"]}.items():
        config = {"data": {"_target_": "data.Pairs", "metrics": metrics, "monitor": metrics[-1]}}
        run = write_run(
            f"a={name}",
            0,
            config=config,
            test=dict.fromkeys(metrics, 0.1),
            result={"monitor": metrics[-1]},
        )
    comparison = compare(read_runs([run.parent]))
    assert comparison.same_data
    assert [line.partition(" (")[0] for line in comparison.caveats] == [
        "Not all runs have the same test metrics",
        "The runs differ in their monitored metric; the report shows those of the first run.",
    ]


def test_the_last_finished_run_of_a_seed_counts(write_run: WriteRun) -> None:
    write_run("a=x", 0, name="1", test={"per": 0.1})
    write_run("a=x", 1, name="2", test={"per": 0.3})
    sweep = write_run("a=x", 0, name="3", test={"per": 0.2}).parent
    comparison = compare(read_runs([sweep]))
    assert comparison.groups[0].scores("per") == {0: 0.2, 1: 0.3}
    assert "all runs: a seed finished more than once; its last run counts." in (comparison.caveats)


def test_identical_results_of_all_seeds_are_a_caveat(write_run: WriteRun) -> None:
    for seed in range(2):
        run = write_run("a=x", seed, test={"per": 0.1})
    (warning,) = compare(read_runs([run.parent])).caveats
    assert "all seeds have identical test metrics" in warning


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([0.1, 0.1], "Every run had the same optimizer"), ([0.1, 0.2], "optimizer (lr)")],
)
def test_a_note_says_whether_optimizers_were_tuned(
    write_run: WriteRun, rates: list[float], expected: str
) -> None:
    for name, rate in zip("xy", rates, strict=True):
        run = write_run(f"a={name}", 0, config={"optimizer": {"lr": rate}})
    assert expected in str(compare(read_runs([run.parent])).tuning)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({"scheduler": {"gamma": 1}}, {"scheduler": {"gamma": 2}}, "(scheduler.gamma)"),
        ({"scheduler": {"_target_": "x.A"}}, {"scheduler": {"_target_": "x.B"}}, "(scheduler)"),
        (
            {"parameter_groups": {"decay_biases_and_norms": False}},
            {"parameter_groups": {"decay_biases_and_norms": True}},
            "(parameter_groups.decay_biases_and_norms)",
        ),
    ],
)
def test_a_different_schedule_is_a_different_optimizer(
    write_run: WriteRun, first: dict[str, Any], second: dict[str, Any], expected: str
) -> None:
    for name, config in zip("xy", (first, second), strict=True):
        run = write_run(f"a={name}", 0, config={"optimizer": {"lr": 0.1}} | config)
    assert expected in str(compare(read_runs([run.parent])).tuning)


@pytest.mark.parametrize(
    ("overrides", "configs", "is_explained"),
    [
        (["attention=x", "attention=y"], [{"attention": {"num_heads": n}} for n in (1, 2)], True),
        (["attention=x", "attention=y"], [{"model": {"cross": {"gate": n}}} for n in "12"], True),
        (["model.d_model=1", "model.d_model=2"], [{"model": {"d_model": n}} for n in (1, 2)], True),
        (["experiment=x", "experiment=y"], [{"task": {"limit": n}} for n in (1, 2)], True),
        (["task=x", "task=y"], [{"task": {"limit": n}} for n in (1, 2)], True),
        (["a@model.b=x", "a@model.b=y"], [{"model": {"b": {"c": n}}} for n in (1, 2)], True),
        (["a@model.b=x", "a@model.b=y"], [{"model": {"bc": n}} for n in (1, 2)], False),
        (["attention=x", "attention=y"], [{"task": {"limit": n}} for n in (1, 2)], False),
    ],
)  # fmt: skip
def test_settings_that_a_swept_option_determines_are_no_caveat(
    write_run: WriteRun, overrides: list[str], configs: list[dict[str, object]], is_explained: bool
) -> None:
    for override, config in zip(overrides, configs, strict=True):
        run = write_run(override, 0, config=config)
    warnings = compare(read_runs([run.parent])).caveats
    assert ("differ in settings that were not swept" in " ".join(warnings)) != is_explained


TUNING = {
    "key": "optimizer.lr",
    "grid": [0.001, 0.003, 0.01],
    "seeds": [100, 101],
    "choices": [
        {
            "overrides": ["a=x", "logger=csv"],
            "value": 0.003,
            "scores": {"0.001": 0.5, "0.003": 0.4, "0.01": 0.6},
        },
        {"overrides": ["a=y"], "value": 0.01, "scores": {"0.001": 0.5, "0.003": 0.4, "0.01": 0.3}},
    ],
}


def test_tuned_keys_do_not_distinguish_groups_and_are_reported(write_run: WriteRun) -> None:
    rates = {"x": 0.003, "y": 0.01}
    jobs = []
    for label, rate in rates.items():
        for seed in range(2):
            asked = f"a={label},optimizer.lr={rate}"
            config = {"optimizer": {"lr": rate}}
            run = write_run(asked, seed, test={"per": 0.1 + seed}, config=config)
            jobs.append({"directory": run.name, "overrides": [*asked.split(","), f"seed={seed}"]})
    record = {"command": "…", "jobs": jobs, "tuning": TUNING}
    (run.parent / "sweep.json").write_text(json.dumps(with_version(record)))
    comparison = compare(read_runs([run.parent]))
    assert [group.label for group in comparison.groups] == ["x", "y"]
    assert comparison.tuning == (
        "optimizer.lr was tuned for each group on validation, over 0.001, 0.003, 0.01 with seeds "
        "100, 101: 0.003 for x, 0.01 for y."
    )
    assert comparison.caveats == [
        "y: the best optimizer.lr, 0.01, is at the edge of the grid; a wider grid may do better."
    ]


def test_tuned_values_may_be_text(sweep: Path) -> None:
    choices = [
        {"overrides": ["attention=scaled"], "value": "cosine", "scores": {"cosine": 1, "none": 2}},
        {"overrides": ["attention=gone"], "value": None, "scores": {"cosine": None, "none": None}},
    ]
    tuning = {"key": "scheduler", "grid": ["cosine", "none"], "seeds": [7]}
    jobs = [{"directory": run.name, "overrides": []} for run in sweep.iterdir()]
    record = {"jobs": jobs, "tuning": {**tuning, "choices": choices}}
    (sweep / "sweep.json").write_text(json.dumps(with_version(record)))
    comparison = compare(read_runs([sweep]))
    assert comparison.tuning == (
        "scheduler was tuned for each group on validation, over cosine, none with seed 7: "
        "cosine for scaled, none for attention=gone."
    )
    assert not [line for line in comparison.caveats if "edge" in line]


@pytest.mark.parametrize(
    "tuning", [3, {}, {"choices": 3}, {"choices": [3, {"value": None}], "grid": "all"}]
)
def test_a_malformed_record_of_tuning_is_refused(sweep: Path, tuning: object) -> None:
    jobs = [{"directory": run.name, "overrides": []} for run in sweep.iterdir()]
    (sweep / "sweep.json").write_text(json.dumps(with_version({"jobs": jobs, "tuning": tuning})))
    with pytest.raises(NotARun, match=r"sweep\.json has a wrong value for tuning"):
        read_runs([sweep])


# Runs of other code


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"git_revision": "9f8e7d6c5b4a"},
            "git revision 0123abc in most runs, 9f8e7d6c5b in",
        ),
        ({"git_revision": "0123abc-dirty-77"}, "0123abc-dirty-77 in sweep/a=x,seed=2."),
        ({"versions": {"torch": "3.0.0"}}, "torch 2 in most runs, 3 in sweep/a=x,seed=2."),
        ({"versions": {"torch": "2.14.0"}}, None),
        ({"git_revision": None}, None),
    ],
)
def test_runs_of_other_code_are_named(
    write_run: WriteRun, change: dict[str, object], named: str | None
) -> None:
    for seed in range(3):
        record = change if seed == 2 else {}
        run = write_run("a=x", seed, test={"per": 0.1 + seed}, record=record)
    comparison = compare(read_runs([run.parent]))
    found = [line for line in comparison.caveats if "different code" in line]
    assert bool(found) == (named is not None)
    if named:
        assert named in found[0]
        page = render_page(comparison)
        made_by = re.findall(r">1.5 min</td>\s*<td class=.text.>(.*?)</td>", page)
        assert len(made_by) == 3
        assert made_by[0] == made_by[1] != made_by[2]


def test_a_few_of_many_runs_of_other_code_are_named(write_run: WriteRun) -> None:
    for seed in range(11):
        record = {"git_revision": "9f8e"} if seed > 5 else {}
        run = write_run("a=x", seed, name=str(seed), test={"per": 0.1 + seed}, record=record)
    (line,) = compare(read_runs([run.parent])).caveats
    assert line.endswith("9f8e in sweep/6, sweep/7, sweep/8 and 2 more.")


# The optimizers of runs that gave no result, and of several sweeps


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("key", ["optimizer.lr", "optimizer"])
def test_a_swept_optimizer_differs_even_if_only_one_value_worked(
    write_run: WriteRun, key: str, has_begun: bool
) -> None:
    sets = {"optimizer.lr": ({"lr": 0.1}, {"lr": 9.0}), "optimizer": ({"lr": 1}, {"lr": 2})}[key]
    write_run(f"{key}=0.1,b=1", 0, config={"optimizer": sets[0]})
    write_run(f"{key}=0.1,b=2", 0, config={"optimizer": sets[0]})
    run = write_run(f"{key}=9.0,b=1", 0, status="diverged", config={"optimizer": sets[1]})
    if not has_begun:
        (run / "config.yaml").unlink()
    tuning = compare(read_runs([run.parent])).tuning
    assert tuning is not None
    assert tuning.startswith("The runs differ in their optimizer")


def test_an_override_that_repeats_the_default_makes_no_difference(write_run: WriteRun) -> None:
    write_run("a=x", 0, config={"optimizer": {"lr": 0.1}})
    run = write_run("a=y,optimizer.lr=0.1", 0, config={"optimizer": {"lr": 0.1}})
    assert "Every run had the same optimizer" in str(compare(read_runs([run.parent])).tuning)


def test_a_pruned_trial_has_no_caveat_about_its_seed(write_run: WriteRun) -> None:
    write_run("optimizer.lr=1", 0)
    sweep = write_run("optimizer.lr=2", 0, status="pruned").parent
    assert compare(read_runs([sweep])).caveats == []
    write_run("optimizer.lr=3", 0, status="failed")
    assert any("same seeds" in line for line in compare(read_runs([sweep])).caveats)


def test_labels_with_commas_are_quoted_in_notes(write_run: WriteRun) -> None:
    for width, depth, epochs in ((1, 3, 10), (2, 4, 20)):
        config = {"trainer": {"max_epochs": epochs}}
        run = write_run(f"b.width={width},b.depth={depth}", 0, config=config)
    (line,) = compare(read_runs([run.parent])).caveats
    assert '10 for "width=1, depth=3", 20 for "width=2, depth=4"' in line
    write_run("b.width=1,b.depth=3", 1, status="failed")
    lines = compare(read_runs([run.parent])).caveats
    assert '"width=1, depth=3": 1 of 2 runs have no result; the means exclude them.' in lines


def joined(tmp_path: Path, write_run: WriteRun, tunings: dict[str, object]) -> list[Path]:
    """Sweeps over the same groups on different data, each with a record of its tuning."""
    sweeps = []
    for name, tuning in tunings.items():
        jobs = []
        for label, rate in {"x": 0.003, "y": 0.01}.items():
            asked = [f"a={label}", f"data={name}", f"optimizer.lr={rate}"]
            config = {"optimizer": {"lr": rate}, "data": {"limit": name}}
            run = write_run(",".join(asked), 0, test={"per": 0.1}, config=config)
            jobs.append({"directory": run.name, "overrides": [*asked, "seed=0"]})
        record = {"command": "…", "jobs": jobs, "tuning": tuning}
        (run.parent / "sweep.json").write_text(json.dumps(with_version(record)))
        sweeps.append(run.parent.rename(tmp_path / name))
    return sweeps


def of_data(name: str) -> dict[str, object]:
    """The tuning of a sweep on its own data."""
    choices = [
        {
            "overrides": [f"a={label}", f"data={name}"],
            "value": rate,
            "scores": {"0.003": 1, "0.01": 2},
        }
        for label, rate in (("x", 0.003), ("y", 0.01))
    ]
    return {"key": "optimizer.lr", "grid": [0.003, 0.01], "seeds": [100], "choices": choices}


def test_each_of_several_sweeps_has_its_tuning(tmp_path: Path, write_run: WriteRun) -> None:
    sweeps = joined(tmp_path, write_run, {"one": of_data("one"), "two": of_data("two")})
    first, second = compare(read_runs(sweeps)).tunings
    assert [choice.label for choice in first.choices] == ["x, one", "y, one"]
    assert [choice.label for choice in second.choices] == ["x, two", "y, two"]
    assert str(second).endswith('0.003 for "x, two", 0.01 for "y, two".')


def test_groups_without_tuning_are_named_beside_tuned_ones(
    tmp_path: Path, write_run: WriteRun
) -> None:
    sweeps = joined(tmp_path, write_run, {"one": of_data("one"), "two": None})
    tuning = compare(read_runs(sweeps)).tuning
    assert tuning is not None
    assert "optimizer.lr was tuned for each group" in tuning
    assert tuning.count("Nothing was tuned for the runs of another sweep: ") == 1
    assert "two" in tuning.partition("Nothing was tuned")[2]
