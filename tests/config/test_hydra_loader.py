"""Hydra composes configs with our loader, which depends on Hydra's private modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from attention_lab.config import hydra_loader
from attention_lab.config.compose import add_score_mechanisms, composed, config_directory
from attention_lab.config.hydra_loader import OwnLoader, use_own_loader

LAUNCHERS = ("isolated", "slurm", "basic")


@pytest.fixture
def loader() -> Iterator[OwnLoader]:
    add_score_mechanisms()
    with (
        use_own_loader(),
        initialize_config_dir(str(config_directory().resolve()), version_base="1.3"),
    ):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, OwnLoader)
        yield loader


def load_sweep(loader: OwnLoader, *overrides: str) -> DictConfig:
    """The command's config of a sweep."""
    return loader.load_configuration("train", list(overrides), RunMode.MULTIRUN)


def test_hydras_loader_is_restored_after_the_context() -> None:
    with use_own_loader():
        pass
    with initialize_config_dir(str(config_directory().resolve()), version_base="1.3"):
        assert type(GlobalHydra.instance().config_loader()) is ConfigLoaderImpl


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_that_differ_only_in_their_seed_are_composed_once(
    loader: OwnLoader, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra's basic launcher reads a job's overrides from its config, so its jobs share none."""
    sweep = load_sweep(loader, f"hydra/launcher={launcher}")
    calls: list[Sequence[str]] = []
    compose = loader.load_configuration

    def counted(config_name: str, overrides: list[str], run_mode: RunMode) -> DictConfig:
        calls.append(overrides)
        return compose(config_name, overrides, run_mode)

    monkeypatch.setattr(loader, "load_configuration", counted)
    jobs = [
        *(["attention=additive", f"seed={seed}"] for seed in (3, 4)),
        *(["attention=linear", f"seed={seed}"] for seed in (3, 4)),
        ["attention=linear"],
    ]
    found = []
    for job in jobs:
        config = loader.load_sweep_config(sweep, job)
        found.append((config.hydra.runtime.choices.attention, config.seed))
        if launcher == "basic":
            assert config.hydra.overrides.task == job
    assert found == [("additive", 3), ("additive", 4), ("linear", 3), ("linear", 4), ("linear", 0)]
    assert len(calls) == (5 if launcher == "basic" else 3)


def changing(*jobs: str) -> list[list[str]]:
    return [job.split() for job in jobs]


@pytest.mark.parametrize(
    ("jobs", "number"),
    [
        (
            changing(
                "optimizer.lr=0.1 seed=1", "optimizer.lr=2e-3 seed=0", "optimizer.lr=5 seed=2"
            ),
            1,
        ),
        (changing("model.dropout=0", "model.dropout=null", "model.dropout='0'"), 1),
        (changing("model.dropout=${seed}", "model.dropout=0.1", "model.dropout=${seed}"), 1),
        (changing("+model.new=a", "+model.new=b"), 1),
        (changing("model.dropout=0.1", "seed=3", "model.dropout=0.1 seed=3"), 3),
        (changing("attention=linear seed=1", "attention=additive seed=1"), 2),
        (changing("+data.files=[a,b]", "+data.files=[a]"), 2),
        (changing("model.dropout=0.1 ++model.dropout=0.2", "model.dropout=1 ++model.dropout=0"), 1),
        (changing("optimizer.betas.0=0.8", "optimizer.betas.0=0.7"), 2),
        (
            changing("++model.new.a=2 ++model.new={a:2}", "++model.new.a=1 ++model.new={a:2}"),
            2,
        ),
        (changing("optimizer.betas=[0.8,0.9]", "optimizer.betas=null", "optimizer.betas=1"), 2),
    ],
)
def test_jobs_that_differ_only_in_values_share_a_config(
    loader: OwnLoader, jobs: list[list[str]], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job's config is the one that Hydra composes for it alone."""
    sweep = load_sweep(loader, "model=encoder_decoder")
    alone = [ConfigLoaderImpl.load_sweep_config(loader, sweep, job) for job in jobs]
    monkeypatch.setattr(loader, "load_configuration", counted := Counted(loader.load_configuration))
    for job, expected in [*zip(jobs, alone, strict=True)] * 2:
        config = loader.load_sweep_config(sweep, job)
        assert content(config) == content(expected)
    assert counted.number == number


def test_only_some_configs_are_kept(loader: OwnLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of 10,000 different options would otherwise need 4 GB."""
    monkeypatch.setattr(hydra_loader, "_MOST_KEPT", 1)
    sweep = load_sweep(loader)
    monkeypatch.setattr(loader, "load_configuration", counted := Counted(loader.load_configuration))
    jobs = changing("attention=linear seed=1", "attention=linear seed=2", "attention=additive")
    for job in [*jobs, *jobs]:
        config = loader.load_sweep_config(sweep, job)
        assert config.hydra.runtime.choices.attention == job[0].removeprefix("attention=")
    assert counted.number == 3


def content(config: DictConfig) -> list[object]:
    """The keys and values of a job's config, but for the text of its overrides."""
    kept = {str(key): config[key] for key in config if key != "hydra"}
    return [OmegaConf.to_yaml(kept), config.hydra.runtime.choices, list(kept)]


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., DictConfig]) -> None:
        self.function, self.number = function, 0

    def __call__(self, *args: object, **kwargs: object) -> DictConfig:
        self.number += 1
        return self.function(*args, **kwargs)


def test_a_file_is_read_once_for_all_configs(
    loader: OwnLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep(loader)
    first = loader.load_sweep_config(sweep, ["attention=additive", "optimizer=sgd"])
    monkeypatch.setattr(yaml, "load", None)
    again = loader.load_sweep_config(sweep, ["optimizer=sgd", "attention=additive"])
    assert content(first) == content(again)


def test_scores_of_an_earlier_config_directory_are_no_options(tmp_path: Path) -> None:
    """Hydra's ConfigStore has no method that removes a config."""
    (tmp_path / "attention" / "score").mkdir(parents=True)
    text = (config_directory() / "attention" / "score" / "additive.yaml").read_text("utf-8")
    (tmp_path / "attention" / "score" / "mine.yaml").write_text(text)
    assert composed(["attention=mine"], tmp_path)["attention"]
    with pytest.raises(MissingConfigException) as raised:
        composed(["attention=mine"])
    assert str(raised.value.missing_cfg_file) == "attention/mine"


def load_as_hydra(loader: OwnLoader, run_mode: RunMode, *overrides: str) -> DictConfig:
    """A command's config, in the two calls that Hydra makes."""
    typed = list(overrides)
    with suppress(HydraException):  # as Hydra does
        loader.load_configuration("train", typed, RunMode.MULTIRUN, validate_sweep_overrides=False)
    return loader.load_configuration("train", [*typed, f"hydra.mode={run_mode.name}"], run_mode)


@pytest.mark.parametrize(
    ("run_mode", "override"),
    [(RunMode.RUN, "attention=additive"), (RunMode.MULTIRUN, "attention=additive,linear")],
)
def test_a_commands_config_is_composed_once(
    loader: OwnLoader, run_mode: RunMode, override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = loader.load_configuration("train", [override, f"hydra.mode={run_mode.name}"], run_mode)
    calls: list[list[str]] = []
    compose = ConfigLoaderImpl.load_configuration

    def counted(
        self: ConfigLoaderImpl, name: str | None, overrides: list[str], *rest: object
    ) -> DictConfig:
        calls.append(overrides)
        return compose(self, name, overrides, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    config = load_as_hydra(loader, run_mode, override)
    assert len(calls) == 1
    assert OmegaConf.to_container(config) == OmegaConf.to_container(direct)


@pytest.mark.parametrize("other", ["seed=3", "nope=1"])
def test_several_values_are_refused_before_other_errors(loader: OwnLoader, other: str) -> None:
    with pytest.raises(HydraException, match="Ambiguous value"):
        load_as_hydra(loader, RunMode.RUN, "seed=1,2", other)


def test_the_options_of_a_group_are_listed_once(
    loader: OwnLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--help`` asks for those of each group four times."""
    assert "additive" in loader.get_group_options("attention/score")
    monkeypatch.setattr(loader.repository, "get_group_options", None)
    assert "additive" in loader.get_group_options("attention/score")
