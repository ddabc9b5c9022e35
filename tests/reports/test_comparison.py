"""Runs are grouped by what was swept and compared over seeds."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from attention_lab.reports.comparison import Comparison, compare
from attention_lab.reports.differences import Difference
from attention_lab.reports.groups import Group
from attention_lab.reports.metrics import direction
from attention_lab.reports.runs import read_runs
from attention_lab.reports.stats import holm_factors, paired_p_value
from tests.reports.conftest import WriteRun


def labels(comparison: Comparison) -> list[str]:
    return [group.label for group in comparison.groups]


def test_numbers_of_a_group_by_hand(sweep: Path) -> None:
    comparison = compare(read_runs([sweep]))
    (additive,) = [group for group in comparison.groups if group.label == "additive"]
    interval = additive.interval("per")
    assert interval is not None
    # 0.10, 0.12, 0.14: t(2 degrees) is 4.302653, the deviation 0.02.
    half_width = 4.302653 * 0.02 / math.sqrt(3)
    assert (interval.n, interval.mean) == pytest.approx((3, 0.12))
    # An error rate has a lower bound: the upper end is that of the logarithms, which is further.
    logs = [math.log(0.10), math.log(0.12), math.log(0.14)]
    high = math.exp(sum(logs) / 3 + 4.302653 * statistics.stdev(logs) / math.sqrt(3))
    assert (interval.low, interval.high) == pytest.approx((0.12 - half_width, high))
    assert additive.interval("no such metric") is None
    assert additive.median("parameters") == 1_234_567
    assert additive.median("seconds", "training") == 75
    assert additive.median("seconds", "asleep") is None
    assert comparison.metrics == ["per", "wer", "loss"]
    assert comparison.baselines.trivial == {"per": 0.70, "wer": 0.99}
    assert (comparison.mode, comparison.threshold) == ("min", 0.3)


def test_runs_are_counted_by_status_with_reasons(sweep: Path) -> None:
    comparison = compare(read_runs([sweep]))
    (general,) = [group for group in comparison.groups if group.label == "general"]
    assert general.counts == {"finished": 1, "diverged": 1, "failed": 1, "preempted": 1}
    assert len(general.finished) == 1
    reasons = {run.seed: run.error for _, run in comparison.unfinished}
    assert reasons[1] == "the loss is nan at step 70"
    assert "general: 3 of 4 runs have no result; the means exclude them." in comparison.caveats
    assert "The groups did not finish the same seeds; only shared seeds are paired." in (
        comparison.caveats
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["attention=additive", "attention=dot"], ["additive", "dot"]),
        (["data=g2p,attention=b", "data=g2p,attention=a"], ["b", "a"]),
        (["model.d_model=32", "model.d_model=64"], ["d_model=32", "d_model=64"]),
        (["attention=a,b.width=32", "attention=c,b.width=64"], ["a, width=32", "c, width=64"]),
        (["attention=a", "attention=a,model.d_model=64"], ["default", "d_model=64"]),
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


def test_settings_that_do_not_change_results_distinguish_no_groups(write_run: WriteRun) -> None:
    write_run("a=x,logger=csv,sweep.tune=lr", 0)
    run = write_run(
        "a=x,logger.wandb.mode=disabled,trainer.enable_progress_bar=false,hydra.verbose=true", 1
    )
    assert labels(compare(read_runs([run.parent]))) == ["all runs"]


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
    assert additive.is_significant
    # The deviations are 0.02 and 0.01, and Hedges' correction is Γ(1) / Γ(1/2), which is 1 / √π.
    deviation = math.sqrt((0.02**2 + 0.01**2) / 2)
    assert additive.effect_size == pytest.approx(-0.09 / deviation / math.sqrt(math.pi))
    assert (general.interval.n, general.interval.mean) == pytest.approx((1, -0.05))
    assert math.isnan(general.adjusted_p)
    assert not general.is_significant


def test_an_unknown_baseline_lists_the_groups(sweep: Path) -> None:
    with pytest.raises(
        ValueError, match=r"attention=addtive.* matches no group; groups: .*additive"
    ):
        compare(read_runs([sweep]), "attention=addtive")
    with pytest.raises(ValueError, match="matches more than one group"):
        compare(read_runs([sweep]), "data=g2p")


def test_the_best_group_is_tested_against_all_pairs(write_run: WriteRun) -> None:
    for seed, noise in enumerate([0.000, 0.001, 0.003]):
        write_run("a=worst", seed, test={"per": 0.90 + noise})
        write_run("a=best", seed, test={"per": 0.10 + 2 * noise})
        sweep = write_run("a=middle", seed, test={"per": 0.20 - noise}).parent
    comparison = compare(read_runs([sweep]))
    best, middle, worst = (group for group, _ in comparison.ranking.means)
    lead = comparison.ranking.difference(worst, best)
    assert lead is not None
    assert (lead.group, lead.reference) == (best, worst)
    # The lead over the worst is the clearest of all three differences.
    assert lead.adjusted_p == pytest.approx(3 * lead.p_value)
    assert comparison.ranking.is_better(best, worst)
    assert comparison.ranking.is_better(middle, worst)
    assert not comparison.ranking.is_better(worst, best)
    assert comparison.ranking.leaders == [best]


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("family", [1, 2, 8])
def test_an_interval_excludes_zero_exactly_if_the_adjusted_p_is_below_005(
    n: int, family: int
) -> None:
    """Families with effects of all sizes, so that some ps are above and some below 0.05."""
    random = np.random.default_rng(0)
    groups = [Group(str(number), {}, []) for number in range(family)]
    outcomes = set()
    for _ in range(300):
        baseline = dict(enumerate(random.normal(0.5, 0.05, n)))
        effects = random.exponential(0.1, family)
        scores = [{i: v + e + random.normal(0, 0.03) for i, v in baseline.items()} for e in effects]
        p_values = [paired_p_value(each, baseline) for each in scores]
        for group, each, p, factor in zip(
            groups, scores, p_values, holm_factors(p_values), strict=True
        ):
            found = Difference(group, group, (each, baseline), (0.0, 1.0), p, factor)
            excludes_zero = not found.interval.low <= 0 <= found.interval.high
            assert excludes_zero == (found.adjusted_p < 0.05) == found.is_significant
            assert -1 <= found.interval.low <= found.interval.high <= 1
            outcomes.add(excludes_zero)
    assert outcomes == {True, False}


def test_two_shared_seeds_or_equal_differences_allow_no_test(write_run: WriteRun) -> None:
    for seed in range(3):
        write_run("a=base", seed, test={"per": 0.2 + seed / 10})
        write_run("a=same", seed, test={"per": 0.1 + seed / 10})
        run = write_run("a=few", seed + 1, test={"per": 0.01 + seed**2 / 100})
    found = compare(read_runs([run.parent]), "a=base").to_baseline("per")
    assert {d.group.label: d.interval.n for d in found} == {"same": 3, "few": 2}
    assert all(math.isnan(d.adjusted_p) and not d.is_significant for d in found)
    assert not any(d.interval.is_bounded for d in found)


def test_the_best_is_the_highest_where_higher_is_better(write_run: WriteRun) -> None:
    for name, accuracy in {"low": 0.8, "high": 0.9, "middle": 0.85}.items():
        for seed in range(2):
            result = {"monitor": "accuracy", "mode": "max"}
            run = write_run(f"a={name}", seed, test={"accuracy": accuracy}, result=result)
    ranked = compare(read_runs([run.parent])).ranking.means
    assert [group.label for group, _ in ranked] == ["high", "middle", "low"]


@pytest.mark.parametrize(
    ("steps", "expected"), [([10, 30, 20], 20), ([10, 30, None], 30), ([10, None, None], math.inf)]
)
def test_steps_to_the_threshold_include_runs_that_never_reach_it(
    write_run: WriteRun, steps: list[int | None], expected: float
) -> None:
    for seed, step in enumerate(steps):
        run = write_run("a=b", seed, result={"steps_to_threshold": step})
    (group,) = compare(read_runs([run.parent])).groups
    assert group.steps_to_threshold == expected


def test_without_a_threshold_steps_to_threshold_is_none(write_run: WriteRun) -> None:
    run = write_run("a=b", 0, result={"threshold": None, "steps_to_threshold": None})
    assert compare(read_runs([run])).groups[0].steps_to_threshold is None


def test_equal_overrides_of_two_sweeps_are_distinguished_by_other_settings(
    write_run: WriteRun,
) -> None:
    for name, epochs in (("first", 2), ("second", 4)):
        for seed in range(2):
            trainer = {"max_epochs": epochs, "enable_progress_bar": seed == 0}
            config = {"trainer": trainer, "warmup": epochs}
            run = write_run("a=x", seed, name=f"{name}{seed}", config=config)
    write_run("a=y", 0, status="failed")
    comparison = compare(read_runs([run.parent]))
    assert labels(comparison) == ["y", "x, max_epochs=2", "x, max_epochs=4"]
    assert comparison.swept == ["a", "trainer.max_epochs"]
    assert [len(group.runs) for group in comparison.groups] == [1, 2, 2]
    assert compare(read_runs([run.parent]), "a=x,trainer.max_epochs=2").baseline is not None


def test_a_setting_that_only_a_newer_version_has_distinguishes_no_groups(
    write_run: WriteRun,
) -> None:
    write_run("a=x", 0, config={"trainer": {"max_epochs": 2, "new": 1}})
    write_run("a=x", 1, config={"trainer": {"max_epochs": 2, "new": 2}})
    run = write_run("a=x", 2, config={"trainer": {"max_epochs": 2}})
    assert len(compare(read_runs([run.parent])).groups) == 1


@pytest.mark.parametrize("metric", ["wer", "test/wer"])
def test_the_metric_to_compare_by_may_be_named(sweep: Path, metric: str) -> None:
    comparison = compare(read_runs([sweep]), metric=metric)
    assert comparison.metrics == ["wer", "per", "loss"]
    assert [group.label for group, _ in comparison.ranking.means][:2] == ["additive", "general"]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("f1", "--metric f1: no run was tested for it; available: test/loss, test/per, test/wer"),
        ("train/loss", "no run was tested for it"),
        ("validation/per", "were selected on validation, .* on test; use --metric test/per"),
    ],
)
def test_another_metric_is_refused(sweep: Path, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(read_runs([sweep]), metric=metric)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("wer", "min"), ("token_error_rate", "min"), ("loss", "min"), ("bleu", "max"), ("per", "max")],
)
def test_the_direction_of_a_metric(metric: str, expected: str) -> None:
    assert direction(metric, {"monitor": "per", "mode": "max"}) == expected


def test_runs_of_different_metrics_are_compared_by_one_that_all_have(write_run: WriteRun) -> None:
    write_run("a=x", 0, test={"loss": 0.4, "per": 0.3})
    result = {"monitor": "accuracy", "mode": "max"}
    run = write_run("a=y", 0, test={"accuracy": 0.5, "loss": 0.3}, result=result)
    comparison = compare(read_runs([run.parent]))
    assert comparison.metrics[0] == "loss"
    assert [group.label for group, _ in comparison.ranking.means] == ["y", "x"]
