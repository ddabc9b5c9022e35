"""A subclass of Hydra's config loader that checks each config that it composes.

It also checks the command's flags: Hydra's parser prints ten lines of usage for a wrong one. Hydra
has no setting for its loader. This module is the only one that imports Hydra's private
modules; tests/config/test_hydra_loader.py fails if they change.
"""

import copy
import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra._internal import hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import AnyNode, Container, DictConfig, ListConfig, OmegaConf

from attention_lab.config.compose import WrongCommand, check_own_directory
from attention_lab.config.hydra_section import check, check_choices
from attention_lab.config.option_files import check_content, file_errors
from attention_lab.spelling import nearest, nearest_flag

#: An override of a value by its dotted key, which no config group has. Longer ones are checked when
#: the job is composed.
_VALUE = re.compile(r"\+{0,2}(seed|(?!hydra\.)\w+(?:\.\w+)+)=(.{1,100})")
#: An override of a mapping, which also replaces values inside that stand before it.
_MAPPING = re.compile(r"[^=]+=\s*\{")
#: The most configs that a loader keeps, each of 0.4 MB: further ones are composed again.
_MOST_KEPT = 1000
#: The plain value of a key.
_Value = int | float | bool | str | None


@contextmanager
def use_own_loader() -> Iterator[None]:
    """In this context, Hydra composes configs with :class:`OwnLoader`."""
    vars(hydra_internals)["ConfigLoaderImpl"] = OwnLoader
    try:
        yield
    finally:
        vars(hydra_internals)["ConfigLoaderImpl"] = ConfigLoaderImpl


class OwnLoader(ConfigLoaderImpl):
    """Checks each composed config, the command's and each job's, before Hydra uses it.

    Jobs of a sweep that differ only in values of the same keys share one config, in which their
    values are set: composing takes a tenth of a second, and Hydra composes each job twice.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = _Repository(config_search_path)
        #: The configs of jobs by their overrides without values, and the nodes of these values.
        self._jobs: dict[tuple[str, ...], tuple[DictConfig, dict[str, AnyNode]]] = {}
        #: The result or the error of the first of Hydra's two calls for a command.
        self._of_command: DictConfig | Exception | None = None
        self._group_options: dict[tuple[str, ObjectType | None], list[str]] = {}

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """The options of a group. ``--help`` asks for those of each group four times."""
        if config_name or overrides:
            return super().get_group_options(group_name, results_filter, config_name, overrides)
        key = group_name, results_filter
        if key not in self._group_options:
            self._group_options[key] = self.repository.get_group_options(*key)
        return self._group_options[key]

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a config.

        Hydra composes the command's config twice: first to read ``hydra.mode``, without validating
        the overrides, then to run. The second call returns the config of the first.
        """
        check_choices(overrides, self.repository.get_group_options)
        if not validate_sweep_overrides:
            try:
                config = self._load(config_name, overrides, RunMode.RUN, from_shell, False)
            except Exception as error:  # raised again by the second call
                self._of_command = error
                raise
            self._of_command = config
            return config
        composed, self._of_command = self._of_command, None
        if composed is None or (isinstance(composed, Exception) and run_mode != RunMode.RUN):
            # A sweep may choose an option that the command's config lacks.
            return self._load(config_name, overrides, run_mode, from_shell)
        parsed = OverridesParser.create().parse_overrides(overrides)
        self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        if isinstance(composed, Exception):
            raise composed
        if composed.hydra.mode != run_mode:  # Hydra has added an override, as in --multirun
            composed.hydra.mode = run_mode
            composed.hydra.overrides.hydra.append(overrides[-1])
        return composed

    def _load(self, *arguments: Any) -> DictConfig:
        """Compose and check a config.

        Args:
            arguments: those of :meth:`load_configuration`.
        """
        try:
            config = super().load_configuration(*arguments)
        except RecursionError:
            raise WrongCommand(
                "the config is nested too deeply, or an option names itself in its defaults list"
            ) from None
        except KeyError as error:  # Hydra reads the variables that hydra.job.env_copy names
            raise WrongCommand(
                f"hydra.job.env_copy: the environment variable {error.args[0]} is not set"
            ) from None
        check(config)
        self._check_local(config.hydra.runtime.choices.get("local"))
        return config

    def _check_local(self, option: str | None) -> None:
        """Raise WrongCommand for an unknown option of the group ``local``.

        Hydra ignores it, as the group is optional: its default need not exist.
        """
        known = self.repository.get_group_options("local")
        if option is not None and option not in ("default", *known):
            raise WrongCommand(f"local={option}: there is no such option{nearest(option, known)}")

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """The unresolved config of a job. The next call may change it."""
        if master_config.hydra.launcher._target_.endswith(".BasicLauncher"):
            # BasicLauncher reads the job's overrides from the config, and makes it read-only.
            return super().load_sweep_config(master_config, sweep_overrides)
        exact = tuple(sweep_overrides)
        values = dict(filter(None, map(_plain_value, exact)))  # the last value of a key counts
        shared = tuple(each.partition("=")[0] if _plain_value(each) else each for each in exact)
        key = exact if exact in self._jobs or any(map(_MAPPING.match, exact)) else shared
        if key in self._jobs:
            config, nodes = self._jobs[key]
        else:
            config = super().load_sweep_config(master_config, sweep_overrides)
            nodes = {name: node for name in values if (node := _node(config, name)) is not None}
            if key == exact or values != {name: node._value() for name, node in nodes.items()}:
                key, nodes = exact, {}  # for example, an interpolation leads to the value
            if len(self._jobs) < _MOST_KEPT:
                self._jobs[key] = config, nodes
        for name, node in nodes.items():
            node._set_value(values[name])
        return config


@functools.lru_cache(1 << 14)
def _plain_value(override: str) -> tuple[str, _Value] | None:
    """The key and the value of an override that sets a plain value; None for any other."""
    if (match := _VALUE.fullmatch(override)) is None:
        return None
    if re.fullmatch(r"0|[1-9]\d{0,17}", match[2]):  # such as a seed; parsing takes a millisecond
        return match[1], int(match[2])
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:  # Hydra reports it
        return None
    value = None if parsed.is_sweep_override() else parsed.value()
    return (match[1], value) if isinstance(value, _Value) else None


def _node(config: DictConfig, key: str) -> AnyNode | None:
    """The node of a plain value at a dotted key; None if a list or an interpolation leads to it.

    OmegaConf's public methods return values, in which interpolations are resolved, but no nodes.
    """
    node: Any = config
    for name in key.split("."):
        is_open = isinstance(node, DictConfig) and not node._is_interpolation()
        node = node._get_node(name) if is_open and not node._is_none() else None
    return node if type(node) is AnyNode else None


class _Repository(ConfigRepository):
    """The files of options, each read once; their errors are one line with the file."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        #: The content of files by their paths.
        self._files: dict[Path, ConfigResult | None] = {}

    def __deepcopy__(self, memo: object) -> "_Repository":
        """A repository for one composition, which may replace the sources but shares the files."""
        return copy.copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.scheme() == "structured":
            return super().load_config(config_path)
        file = Path(source.path, f"{config_path.removesuffix('.yaml')}.yaml")
        if file not in self._files:
            with file_errors(file):
                self._files[file] = super().load_config(config_path)
        return copy.deepcopy(self._files[file])  # Hydra merges nodes without copying them

    def _extract_defaults_list(self, config_path: str, cfg: Container) -> ListConfig:
        if OmegaConf.get_type(cfg) in (dict, list):  # not one of Hydra's dataclasses
            check_content(cfg)
        return super()._extract_defaults_list(config_path, cfg)


def check_flags(arguments: Sequence[str]) -> None:
    """Raise WrongCommand if a flag is invalid, or names a config directory that cannot be used."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        _, _, unknown = message.partition("unrecognized arguments: ")
        problem = f"{unknown}: no such flag" if unknown else message
        hint = nearest_flag(unknown, parser._option_string_actions, "attention-lab train")
        raise WrongCommand(f"{problem}{hint}")

    parser.error = refuse  # type: ignore[method-assign]  # Hydra makes the parser: no subclass
    directory = parser.parse_args(arguments).config_dir
    if directory == "":
        raise WrongCommand("--config-dir: needs the path of a directory")
    if directory is not None:
        check_own_directory(directory, "--config-dir ")
