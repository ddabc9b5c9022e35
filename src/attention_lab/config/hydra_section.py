"""Check the section ``hydra`` of a config before Hydra uses it.

The section names the callbacks, launchers, sweepers and log handlers that Hydra instantiates, and
the environment variables that it sets. Hydra has a block list of classes, but its documentation
says that the list is not a security boundary.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from attention_lab.config.compose import WrongCommand, group_options
from attention_lab.spelling import listed

#: The classes that Hydra may instantiate, by their path under ``hydra``; "*" is any name.
TARGETS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("callbacks", "*"): (
        "attention_lab.cli.output_directories.OutputDirectories",
        "attention_lab.cli.dry_run.RedirectOutput",
    ),
    ("launcher",): (
        "hydra_plugins.attention_lab_launcher.IsolatedLauncher",
        "hydra_plugins.attention_lab_launcher.SlurmLauncher",
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    ),
    ("sweeper",): (
        "hydra_plugins.attention_lab_sweeper.GridSweeper",
        "hydra_plugins.attention_lab_sweeper.SearchSweeper",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    ),
    ("sweeper", "pruner"): tuple(
        f"optuna.pruners.{name}Pruner"
        for name in ("Nop", "Median", "Percentile", "SuccessiveHalving", "Hyperband", "Threshold")
    ),
    # Without CmaEsSampler, which unpickles data from the storage.
    ("sweeper", "sampler"): tuple(
        f"optuna.samplers.{name}Sampler" for name in ("TPE", "Random", "Grid", "NSGAII")
    ),
}
#: The environment variables that a config may set. None of them is an address or a search path.
ENVIRONMENT = {
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG"),
    *("NCCL_DEBUG", "NCCL_P2P_DISABLE", "NCCL_IB_DISABLE", "NCCL_SOCKET_IFNAME"),
    "GLOO_SOCKET_IFNAME",
}
LOG_HANDLERS = ("logging.StreamHandler", "logging.FileHandler")
#: Where logging may write: Hydra's log file, standard output and standard error.
LOG_PLACES = (
    "${hydra.runtime.output_dir}/${hydra.job.name}.log",
    *("ext://sys.stdout", "ext://sys.stderr"),
)
#: An override that chooses an option of a group, and values that are lists or no names.
CHOICE = re.compile(r"\+{0,2}(\w+(?:/\w+)*)(?:@[\w.]*)?=(.*)", re.DOTALL)
LIST = re.compile(r"\[.+\]", re.DOTALL)
#: A range of numbers in an override, also within another function: shuffle(range(0, 9)).
RANGE = re.compile(r"\brange\s*\(")
#: The most values of a range, which Hydra lists one by one, and the most jobs of a sweep.
MOST_VALUES = 100_000
NO_NAME = re.compile(
    r"\s*(null|true|false|[-+]?\d[\d_]*|[-+]?[\d._]+(e[-+]?\d+)?|[-+]?inf|nan|\{.*\}|\[.*[\W\d].*\])?\s*",
    re.DOTALL | re.IGNORECASE,
)
#: Groups in which several options can be chosen: ``callbacks=[ema,lr_monitor]``.
COMBINED_GROUPS = ("experiment", "callbacks", "logger")
REMEDY = "leave it out"
#: The most digits of a number; Python reads at most 4300.
LONGEST_NUMBER = 400
LONG_NUMBER = re.compile(rf"\d{{{LONGEST_NUMBER + 1}}}")
#: The longest name of a file or directory, in bytes.
LONGEST_NAME = 255


def is_search(settings: DictConfig) -> bool:
    """Whether later jobs of a sweep depend on the results of earlier ones.

    Args:
        settings: the section ``hydra``.
    """
    return bool(settings.sweeper._target_.endswith(".SearchSweeper"))


def check(config: DictConfig) -> None:
    """Check the section ``hydra`` of a composed config.

    Raises:
        WrongCommand: if a key has a value that is not allowed.
    """
    for name in ("callbacks", "launcher", "sweeper"):
        if OmegaConf.is_interpolation(config.hydra, name):
            raise WrongCommand(f"hydra.{name}: must not be an interpolation; {REMEDY}")
        _check_node(f"hydra.{name}", config.hydra[name])
        OmegaConf.resolve(config.hydra[name])  # Hydra then uses the values that are checked
    if "sweep" in config:
        _check_node("sweep", config["sweep"])
    if OmegaConf.is_config(config.get("seed")):  # the names of directories contain it
        raise WrongCommand("seed: must be a whole number, not an option or a list")
    settings: Any = OmegaConf.to_container(config.hydra)
    for name in ("run", "sweep"):
        directory = settings[name]["dir"]
        _check_directory(f"hydra.{name}.dir", directory)
        if directory.startswith("~"):  # no shell has seen it
            config.hydra[name].dir = os.path.expanduser(directory)
    for path, target in _targets(settings):
        _check_target(path, target)
    _check_verbose(settings["verbose"])
    _check_sweeper(settings["sweeper"])
    for name in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{name}", settings[name])
    _check_environment(settings["job"]["env_set"])
    _check_subdirectory(settings["output_subdir"])
    # Hydra resolves these when it has made the run's directory; an error must come earlier.
    for key in ("name", "chdir", "env_set", "env_copy"):
        value = config.hydra.job[key]
        if OmegaConf.is_config(value):
            OmegaConf.to_container(value, resolve=True)


def _check_node(path: str, value: Any) -> None:
    """Raise WrongCommand if a value stands in place of a node of keys."""
    if not OmegaConf.is_dict(value):
        group = path.replace(".", "/")
        options = group_options(group)
        hint = f"; did you mean {group}={value}?" if value in options else f"; {REMEDY}"
        raise WrongCommand(f"{path}: must be a node of keys, got {value!r}{hint}")


def _check_directory(path: str, value: Any) -> None:
    """Raise WrongCommand if a directory for runs has no name, or one that no file system allows."""
    if not isinstance(value, str) or not value.strip() or value == "???":
        raise WrongCommand(f"{path}: must be the path of a directory, got {value!r}")
    longest = max(value.split("/"), key=lambda name: len(os.fsencode(name)))
    if len(os.fsencode(longest)) > LONGEST_NAME:
        raise WrongCommand(f"{path}: the name {longest} has more than {LONGEST_NAME} bytes")


def check_choices(overrides: Sequence[str], options_of: Callable[[str], Sequence[str]]) -> None:
    """Check the overrides that choose an option, before Hydra composes the config.

    Args:
        overrides: of the command, or of a job.
        options_of: returns the options of a config group; none if there is no such group.

    Raises:
        WrongCommand: if one chooses several options, which Hydra would merge, or no name.
    """
    for override in overrides:
        check_size(override)
        if LONG_NUMBER.search(override):
            raise WrongCommand(f"{override}: a number has more than {LONGEST_NUMBER} digits")
        if override.startswith("@"):
            raise WrongCommand(f"{override}: starts with @; use GROUP@PACKAGE=OPTION")
        match = CHOICE.fullmatch(override)
        if match and any(len(os.fsencode(name)) > LONGEST_NAME for name in match[1].split("/")):
            raise WrongCommand(f"{match[1]}: there is no such key")  # no directory has that name
        options = [name for name in options_of(match[1]) if name[0] != "_"] if match else []
        if match is None or not options:
            continue
        names = [match[2]]
        if LIST.fullmatch(match[2]):
            names = [name.strip() for name in match[2].strip("[] ").split(",")]
        if len(names) > 1 and match[1] not in COMBINED_GROUPS:
            known = names[0] if names[0] in options else options[0]
            raise WrongCommand(f"{override}: only one option can be chosen, as {match[1]}={known}")
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise WrongCommand(f"{override}: {repeated} is chosen twice")
        if any(map(NO_NAME.fullmatch, names)):
            raise WrongCommand(f"{override}: must be the name of an option{listed(options)}")
        if any(len(os.fsencode(name)) > LONGEST_NAME - len(".yaml") for name in names):
            raise WrongCommand(f"{override}: there is no such option{listed(options)}")


def check_size(override: str) -> None:
    """Raise WrongCommand if a range has so many values that listing them takes too long."""
    if RANGE.search(override) is None:
        return
    try:
        values = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return  # Hydra reports it
    if isinstance(values, RangeSweep) and values.step:
        number = ((values.stop or 0) - (values.start or 0)) / values.step
        if number > MOST_VALUES:
            raise WrongCommand(f"{override}: has {number:,.0f} values; at most {MOST_VALUES:,}")


def _targets(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every ``_target_`` in a value, with its path."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return
    if "_target_" in value:
        yield path, value["_target_"]
    for key, inner in value.items():
        yield from _targets(inner, (*path, str(key)))


def _check_target(path: tuple[str, ...], target: Any) -> None:
    place = ("callbacks", "*") if path[:1] == ("callbacks",) and len(path) == 2 else path
    known = TARGETS.get(place, ())
    if target not in known:
        names = " or ".join(name.rpartition(".")[2] for name in known) or "nothing"
        key = ".".join(("hydra", *path, "_target_"))
        raise WrongCommand(f"{key}: {target} is not allowed, only {names} is; {REMEDY}")


def _check_verbose(value: Any) -> None:
    """Reject values that do not name loggers: Hydra's own error does not name the key."""
    names = value if isinstance(value, list) else [value]
    if not isinstance(value, bool) and not all(isinstance(name, str) for name in names):
        raise WrongCommand(f"hydra.verbose: must be true, false or names of loggers, got {value}")


def _check_sweeper(sweeper: Any) -> None:
    """Reject databases other than files: their drivers could run code or send data."""
    params = sweeper.get("params") if isinstance(sweeper, Mapping) else None
    if not isinstance(params, Mapping | NoneType):
        raise WrongCommand(f"hydra.sweeper.params: must be a mapping of keys, got {params!r}")
    storage = sweeper.get("storage") if isinstance(sweeper, Mapping) else None
    if storage is not None and not str(storage).startswith("sqlite:///"):
        raise WrongCommand(f"hydra.sweeper.storage: must be a file, sqlite:///…, got {storage}")


def _check_logging(path: str, value: Any) -> None:
    """Reject a logging config that could call any function or append to any file."""
    if isinstance(value, str) and ("${" in value or "://" in value) and value not in LOG_PLACES:
        raise WrongCommand(f"{path}: {value} is not allowed; {REMEDY}")
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        is_wrong = {
            "()": True,
            ".": True,
            "class": inner not in LOG_HANDLERS,
            "filename": inner not in LOG_PLACES,
        }
        if is_wrong.get(key, False):
            raise WrongCommand(f"{path}.{key}: {inner} is not allowed; {REMEDY}")
        _check_logging(f"{path}.{key}", inner)
    if isinstance(value, list):
        for inner in value:
            _check_logging(path, inner)


def _check_environment(variables: Any) -> None:
    names = variables if isinstance(variables, Mapping) else [str(variables)]
    for name in names:
        if name not in ENVIRONMENT:
            raise WrongCommand(
                f"hydra.job.env_set.{name}: a config may not set it; set it in the shell, as in "
                f"`{name}=… attention-lab train …`"
            )


def _check_subdirectory(name: str | None) -> None:
    if name is not None and ("${" in name or name in ("", "..") or Path(name).name != name):
        raise WrongCommand(f"hydra.output_subdir: must be a plain name, got {name!r}; {REMEDY}")
