"""Compose configs with Hydra, and find config groups and their options."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from attention_lab.config.overrides import DIRECTORY_VARIABLE, key_of
from attention_lab.spelling import closest

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: Top-level keys of a composed config that are not part of a run's config.
NOT_OF_A_RUN = ("hydra", "sweep", "schema_version", "choices")


class WrongCommand(ValueError):
    """The command is invalid. The message is one line, for the user."""


class Group(NamedTuple):
    """A config group and the option that is chosen in it."""

    choice: str  # as in an override: "attention/mask", "attention@model.self_attention"
    option: str

    @property
    def name(self) -> str:
        """The group's directory under ``conf/``."""
        return self.choice.partition("@")[0]

    @property
    def path(self) -> str:
        """The path of the option's keys in the config."""
        name, _, package = self.choice.partition("@")
        return package or name.replace("/", ".")

    def __str__(self) -> str:
        return f"{self.choice}={self.option}"


def config_directory() -> Path:
    """The shipped ``conf/``: in the installed package, or at the top of the repository."""
    package = Path(__file__).parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def check_own_directory(directory: str, source: str) -> None:
    """Check the user's own config directory.

    Args:
        directory: its path.
        source: the flag or argument that names it, unless the environment variable does, for
            messages: "--config-dir ".

    Raises:
        WrongCommand: if it cannot be read, or has a file that would silently not be used: of two
            files with one name, Hydra takes the shipped one.
    """
    if directory == os.path.expanduser(os.environ.get(DIRECTORY_VARIABLE, "")):
        source = f"{DIRECTORY_VARIABLE}="
    if not os.path.isdir(directory):  # unlike Path, it raises no error for a name that is too long
        raise WrongCommand(f"{source}{directory}: no such directory")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise WrongCommand(f"{source}{directory}: permission denied")
    home = config_directory()
    if os.path.realpath(directory) == str(home.resolve()):
        return
    for file in home.rglob("*.yaml"):
        if os.path.exists(own := os.path.join(directory, file.relative_to(home))):
            raise WrongCommand(f"{own}: has the name of a shipped file; rename it")


def group_options(group: str, extra: Path | None = None) -> dict[str, Path]:
    """The options of a config group, with their files.

    Files whose names begin with an underscore are parts of options, not options. Each score is also
    an option of ``attention``: see :func:`add_score_mechanisms`.

    Args:
        group: such as "attention/mask".
        extra: the user's own config directory.
    """
    roots = [config_directory(), *([extra] if extra else [])]
    folders = ["attention/score", group] if group == "attention" else [group]
    files = [
        file for folder in folders for root in roots for file in (root / folder).glob("*.yaml")
    ]
    # A stable sort: of several files with one name, the last folder and root take precedence.
    files.sort(key=lambda file: file.stem)
    named = (file for file in files if file.is_file() and not file.stem.startswith("_"))
    return {file.stem: file for file in named}


def subgroups(group: str, extra: Path | None = None) -> list[str]:
    """The names of the config groups inside a group, such as "mask" inside "attention".

    Args:
        group: such as "attention".
        extra: the user's own config directory.
    """
    roots = [config_directory(), *([extra] if extra else [])]
    return sorted({file.parent.name for root in roots for file in (root / group).glob("*/*.yaml")})


def add_score_mechanisms(extra: Path | None = None) -> None:
    """Register each score with Hydra as the option ``attention=NAME``: a layer with that score.

    A new score therefore needs one file only, ``attention/score/NAME.yaml``. A file
    ``attention/NAME.yaml`` takes precedence.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.repo.pop("attention", None)  # an earlier call may have had another directory
    for name, file in group_options("attention", extra).items():
        if file.parent.name == "score":
            defaults = ["_layer", {"score": name}, "_self_"]
            store.store(name, {"defaults": defaults}, group="attention")


def option_description(file: Path) -> str:
    """The description of an option: the first comment in its file."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line.removeprefix("# ")
    return ""


def option_package(group: str, file: Path) -> str:
    """The path in the config of an option's keys: "attention.mask"; "" for a global option."""
    header = re.search(r"^# @package (\S+)", file.read_text("utf-8", "replace"), re.MULTILINE)
    package = header[1] if header else group.replace("/", ".")
    return "" if package == "_global_" else package


def composed(
    overrides: Sequence[str], extra: Path | None = None, primary: str = "train"
) -> dict[str, Any]:
    """Compose the config of `attention-lab train OVERRIDES…`, as plain values.

    Args:
        overrides: as on the command line.
        extra: the user's own config directory.
        primary: the config to compose: "train", or an option of a group: "attention/additive".
    """
    return _init_from_apart(_resolved(compose_with_hydra(overrides, extra, primary)))


def unresolved(
    overrides: Sequence[str], extra: Path | None = None, primary: str = "train"
) -> tuple[dict[str, Any], list[Group]]:
    """Like :func:`composed`, but with interpolations kept; also returns the chosen groups.

    These include the groups of the section ``hydra`` whose options are ours, such as
    "hydra/sweeper".
    """
    from omegaconf import OmegaConf

    config = compose_with_hydra(overrides, extra, primary)
    choices: Mapping[str, str | None] = config.hydra.runtime.choices
    of_hydra = [
        Group(name, option) for name, option in choices.items() if option and is_of_hydra(name)
    ]
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    plain = cast("dict[str, Any]", OmegaConf.to_container(ours))
    return plain, [*chosen_groups(choices), *of_hydra]


def is_of_hydra(group: str) -> bool:
    """Whether a config group of the section ``hydra`` has options of ours: "hydra/sweeper"."""
    return group.startswith("hydra/") and os.path.isdir(config_directory() / group)


def chosen_groups(choices: Mapping[str, str | None]) -> list[Group]:
    """The groups in Hydra's ``runtime.choices``, without Hydra's own and ``_global_`` ones."""
    return [
        Group(choice, option)
        for choice, option in choices.items()
        if option and not choice.startswith("hydra/") and "_global_" not in choice
    ]


def option_names(config: "DictConfig", settings: Any) -> dict[str, str]:
    """The chosen options of a composed config, by the path of their keys: "attention.score".

    An option whose inner groups were overridden is named with them: "multi_head score=additive". A
    config that repeats a recorded run has the names of that run, too.

    Args:
        config: the composed config.
        settings: Hydra's settings.
    """
    names: dict[str, str] = dict(config.get("choices") or {})
    for choice, option in settings.runtime.choices.items():
        group = Group(choice.removesuffix("@_global_"), option)
        if option and group.name.partition("/")[0] not in ("hydra", "local"):
            names[group.path] = str(option)
    for override in typed_overrides(settings):
        path = Group(key_of(override), "").path
        outer, _, inner = path.rpartition(".")
        if "/" in override.partition("=")[0] and path in names and outer in names:
            option, *terms = names[outer].split(" ")
            changed = dict(term.split("=", 1) for term in terms) | {inner: names[path]}
            names[outer] = " ".join([option, *(f"{key}={it}" for key, it in changed.items())])
    return names


def typed_overrides(settings: Any) -> list[str]:
    """The overrides in Hydra's settings as they were typed, with interpolations kept."""
    from omegaconf import OmegaConf

    return cast("list[str]", OmegaConf.to_container(settings.overrides.task))


def check_groups(config: "DictConfig", choices: Mapping[str, str | None]) -> None:
    """Check that no config group's option is replaced by a plain value.

    Raises:
        WrongCommand: if one is, as by ``attention.mask=causal`` in place of ``attention/mask``.
    """
    from omegaconf import OmegaConf

    for group in chosen_groups(choices):
        value = OmegaConf.select(config, group.path)
        if isinstance(value, str | int | float):
            option = closest(str(value), group_options(group.name)) or "…"
            raise WrongCommand(
                f"{group.path}: must be a mapping, got {value!r}; "
                f"did you mean {group.choice}={option}?"
            )


def compose_with_hydra(
    overrides: Sequence[str], extra: Path | None = None, primary: str = "train"
) -> "DictConfig":
    """Like :func:`composed`, but as Hydra composes it: with its settings in ``hydra``."""
    from hydra import compose, initialize_config_dir

    home, other = config_directory().resolve(), extra and extra.resolve()
    if other and (other / f"{primary}.yaml").is_file():
        # Hydra looks for a primary config, here a user's mechanism, in one directory only.
        home, other = other, home
    searchpath = [f"hydra.searchpath=[file://{other}]"] if other else []
    add_score_mechanisms(extra)
    with initialize_config_dir(str(home), version_base="1.3"):
        return compose(primary, [*overrides, *searchpath], return_hydra_config=True)


def plain_config(config: "DictConfig", settings: Any) -> dict[str, Any]:
    """The config of a run, from a composed config, as plain values.

    Interpolations are resolved, except environment variables in text: their values may be secrets.
    They stay as ``${oc.env:NAME}`` and are resolved when a run is built
    (:func:`attention_lab.config.environment_variables.with_environment`).

    The names of the chosen options are in the section ``choices``.

    Args:
        config: the composed config.
        settings: Hydra's settings.
    """
    return plain_values(config) | {"choices": option_names(config, settings)}


def plain_values(config: "DictConfig") -> dict[str, Any]:
    """The values of a config, resolved as in :func:`plain_config`, without the names of options."""
    with _variables_read() as names:
        resolved = _resolved(config)
    if names:
        with _named_variables():
            resolved = cast("dict[str, Any]", _without_secrets(resolved, config))
    return _init_from_apart(resolved)


def _init_from_apart(config: dict[str, Any]) -> dict[str, Any]:
    """The config with ``model.init_from`` moved to the section ``init_from``, if it is set.

    The other keys of the model are arguments of its class, and ``init_from`` is not.
    """
    model = config.get("model")
    if not isinstance(model, dict) or "init_from" not in model:
        return config
    given = model["init_from"]
    section = {} if given is None else {"init_from": {"checkpoint": given}}
    without = {key: value for key, value in model.items() if key != "init_from"}
    return {**config, "model": without, **section}


@contextmanager
def _variables_read() -> Iterator[list[str]]:
    """Collects the names of the environment variables that interpolations read."""
    from omegaconf.resolvers import oc

    names: list[str] = []

    def read(key: str, *default: Any) -> Any:
        names.append(key)
        return oc.env(key, *default)

    with _environment_resolver(read):
        yield names


@contextmanager
def _named_variables() -> Iterator[None]:
    """In this context, ``${oc.env:NAME}`` resolves to itself, not to the variable's value."""
    from omegaconf.resolvers import oc

    def name(key: str, *default: Any) -> Any:
        return f"${{oc.env:{key}}}" if key in os.environ else oc.env(key, *default)

    with _environment_resolver(name):
        yield


@contextmanager
def _environment_resolver(function: Callable[..., Any]) -> Iterator[None]:
    """In this context, a function resolves ``${oc.env:…}``."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    OmegaConf.register_new_resolver("oc.env", function, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _without_secrets(value: Any, named: Any) -> Any:
    """The resolved value, but with the names of environment variables in place of their values.

    Only text is changed: a number from a variable is kept.

    Args:
        value: the resolved value.
        named: the same value of the composed config, read within :func:`_named_variables`.
    """
    if isinstance(value, dict):
        return {key: _without_secrets(inner, _child(named, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner, _child(named, n)) for n, inner in enumerate(value)]
    is_text = isinstance(value, str) and isinstance(named, str)
    return named if is_text and "${oc.env:" in named else value


def _child(node: Any, key: Any) -> Any:
    """The value of a key; None if it cannot be resolved, as in ``${sizes.${oc.env:NAME}}``."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return node[key]
    except (OmegaConfBaseException, LookupError, TypeError):
        return None


def _resolved(config: "DictConfig") -> dict[str, Any]:
    """The resolved sections of a run; their interpolations cannot read the other sections."""
    from omegaconf import OmegaConf

    # OmegaConf's public methods copy a section that they put back, which takes far longer.
    content = cast("dict[str, Any]", config._content)
    others = {key: content.pop(key) for key in NOT_OF_A_RUN if key in content}
    try:
        return cast(
            "dict[str, Any]", OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        )
    finally:
        content.update(others)
