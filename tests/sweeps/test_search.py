"""Searches: they read one validation metric of each run, and draw the same trials again."""

import itertools
import json
import math
import re
import shlex
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from wandb.sdk.launch.sweeps import utils as wandb_sweeps

from attention_lab.config.validate import check
from attention_lab.data.bundled.g2p import G2P
from attention_lab.sweeps.search_metric import search_metric
from attention_lab.tracking.record_files import with_version
from tests.cli.conftest import Command, command  # noqa: F401
from tests.conftest import TINY_DIGITS, Compose

DOCS = Path(__file__).parents[2] / "docs"
LAUNCHER = "hydra_plugins.attention_lab_launcher.IsolatedLauncher"


@pytest.fixture
def optuna() -> Any:
    """Optuna, if installed."""
    return pytest.importorskip("optuna", "4.5", reason="needs the extra attention-lab[search]")


# The metric of a search


def written(directory: Path, **changes: Any) -> Path:
    """A directory with the result of a run."""
    result = {
        "monitor": "per",
        "mode": "min",
        "validation": {"per": 0.25, "loss": 1.5},
        "test": {"per": 0.3, "loss": 1.0},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_text(json.dumps(with_version(result | changes)))
    (directory / "status.json").write_text('{"schema_version": 1, "status": "finished"}')
    return directory


def test_a_search_minimises_the_monitored_validation_metric(tmp_path: Path) -> None:
    assert search_metric(written(tmp_path)) == 0.25
    assert search_metric(written(tmp_path, monitor="loss")) == 1.5
    assert search_metric(written(tmp_path, mode="max")) == -0.25


def test_a_run_without_a_finite_metric_returns_none(tmp_path: Path) -> None:
    assert search_metric(tmp_path / "nowhere") is None
    assert search_metric(written(tmp_path, validation={"per": math.nan})) is None
    assert search_metric(written(tmp_path, validation={"loss": 0.5})) is None
    (tmp_path / "result.json").write_text('{"monitor": "per", "va')
    assert search_metric(tmp_path) is None


@pytest.mark.parametrize("test", [{}, {"per": math.nan}, {"per": -9.0, "loss": 0.0}])
def test_test_metrics_change_nothing_for_a_search(test: object, tmp_path: Path) -> None:
    assert search_metric(written(tmp_path, test=test)) == 0.25


# The trials that it draws

Value = Callable[[Mapping[str, float]], float | None]
Trials = list[dict[str, float]]


def bowl(trial: Mapping[str, float]) -> float:
    """Best at a learning rate of 1e-3 without dropout."""
    return (math.log10(trial["optimizer.lr"]) + 3) ** 2 + trial["model.dropout"]


Search = Callable[..., tuple[Trials, dict[str, Any]]]


@pytest.fixture
def search(
    optuna: Any,
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Search:
    """Searches with runs that take no time: their metrics are functions of their settings.

    A call returns the trials and what Optuna wrote of the best. Test metrics are noise.
    """
    directories = map(str, itertools.count())

    # Hydra imports plugins anew when it looks for them, so the class must be the one that it knows.
    launcher = Plugins.instance().class_name_to_class[LAUNCHER]

    def run(*overrides: str, value: Value = bowl, test: Value = bowl) -> Any:
        trials: Trials = []
        named = [o.partition("=")[2] for o in overrides if o.startswith("hydra.sweep.dir=")]
        sweep = Path(named[0]) if named else tmp_path / next(directories)

        def launch(
            self: Any, jobs: Sequence[Sequence[str]], initial_job_idx: int
        ) -> list[JobReturn]:
            returns = []
            for number, job in enumerate(jobs, start=initial_job_idx):
                trial = {k: float(v) for k, v in (pair.split("=") for pair in job) if "." in k}
                trials.append(trial)
                validation = {"per": value(trial)}
                run = written(sweep / str(number), validation=validation, test={"per": test(trial)})
                returns.append(JobReturn(job, status=JobStatus.COMPLETED))
                returns[-1].return_value = search_metric(run)
            return returns

        monkeypatch.setattr(launcher, "launch", launch)
        arguments = ("hydra/sweeper=search", f"hydra.sweep.dir={sweep}", *overrides)
        answer = command("train", "-m", *arguments)
        written_at_the_end = sweep / "optimization_results.yaml"
        assert written_at_the_end.is_file(), answer.err
        return trials, yaml.safe_load(written_at_the_end.read_text())

    return run


SAMPLERS = ["tpe", "random"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_draws_the_same_trials(sampler: str, search: Search) -> None:
    chosen = f"hydra/sweeper/sampler={sampler}"
    first, again = search(chosen), search(chosen)
    assert first == again
    assert len(first[0]) == 20
    assert search(chosen, "hydra.sweeper.sampler.seed=1")[0][0] != first[0][0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_longer_search_begins_like_a_shorter_one(sampler: str, search: Search) -> None:
    """An interrupted search therefore finds its finished trials again."""
    chosen = f"hydra/sweeper/sampler={sampler}"
    short, _ = search(chosen, "hydra.sweeper.n_trials=14")
    long, _ = search(chosen)
    assert long[:14] == short


def test_trials_are_in_the_search_space_and_the_best_is_found(search: Search) -> None:
    trials, found = search()
    assert all(1e-4 <= trial["optimizer.lr"] <= 1e-2 for trial in trials)
    assert all(0 <= trial["model.dropout"] <= 0.3 for trial in trials)
    best = min(trials, key=bowl)
    assert found["best_params"] == pytest.approx(best)
    assert found["best_value"] == pytest.approx(bowl(best))


def test_a_setting_with_a_value_is_not_searched(search: Search) -> None:
    trials, found = search("model.dropout=0.1", "optimizer.lr=choice(0.001,0.01)")
    assert {trial["model.dropout"] for trial in trials} == {0.1}
    assert {trial["optimizer.lr"] for trial in trials} == {0.001, 0.01}
    assert found["best_params"] == {"optimizer.lr": 0.001}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_test_metrics_change_nothing_about_the_trials(sampler: str, search: Search) -> None:
    chosen = f"hydra/sweeper/sampler={sampler}"
    honest = search(chosen)
    assert search(chosen, test=lambda trial: -bowl(trial)) == honest
    if sampler == "tpe":  # which would follow them
        assert search(chosen, value=lambda trial: -bowl(trial))[0] != honest[0]


def test_a_failed_trial_does_not_stop_the_search_and_is_not_the_best(search: Search) -> None:
    def diverging(trial: Mapping[str, float]) -> float | None:
        return bowl(trial) if trial["optimizer.lr"] < 5e-4 else None

    trials, found = search(value=diverging)
    assert len(trials) == 20
    finished = [trial for trial in trials if diverging(trial) is not None]
    assert 0 < len(finished) < 20
    assert found["best_params"] == pytest.approx(min(finished, key=bowl))


def test_a_search_adds_trials_to_a_stored_study(
    optuna: Any, search: Search, tmp_path: Path
) -> None:
    kept = f"sqlite:///{tmp_path}/study.db"
    stored = (f"hydra.sweeper.storage={kept}", "hydra.sweeper.study_name=bowl")
    first, _ = search(*stored, "hydra.sweeper.n_trials=4")
    second, found = search(*stored, "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")
    assert not [trial for trial in second if trial in first]
    assert found["best_params"] == pytest.approx(min(first + second, key=bowl))
    assert len(optuna.load_study(study_name="bowl", storage=kept).trials) == 8


def test_a_study_on_disk_is_resumed_by_the_same_command(
    optuna: Any, search: Search, tmp_path: Path
) -> None:
    """As without the interruption; the trial that was running is run to its end."""
    again = f"hydra.sweep.dir={tmp_path}/again"
    whole, found = search("hydra.sweeper.n_trials=6")

    def interrupted(trial: Mapping[str, float]) -> float:
        if trial == whole[3]:
            raise KeyboardInterrupt
        return bowl(trial)

    stored = (f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db", "hydra.sweeper.n_trials=6")
    with pytest.raises(AssertionError, match="interrupted"):
        search(*stored, again, value=interrupted)
    assert search(*stored, again)[0] == whole[2:]
    study = optuna.load_study(study_name="again", storage=stored[0].partition("=")[2])
    assert [trial.params for trial in study.trials] == whole
    assert study.best_value == found["best_value"]
    assert search(*stored, again)[0] == []  # all trials have a result
    more = search(stored[0], "hydra.sweeper.n_trials=8", again)[0]
    assert more == search("hydra.sweeper.n_trials=8")[0][6:]


def test_the_same_command_launches_failed_trials_of_a_study_again(
    optuna: Any, search: Search, tmp_path: Path
) -> None:
    """Later trials are drawn as if none had failed before; a result is recorded once."""
    again, stored = f"hydra.sweep.dir={tmp_path}/again", f"sqlite:///{tmp_path}/study.db"
    resumed = (f"hydra.sweeper.storage={stored}", again, "hydra/sweeper/sampler=random")
    whole, _ = search("hydra/sweeper/sampler=random", "hydra.sweeper.n_trials=6")

    def failing(trial: Mapping[str, float]) -> float | None:
        return None if trial in whole[1:3] else bowl(trial)

    def failing_again(trial: Mapping[str, float]) -> float | None:
        return None if trial == whole[1] else bowl(trial)

    four = "hydra.sweeper.n_trials=4"
    assert search(*resumed, four, value=failing)[0] == whole[:4]
    assert search(*resumed, four, value=failing_again)[0] == whole[1:3]
    assert search(*resumed, four)[0] == [whole[1]]
    assert search(*resumed, four)[0] == []
    assert search(*resumed, "hydra.sweeper.n_trials=6")[0] == whole[4:]
    study = optuna.load_study(study_name="again", storage=stored)
    complete = [trial.params for trial in study.trials if trial.value is not None]
    assert sorted(map(str, complete)) == sorted(map(str, whole))


def test_a_locked_database_stops_a_search_in_one_line_and_loses_no_run(
    optuna: Any, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from attention_lab.sweeps import search as module

    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.01)
    again, database = f"hydra.sweep.dir={tmp_path}/again", tmp_path / "study.db"
    stored = (f"hydra.sweeper.storage=sqlite:///{database}", "hydra.sweeper.n_trials=4", again)
    whole, _ = search("hydra.sweeper.n_trials=4")
    other = sqlite3.connect(database, isolation_level=None)

    def locking(trial: Mapping[str, float]) -> float:
        if trial == whole[3]:
            other.execute("BEGIN EXCLUSIVE")
        return bowl(trial)

    says = re.escape("database is locked; all runs are kept, and the same command continues")
    with pytest.raises(AssertionError, match=says):
        search(*stored, value=locking)
    other.close()
    search(*stored)
    study = optuna.load_study(study_name="again", storage=f"sqlite:///{database}")
    assert [trial.params for trial in study.trials] == whole
    assert all(trial.value is not None for trial in study.trials)


def test_a_grid_draws_every_combination_once(search: Search) -> None:
    space = ("optimizer.lr=choice(0.1,0.2,0.3)", "model.dropout=range(0,0.3,0.1)")
    trials, found = search("hydra/sweeper/sampler=grid", *space)
    pairs = {(lr, dropout) for lr in (0.1, 0.2, 0.3) for dropout in (0.0, 0.1, 0.2)}
    assert len(trials) == len(pairs)
    assert {(t["optimizer.lr"], t["model.dropout"]) for t in trials} == pairs
    assert found["best_params"] == {"optimizer.lr": 0.1, "model.dropout": 0.0}


@pytest.mark.parametrize(
    ("override", "draws"),
    [
        ("a=range(1,4)", {1, 2, 3}),
        ("a=int(interval(1,3))", {1, 2, 3}),
        ("a=true,null,x", {True, "null", "x"}),
    ],
)
def test_distributions_are_those_of_hydras_grammar(
    optuna: Any, override: str, draws: set[Any]
) -> None:
    from attention_lab.sweeps.search import distribution

    (parsed,) = OverridesParser.create().parse_overrides([override])
    study = optuna.create_study()
    assert {study.ask({"a": distribution(parsed)}).params["a"] for _ in range(50)} == draws


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=interval(2,1)", "optimizer.lr=interval(2,1): `low <= high` must hold"),
        ("+hydra.sweeper.sampler.prior_weight=-1", "hydra.sweeper.sampler: A non-negative value"),
        ("+hydra.sweeper.sampler.n_ei_candidates=0", "hydra.sweeper.sampler: The size of `sampl"),
        ("hydra/sweeper/pruner=median hydra.sweeper.pruner.interval_steps=0", "hydra.sweeper.pr"),
        ("hydra/sweeper/pruner=hyperband hydra.sweeper.pruner.max_resource=0", "hydra.sweeper.pr"),
        *(
            (
                f"hydra/sweeper/pruner={name} hydra.sweeper.pruner.reduction_factor=1",
                "hydra.sweeper.pruner.reduction_factor=1: must be at least 2",
            )
            for name in ("hyperband", "asha")
        ),
        ("hydra/sweeper/pruner=asha +hydra.sweeper.pruner.foo=1", "hydra.sweeper.pruner.foo: Succ"),
        (
            "hydra.sweeper.n_trial=3",
            "hydra.sweeper.n_trial: hydra/sweeper=search has no such key; d",
        ),
        (
            "hydra.sweeper.pruner.n_startup_trials=3",
            "hydra.sweeper.pruner.n_startup_trials: hydra/sweeper/pruner=none has no such key; "
            "hydra/sweeper/pruner=median has it",
        ),
        ("hydra/sweeper/sampler=grid", "optimizer.lr: a grid needs values, no interval"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials: input should be greater than 0"),
        ("+hydra.sweeper.n_trial=3", "hydra.sweeper.n_trial: unknown option; did you mean n_tri"),
        ("sweep.zip=[optimizer.lr,model.dropout]", "sweep.zip: not supported by hydra/sweeper"),
        ("hydra.sweeper.storage=sqlite:////no/x.db", "hydra.sweeper.storage=sqlite:////no/x.db: ("),
        ("hydra.sweeper.storage=sqlite:////usr", "hydra.sweeper.storage=sqlite:////usr: (sqlite3."),
        (f"hydra.sweeper.storage=sqlite:///{__file__}", "hydra.sweeper.storage=sqlite:///"),
        ("hydra.sweeper.sampler.seed=x", "hydra.sweeper.sampler.seed: input should be a valid int"),
        (
            "hydra.sweeper.sampler.n_startup_trials=abc",
            "hydra.sweeper.sampler.n_startup_trials: input should be a valid integer; got 'abc'",
        ),
        ("+hydra.sweeper.sampler.foo=1", "hydra.sweeper.sampler.foo: TPESampler has no such key"),
        (
            "hydra/sweeper/sampler=random +hydra.sweeper.sampler.population_size=1 "
            "hydra.sweeper.sampler._target_=optuna.samplers.NSGAIISampler",
            "hydra.sweeper.sampler: `population_size` must be",
        ),
    ],
)
def test_a_mistake_creates_nothing(
    optuna: Any,
    override: str,
    says: str,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    database = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    given = (database, *TINY_DIGITS, *override.split())
    answer = command("train", "-m", "hydra/sweeper=search", *given)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"attention-lab: {says}")
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_first_trial_creates_nothing(
    optuna: Any,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    database = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    wrong = "attention.num_heads=choice(3,5)"
    answer = command("train", "-m", "hydra/sweeper=optuna", database, *TINY_DIGITS, wrong)
    assert answer.code == 2
    assert "is not divisible by" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_maximizes_is_refused(
    optuna: Any,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    direction = "hydra.sweeper.direction=maximize"
    one = (*TINY_DIGITS, "hydra.sweeper.n_trials=1")
    answer = command("train", "-m", "hydra/sweeper=search", *one, direction)
    assert answer.code == 2
    assert answer.err == (
        f"attention-lab: {direction}: must be minimize; "
        "a metric that is better if higher is negated for the search\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_search_over_real_runs(
    optuna: Any,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Two trials on digits, whose metric is better when higher, and one of them diverges."""
    space = ("optimizer.lr=choice(0.01,1e30)", "model.dropout=0.1")
    settings = ("hydra/sweeper/sampler=grid", "hydra.sweep.dir=sweep")
    answer = command("train", "-m", "hydra/sweeper=search", *TINY_DIGITS, *space, *settings)
    assert answer.code == 1
    assert answer.err.endswith("1 run did not finish\n")
    (result,) = (json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/result.json"))
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert found["best_value"] == -result["validation"]["accuracy"] < 0
    assert found["best_params"] == {"optimizer.lr": 0.01}


def test_trials_are_pruned_while_they_run(
    optuna: Any,
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    """They are no failures: the exit code is 0, and the same command runs nothing again."""
    stored, sweep = f"sqlite:///{tmp_path}/study.db", tmp_path / "sweep"
    threshold = "hydra.sweeper.pruner._target_=optuna.pruners.ThresholdPruner"
    pruner = (threshold, "+hydra.sweeper.pruner.upper=-0.99")
    long = ("trainer.max_epochs=2000", "optimizer.lr=choice(0.01,0.02)")
    settings = ("hydra.sweep.dir=sweep", f"hydra.sweeper.storage={stored}")
    both = ("hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=2", "hydra.launcher.parallel=2")
    arguments = ("train", "-m", "hydra/sweeper=optuna", *TINY_DIGITS, *long, *settings, *both)
    answer = command(*arguments, *pruner)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("checking 2 jobs …\n")
    assert answer.out.count("checking") == 1
    assert answer.out.count("pruned: ThresholdPruner: validation/accuracy") >= 2
    assert {json.loads(path.read_text())["status"] for path in sweep.glob("*/status.json")} == {
        "pruned"
    }
    study = optuna.load_study(study_name="sweep", storage=stored)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    again = command(*arguments, *pruner)
    assert again.code == 0, again.err
    assert "to run" not in again.out
    assert len(optuna.load_study(study_name="sweep", storage=stored).trials) == 2


# The commands in the docs


def test_commands_in_the_docs_compose(optuna: Any, compose: Compose) -> None:
    page = (DOCS / "search.md").read_text(encoding="utf-8")
    commands = re.findall(r"^attention-lab train -m (.*)$", page, re.MULTILINE)
    assert len(commands) == 5
    for line in commands:
        first_values = [
            re.sub(r"=.*?\(?(\d[\d.e-]*),.*", r"=\1", word) for word in shlex.split(line)
        ]
        check(compose(*first_values))


def test_the_command_of_a_wandb_agent_composes(
    command: Command,  # noqa: F811
    compose: Compose,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "a1b2c3")
    sweep = yaml.safe_load((DOCS / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    drawn = {key: {"value": sweep["parameters"][key]["max"]} for key in sweep["parameters"]}
    arguments = wandb_sweeps.create_sweep_command_args({"args": drawn})
    known = {"${program}": [sweep["program"]], "${args_no_hyphens}": arguments["args_no_hyphens"]}
    words = [
        word
        for part in wandb_sweeps.create_sweep_command(sweep["command"])
        for word in known.get(part, [part])
    ]
    assert words[:2] == ["attention-lab", "train"]
    answer = command(*words[1:], "--cfg", "job")
    assert answer.code == 0, answer.err
    config = yaml.safe_load(answer.out)
    assert (config["optimizer"]["lr"], config["model"]["dropout"]) == (0.01, 0.3)
    assert "hydra.run.dir=outputs/wandb_sweep/${oc.env:WANDB_RUN_ID}" in words
    check(compose(*words[2:]))
    goal = {"name": f"best/{G2P.monitor}", "goal": f"{G2P.mode}imize"}
    assert sweep["metric"] == goal
