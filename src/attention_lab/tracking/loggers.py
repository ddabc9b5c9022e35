"""The loggers that a config chooses, besides that of ``metrics.csv``."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from attention_lab.config.components import ConfigError
from attention_lab.config.identity import changes_no_result
from attention_lab.config.overrides import key_of
from attention_lab.config.resolve import RunConfig, RunSpec
from attention_lab.config.validate import components
from attention_lab.tracking.hyperparameters import hyperparameters
from attention_lab.tracking.media import takes_images
from attention_lab.tracking.run_name import run_name
from attention_lab.tracking.safe_logger import SafeLogger
from attention_lab.tracking.wandb_logger import FINISH_TIMEOUT, WandbOptions

#: The package that a logger of Lightning needs, by its class, and the extra that brings it.
PACKAGES = {
    "TensorBoardLogger": ("tensorboard", "attention-lab[tensorboard]"),
    "MLFlowLogger": ("mlflow", "attention-lab[mlflow]"),
    "CometLogger": ("comet_ml", "attention-lab[comet]"),
    "NeptuneLogger": ("neptune", "neptune"),
}
#: Loggers of Lightning that cannot be chosen, and why.
REFUSED: dict[type[Logger], str] = {
    CSVLogger: "every run writes metrics.csv",
    WandbLogger: "use logger=wandb, which logs offline if the server fails",
}


class OtherLogger(SafeLogger):
    """A logger of Lightning's, or of a user's, which never ends a run.

    Args:
        name: its name in the config.
        config: the run's config; loggers and their services differ.
        directory: the run's directory.
        identifier: what the service called the run before it was interrupted, if it was.
    """

    def __init__(
        self, name: str, config: RunConfig, directory: Path, identifier: str | None
    ) -> None:
        given = {"save_dir": directory, "run_name": directory.name, **_mlflow(directory)}
        if identifier:
            given |= {"run_id": identifier, "experiment_key": identifier}

        def start() -> Logger:
            try:
                logger: Logger = config.create_named("logger", name, **given)
            except ConfigError as error:
                raise (error.__cause__ or error) from None
            return logger

        super().__init__(f"logger.{name}", {"": start}, FINISH_TIMEOUT)
        # In a resumed run, MLflow refuses changed values, such as of log_every_n_steps.
        if not identifier:
            plain = {key: str(value) for key, value in hyperparameters(config.record).items()}
            self.attempt(lambda logger: logger.log_hyperparams(plain))

    @property
    def identifier(self) -> str | None:
        """What the service calls the run, so that it can be resumed; None if it is not known."""
        found: list[object] = []
        self.attempt(lambda logger: found.append(logger.version))
        return found[-1] if found and isinstance(found[-1], str) else None

    def finish(self, logger: Logger, exit_code: int) -> None:
        """Finalize the logger again: the test was logged after Lightning had finalized it."""
        logger.finalize("failed" if exit_code else "success")


def _mlflow(directory: Path) -> dict[str, str]:
    """Where MLflow logs: to a server, or to one database for all runs of a sweep."""
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        return {"tracking_uri": address}
    place = directory.resolve().parent
    return {
        "tracking_uri": f"sqlite:///{place / 'mlflow.db'}",
        "artifact_location": (place / "mlartifacts").as_uri(),
    }


def wandb_options(config: RunConfig) -> WandbOptions | None:
    """The options of W&B; None if the config does not choose it."""
    for name, kind in components(config.record, "logger").items():
        if issubclass(kind, WandbOptions):
            options: WandbOptions = config.create_named("logger", name)
            return options
    return None


def check_loggers(config: RunConfig) -> None:
    """Raise ConfigError if a logger cannot work here; no logger is started.

    A missing package, invalid WANDB_ variables and two loggers for the same place are refused.
    """
    kinds = components(config.record, "logger")
    nodes: Mapping[str, Mapping[str, Any]] = config.record["logger"]
    for name, kind in kinds.items():
        for refused, reason in REFUSED.items():
            if issubclass(kind, refused):
                raise ConfigError(f"logger.{name}: {kind.__name__} cannot be used; {reason}")
        package, extra = next(
            (PACKAGES[base.__name__] for base in kind.__mro__ if base.__name__ in PACKAGES),
            ("", ""),
        )
        if package and find_spec(package) is None:
            raise ConfigError(f"logger.{name}: needs {package}; pip install '{extra}'")
    for one, other in combinations(kinds, 2):
        both_wandb = issubclass(kinds[one], WandbOptions) and kinds[one] is kinds[other]
        if both_wandb or nodes[one] == nodes[other]:
            raise ConfigError(f"logger.{one} and logger.{other} log to the same place; remove one")
    if (options := wandb_options(config)) is not None:
        with config.errors():
            options.check()


def start_loggers(spec: RunSpec, identifiers: Mapping[str, str]) -> dict[str, SafeLogger]:
    """Start the loggers of a run, by their names in the config.

    Args:
        spec: the run.
        identifiers: the ids that services gave to the run before it was interrupted, and W&B's.
    """
    loggers: dict[str, SafeLogger] = {}
    config, directory = spec.config, spec.directory
    for name, kind in components(config.record, "logger").items():
        logger: SafeLogger | None
        if issubclass(kind, WandbOptions):
            options: WandbOptions = config.create_named("logger", name)
            logger = options.logger(
                directory,
                hyperparameters(config.record),
                name=name_in_words(spec),
                group=directory.resolve().parent.name if spec.group is None else spec.group,
                job_type=spec.job_type,
                run_id=identifiers["wandb"],
            )
        else:
            logger = OtherLogger(name, config, directory, identifiers.get(name))
        if logger is not None:
            loggers[name] = logger
    return loggers


def name_in_words(spec: RunSpec) -> str:
    """A name from the values that differ in a sweep or, for a single run, from its overrides."""
    asked = [override for override in spec.overrides if not changes_no_result(key_of(override))]
    return run_name(spec.differing or asked) or spec.directory.name


def identifiers(loggers: Mapping[str, SafeLogger]) -> dict[str, str]:
    """The ids that services gave to a run, by the loggers' names, to resume it with."""
    others = {name: it for name, it in loggers.items() if isinstance(it, OtherLogger)}
    return {name: found for name, it in others.items() if (found := it.identifier)}


def destinations(loggers: Mapping[str, SafeLogger]) -> str:
    """Where metrics and attention maps go, and what that switches off, in one line."""
    working = {name: it.logger for name, it in loggers.items() if it.logger is not None}
    places: Sequence[str] = ["metrics.csv", *map(_place, working, working.values())]
    line = f"metrics go to {', '.join(places)}"
    without = [name for name, logger in working.items() if not takes_images(logger)]
    if not working:
        line += "; attention maps stay in the run's directory"
    elif without:
        line += f"; {', '.join(without)} cannot log attention maps"
    if not any(isinstance(logger, WandbLogger) for logger in working.values()):
        line += "; there is nothing for `attention-lab sync` to upload"
    return line


def _place(name: str, logger: Logger) -> str:
    if isinstance(logger, WandbLogger):
        address = getattr(logger.experiment, "url", None)  # none offline
        return f"W&B ({address or 'offline'})"
    return name
