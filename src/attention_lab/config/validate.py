"""Check a whole config: each section, and that data, model and task fit together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from attention_lab.config.components import (
    Config,
    ConfigError,
    check_node,
    check_value,
    component_class,
)
from attention_lab.config.flatten import flatten
from attention_lab.config.imports import import_object
from attention_lab.config.trainer_arguments import REFUSED
from attention_lab.spelling import nearest

#: The base class of each section's component. Some are in packages above this one, so they are
#: named here and imported when a config is checked.
SECTIONS = {
    "attention": "attention_lab.attention.AttentionLayer",
    "model": "attention_lab.models.base.Network",
    "data": "attention_lab.data.core.datamodule.SplitDataModule",
    "task": "attention_lab.training.tasks.base.AttentionTask",
    "optimizer": "torch.optim.Optimizer",
    "scheduler": "attention_lab.training.lr_schedules.Schedule",
    "parameter_groups": "attention_lab.training.optim.ParameterGroups",
    "trainer": "attention_lab.training.trainer.TrainerOptions",
}
#: The groups whose options set keys of other sections.
GLOBAL_GROUPS = ("experiment", "debug", "local")
#: The base classes of the components in sections that hold any number of them by name.
SECTIONS_OF_MANY = {
    "callbacks": ("lightning.Callback",),
    "logger": (
        "lightning.pytorch.loggers.Logger",
        "attention_lab.tracking.wandb_logger.WandbOptions",
    ),
}
#: Arguments that the program gives to such components unless the config sets them.
MLFLOW = ("tracking_uri", "artifact_location")
GIVEN = {
    "callbacks": ("monitor", "mode"),
    "logger": ("save_dir", "run_name", "run_id", "experiment_key", *MLFLOW),
}


def base_class(section: str) -> type:
    """The base class that the component of a section must have."""
    return cast(type, import_object(SECTIONS[section]))


def base_classes(section: str) -> tuple[type, ...]:
    """The allowed base classes of the components in a section that holds several by name."""
    return tuple(cast(type, import_object(name)) for name in SECTIONS_OF_MANY[section])


def component(config: Config, section: str) -> type[Any]:
    """The class that a section names; ConfigError if it does not have the right base class."""
    return component_class(section, config[section]["_target_"], (base_class(section),))


def components(config: Config, section: str) -> dict[str, type[Any]]:
    """The classes that a section of many names, by the names of the components."""
    kinds = base_classes(section)
    return {
        name: component_class(f"{section}.{name}", node["_target_"], kinds)
        for name, node in config[section].items()
    }


def without_given(section: str, node: Config) -> Config:
    """The node of a component in a section of many, without arguments that the program gives."""
    return {key: it for key, it in node.items() if it is not None or key not in GIVEN[section]}


def check(config: Config, trains: bool = True) -> None:
    """Check every section and every node inside it.

    Args:
        config: the config.
        trains: whether the run will train; otherwise it needs no callbacks and no loggers.

    Raises:
        ConfigError: naming the key, the value and, for a misspelt key, the nearest real one.
    """
    check_seed(config)
    _check_numbers(config)
    known = (*SECTIONS, *SECTIONS_OF_MANY)
    for key in config:
        if key not in (*known, "seed", "data_files", "choices", "extends", "init_from"):
            raise ConfigError(_no_section(key, known))
    check_value("choices", config.get("choices", {}), dict[str, str])
    _check_extends(config.get("extends", {}))
    _check_init_from(config.get("init_from"))
    for section in SECTIONS:
        if section == "task" and section not in config:
            raise ConfigError(_no_task(config))
        if not isinstance(config.get(section), Mapping) or "_target_" not in config[section]:
            raise ConfigError(f"{section}: must be a config group's option, with a _target_")
        if section == "trainer":
            _check_trainer_arguments(config[section])
        check_node(section, config[section], base_class(section))
    for section in SECTIONS_OF_MANY if trains else ():
        _check_many(section, config.get(section))
    _check_tasks(config)
    check_value("data_files", config.get("data_files", {}), dict[str, str | list[str]])


def _check_extends(section: object) -> None:
    """Check the section that names an extended run, which `train --extend` adds."""
    check_value("extends", section, dict[str, str])
    if section and set(cast(Config, section)) != {"run", "sha256"}:
        raise ConfigError("extends: must have the keys run and sha256; use `train --extend RUN`")


def _check_init_from(section: object) -> None:
    """Check the section in which a config records ``model.init_from``."""
    if section is None:
        return
    check_value("init_from", section, dict[str, Any])
    if not {"checkpoint"} <= set(cast(Config, section)) <= {"checkpoint", "sha256"}:
        raise ConfigError("init_from: is set by model.init_from=RUN; use that key")
    for value in cast(Config, section).values():
        check_value("model.init_from", value, str)


def _check_many(section: str, nodes: object) -> None:
    """Check a section that holds any number of components by name."""
    if not isinstance(nodes, Mapping):
        raise ConfigError(f"{section}: must be options of the group, as in {section}=none")
    for name, node in nodes.items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"{section}.{name}: must be a mapping with a _target_")
        path, given = f"{section}.{name}", GIVEN[section]
        check_node(path, without_given(section, node), base_classes(section), given)


def _check_trainer_arguments(trainer: Config) -> None:
    """Raise ConfigError for an argument of ``lightning.Trainer`` that is set elsewhere."""
    for name in trainer:
        if name in REFUSED:
            raise ConfigError(f"trainer.{name}: {REFUSED[name]}")


def _check_numbers(config: Config) -> None:
    """Raise ConfigError if a number is NaN, infinite or has more than 64 bits.

    Comparisons in constructors miss NaN.
    """
    for path, leaf in flatten(config):
        for value in leaf if isinstance(leaf, list) else (leaf,):
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{path}: must be a finite number, got {value}")
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ConfigError(f"{path}: must be below 2⁶³, got a number of {_digits(value)}")


def _digits(value: int) -> str:
    """The number of decimal digits, without the conversion that Python limits to 4300."""
    return f"about {abs(value).bit_length() * math.log10(2):.0f} digits"


def check_seed(config: Config) -> None:
    """Raise ConfigError unless the config has a valid seed."""
    seed = config.get("seed")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigError(f"seed: must be a whole number from 0 to 2³² - 1, got {seed!r}")


def _no_section(key: str, known: Sequence[str]) -> str:
    """The message for an unknown section, possibly the group of a file that sets other sections."""
    if key in GLOBAL_GROUPS:
        return f"{key}: its file needs the first line `# @package _global_`"
    return f"{key}: there is no such section{nearest(key, known)}"


def _no_task(config: Config) -> str:
    """The message for a user's dataset whose YAML does not choose a task."""
    return (
        "task: the dataset's YAML file chooses none; add `defaults: [/task@_global_: "
        f"{component(config, 'data').task}]` to it"
    )


def _check_tasks(config: Config) -> None:
    """Raise ConfigError unless model, data and LightningModule are for the same task."""
    tasks = {section: component(config, section).task for section in ("data", "task", "model")}
    for section in ("task", "model"):
        if tasks[section] != tasks["data"]:
            raise ConfigError(
                f"{section}: {config[section]['_target_'].rpartition('.')[2]} is for "
                f"{tasks[section]}, but the data is for {tasks['data']}; "
                "`attention-lab list` shows the others"
            )
