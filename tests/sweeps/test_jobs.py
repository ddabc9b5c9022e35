"""The jobs of a sweep: their names, and the check that they can work."""

from pathlib import Path
from typing import Any

import pytest

from attention_lab.config.components import ConfigError
from attention_lab.config.compose import composed
from attention_lab.config.identity import WATCHING, identity
from attention_lab.sweeps.jobs import (
    Sections,
    build_jobs,
    existing_runs,
    make_job,
    merge_equal,
)
from attention_lab.training.build import BuiltRun, build
from tests.conftest import Compose
from tests.runs import unchecked

CONFIG = composed(["logger=csv", "seed=0"])


def name(*overrides: str, shared: tuple[str, ...] = (), **config: object) -> str:
    return make_job(Path("sweep"), CONFIG | config, overrides, shared, "sweep").directory.name


def test_a_name_holds_the_differing_overrides_and_the_identity() -> None:
    hashed = identity(CONFIG)
    assert name("data.limit=5", "seed=0", shared=("data.limit",)) == f"seed=0-{hashed}"
    assert name("seed=0", seed=1) == f"seed=0-{identity(CONFIG | {'seed': 1})}"
    assert name() == f"run-{hashed}"


def test_keys_that_cannot_change_a_result_are_in_no_name() -> None:
    assert name("seed=0", logger=composed(["logger=tensorboard"])["logger"]) == name("seed=0")


def test_hydra_and_logger_overrides_are_in_no_name() -> None:
    asides = "sweep.retry=[failed]", "logger=csv", "hydra.launcher.parallel=2"
    assert name("seed=0", *asides) == name("seed=0")


def test_a_run_directory_is_found_by_its_identity_not_by_its_readable_name(tmp_path: Path) -> None:
    there = tmp_path / f"attention=additive,seed=0-{identity(CONFIG)}"
    there.mkdir()
    configs = CONFIG, CONFIG, CONFIG | {"seed": 1}
    made = [make_job(tmp_path, config, ["seed=0"], (), "sweep") for config in configs]
    jobs = merge_equal(made, existing_runs(tmp_path))
    assert [job.directory == there for job in jobs] == [True, True, False]


def test_names_are_short_and_safe() -> None:
    odd = [name(f"path={path}", seed=i) for i, path in enumerate(("/a/b", "/a_b", "x" * 300))]
    assert len(set(odd)) == 3
    assert all("/" not in each and len(each) < 128 for each in odd)


def test_jobs_that_differ_in_seed_only_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr("attention_lab.sweeps.jobs.check_loggers", lambda config: None)
    monkeypatch.setattr("attention_lab.sweeps.jobs.load_data", lambda config: "data")
    monkeypatch.setattr(
        "attention_lab.sweeps.jobs.build", lambda config, data: built.append(config.seed)
    )
    jobs = [
        unchecked(
            {"seed": seed, "data": {"seed": seed}, "model": {"d_model": width}, "logger": {}},
            Path("run"),
        )
        for width in (1, 2)
        for seed in (0, 1)
    ]
    build_jobs(jobs)
    assert built == [0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": {"_target_": "torch.optim.SGD", "_partial_": True, "lr": -1.0}},
        {"callbacks": {"x": {"_target_": "lightning.pytorch.callbacks.StochasticWeightAveraging"}}},
    ],
)
def test_jobs_that_share_a_model_are_built_once_but_each_is_checked(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object]
) -> None:
    config = compose("logger=csv", "data=reverse", "data.examples=100")
    rates = [{"optimizer": {**config["optimizer"], "lr": rate}} for rate in (1e-3, 2e-3, 3e-3)]
    jobs = [unchecked(config | change, Path(str(i))) for i, change in enumerate([*rates, wrong])]
    built = []

    def count(*given: Any) -> BuiltRun:
        built.append(given)
        return build(*given)

    monkeypatch.setattr("attention_lab.sweeps.jobs.build", count)
    build_jobs(jobs[:-1])
    assert len(built) == 1
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        build_jobs(jobs)


def test_equal_sections_of_configs_are_shared() -> None:
    sections = Sections()
    first = sections.share({"a": {"b": 1}, "c": [0]})
    other = sections.share({"a": {"b": 1}, "c": [1]})
    assert other == {"a": {"b": 1}, "c": [1]}
    assert other["a"] is first["a"]
    assert sections.share({"a": {"b": True}})["a"]["b"] is True


def test_a_job_that_cannot_work_is_named(compose: Compose, tmp_path: Path) -> None:
    overrides = ["a=b", "c=d"]
    with pytest.raises(ConfigError, match=r"^a=b,c=d: seed: "):
        make_job(tmp_path, compose() | {"seed": "x"}, overrides, (), "sweep")


def test_a_job_that_records_nothing_is_refused(tiny_digits: Compose, tmp_path: Path) -> None:
    config = tiny_digits("trainer.fast_dev_run=true")
    with pytest.raises(ConfigError, match=r"seed=1: trainer\.fast_dev_run: records nothing"):
        make_job(tmp_path, config, ["seed=1"], (), "sweep")


def test_jobs_of_equal_configs_share_one_directory(tmp_path: Path) -> None:
    one, two = (unchecked({"seed": 0, "x": 1.0}, tmp_path / name) for name in ("x=1", "x=1.0"))
    other = unchecked({"seed": 1, "x": 1.0}, tmp_path / "x=1,seed=1")
    assert [it.directory.name for it in merge_equal([one, two, other], {})] == [
        *("x=1", "x=1", "x=1,seed=1")
    ]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("trainer", [{"compile": True}, {"compile": False}]),
        ("logger", [{"wandb": {"mode": "off"}}, {}]),
        ("callbacks", [{}, {"lr": {"_target_": WATCHING[2], "log_momentum": False}}]),
    ],
)
def test_a_sweep_over_a_key_that_changes_no_result_is_refused(
    tmp_path: Path, key: str, values: list[dict[str, object]]
) -> None:
    jobs = [unchecked({"seed": 0, key: it}, tmp_path / str(n)) for n, it in enumerate(values)]
    with pytest.raises(ConfigError, match=rf"^{key}.*: cannot be swept, as it changes no result"):
        list(merge_equal(jobs, {}))
