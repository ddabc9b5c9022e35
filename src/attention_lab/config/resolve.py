"""The checked config of a run, and the run that a config describes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from attention_lab.config.components import (
    Config,
    ConfigError,
    NodeError,
    create,
    named_parameters,
    path_of,
)
from attention_lab.config.data_files import check_regular
from attention_lab.config.environment_variables import check_without_environment, with_environment
from attention_lab.config.identity import identity
from attention_lab.config.validate import (
    base_class,
    check,
    component,
    components,
    without_given,
)

_NO_MEMORY = "the config needs more memory than this machine has; choose smaller sizes"


@dataclass(frozen=True)
class RunConfig:
    """The checked config of a run.

    It is returned by :func:`resolve_recorded`, and for a new run by
    :func:`attention_lab.tracking.run_config.resolve`.
    """

    #: The content of ``config.yaml``: plain values, with environment variables by name.
    record: Config
    #: False for a recorded config: it may come from a stranger and must not read the environment.
    reads_environment: bool = True

    @cached_property
    def values(self) -> Config:
        """The record with the values of environment variables in place of their names."""
        return with_environment(self.record) if self.reads_environment else self.record

    @cached_property
    def identity(self) -> str:
        """The identity of the run (see :func:`attention_lab.config.identity.identity`)."""
        return identity(self.record)

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.record["seed"])

    def component(self, section: str) -> type[Any]:
        """The class of a section, such as "model"."""
        return component(self.record, section)

    def create(self, section: str, **given: Any) -> Any:
        """Create the object that a section describes.

        Args:
            section: such as "model".
            given: arguments that are not in the config, such as objects and sizes of the data.

        Raises:
            ConfigError: if a constructor raises ValueError.
        """
        with self.errors():
            return create(self.values[section], (base_class(section),), **given)

    def create_named(self, section: str, name: str, **given: Any) -> Any:
        """Create a component of a section that holds any number of them by name.

        Args:
            section: such as "callbacks".
            name: the component's name.
            given: arguments for a class that takes them, unless the config sets them.

        Raises:
            ConfigError: if the constructor raises any error: the class may be a user's.
        """
        kind: type = components(self.record, section)[name]
        node = without_given(section, self.values[section][name])
        missing = named_parameters(kind).keys() - node.keys()
        try:
            return create(node, (kind,), **{key: given[key] for key in given.keys() & missing})
        except Exception as error:
            message = str(error).partition("\n")[0] or type(error).__name__
            raise ConfigError(f"{section}.{name}: {message}") from error

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert components' ValueError and ImportError to ConfigError, with a path if known."""
        try:
            yield
        except ConfigError:
            raise
        except NodeError as error:
            raise ConfigError(f"{path_of(error.node, self.values)}: {error}") from error
        except (ValueError, ImportError) as error:
            raise ConfigError(str(error)) from error
        except (MemoryError, OverflowError) as error:
            raise ConfigError(_NO_MEMORY) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            raise ConfigError(_NO_MEMORY) from error

    def __getstate__(self) -> dict[str, Any]:
        """Pickle only the record: SLURM jobs are pickled to files, which must hold no secrets."""
        return {"record": self.record, "reads_environment": self.reads_environment}


#: W&B's job type of a run; the runs of a tuning have "tune", those of a search "search".
JobType = Literal["train", "tune", "search"]


@dataclass(frozen=True)
class RunSpec:
    """A run to train: its config, its directory, and the sweep that it belongs to."""

    config: RunConfig
    #: The run's directory.
    directory: Path
    #: The run's overrides, as ``key=value``.
    overrides: Sequence[str] = ()
    #: The name of the run's sweep; None means the name of the parent directory.
    group: str | None = None
    #: The overrides that distinguish the run in its sweep.
    differing: Sequence[str] = ()
    job_type: JobType = "train"

    @property
    def name(self) -> str:
        """The overrides that distinguish the run in its sweep; "" if there are none."""
        return ",".join(self.differing)


def resolve_recorded(config: Config, with_data: bool = True) -> RunConfig:
    """Check the config of a finished run without reading the environment.

    It may come from a stranger. Its callbacks and loggers are not checked, as it will not train.

    Args:
        config: as :func:`attention_lab.tracking.run_directory.read_config` returns it.
        with_data: whether the run's data will be loaded.

    Raises:
        ConfigError: if it is invalid in this release, or its data needs an environment variable.
    """
    check(config, trains=False)
    if with_data:
        check_without_environment(config)
        check_regular(config)
    return RunConfig(config, reads_environment=False)
