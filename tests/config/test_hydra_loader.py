"""Hydra composes configs with our loader, which depends on Hydra's private modules."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

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
