"""Where the config groups are, and what a composed config comes to."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import attention_lab
from attention_lab.spelling import closest

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: What a composed config holds beside the config of a run.
NOT_OF_A_RUN = ("hydra", "sweep", "schema_version")


class WrongCommand(ValueError):
    """The command cannot work. The message is one line, for the user."""


class Group(NamedTuple):
    """A config group that a config has a choice of."""

    choice: str  # as in an override: "attention/mask", "attention@model.self_attention"
    option: str

    @property
    def name(self) -> str:
        """Where its options are, under ``conf/``."""
        return self.choice.partition("@")[0]

    @property
    def path(self) -> str:
        """Where its keys are in the config."""
        name, _, package = self.choice.partition("@")
        return package or name.replace("/", ".")

    def __str__(self) -> str:
        return f"{self.choice}={self.option}"


def config_directory() -> Path:
    """The shipped ``conf/``: inside an installed package, else at the top of the repository."""
    package = Path(attention_lab.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def group_options(group: str, extra: Path | None = None) -> dict[str, Path]:
    """The options of a config group and their files, the user's own directory included.

    Files whose name begins with an underscore are parts of others, not options. Each score is a
    mechanism, too: see :func:`add_score_mechanisms`.
    """
    roots = [config_directory(), *([extra] if extra else [])]
    folders = ["attention/score", group] if group == "attention" else [group]
    files = [
        file for folder in folders for root in roots for file in (root / folder).glob("*.yaml")
    ]
    files.sort(key=lambda file: file.stem)  # of equal names, the last folder and directory count
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def add_score_mechanisms(extra: Path | None = None) -> None:
    """Make each score a mechanism for Hydra: ``attention=NAME`` is then a layer with that score.

    A score thus needs one file, ``attention/score/NAME.yaml``. A file ``attention/NAME.yaml``
    takes precedence.
    """
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.repo.pop("attention", None)  # another directory may have had other scores
    for name, file in group_options("attention", extra).items():
        if file.parent.name == "score":
            defaults = ["_layer", {"score": name}, "_self_"]
            store.store(name, {"defaults": defaults}, group="attention")


def option_description(file: Path) -> str:
    """The comment at the top of an option's file."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @package"):
            return line.removeprefix("# ")
    return ""


def composed(
    overrides: Sequence[str], extra: Path | None = None, primary: str = "train"
) -> dict[str, Any]:
    """The config of `attention-lab train OVERRIDES…`, as plain values.

    Args:
        overrides: as on the command line.
        extra: the user's own config directory.
        primary: what to compose: "train", or one option of one group, as in "attention/additive".
    """
    return _resolved(_composed(overrides, extra, primary))


def unresolved(
    overrides: Sequence[str], extra: Path | None = None, primary: str = "train"
) -> tuple[dict[str, Any], list[Group]]:
    """The same as it is written, before references are followed, and the groups that it is of."""
    from omegaconf import OmegaConf

    config = _composed(overrides, extra, primary)
    groups = chosen_groups(config.hydra.runtime.choices)
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return cast("dict[str, Any]", OmegaConf.to_container(ours)), groups


def chosen_groups(choices: Mapping[str, str | None]) -> list[Group]:
    """The groups of Hydra's ``runtime.choices`` that are ours, and that have a place of theirs."""
    return [
        Group(choice, option)
        for choice, option in choices.items()
        if option and not choice.startswith("hydra/") and "_global_" not in choice
    ]


def typed_overrides(settings: Any) -> list[str]:
    """The overrides in Hydra's settings as they were typed; Hydra's own list resolves them."""
    from omegaconf import OmegaConf

    return cast("list[str]", OmegaConf.to_container(settings.overrides.task))


def check_groups(config: "DictConfig", choices: Mapping[str, str | None]) -> None:
    """Where a group's option belongs there must be one.

    Raises:
        WrongCommand: if there is a plain value, as from ``attention.mask=causal``.
    """
    from omegaconf import OmegaConf

    for group in chosen_groups(choices):
        value = OmegaConf.select(config, group.path)
        if isinstance(value, str | int | float):
            option = closest(str(value), group_options(group.name)) or "…"
            raise WrongCommand(
                f"{group.path}: must be a node of keys, got {value!r}; "
                f"did you mean {group.choice}={option}?"
            )


def _composed(overrides: Sequence[str], extra: Path | None, primary: str) -> "DictConfig":
    from hydra import compose, initialize_config_dir

    home, other = config_directory().resolve(), extra and extra.resolve()
    if other and (other / f"{primary}.yaml").is_file():
        home, other = other, home  # Hydra looks for a primary config in one directory only
    searchpath = [f"hydra.searchpath=[file://{other}]"] if other else []
    add_score_mechanisms(extra)
    with initialize_config_dir(str(home), version_base="1.3"):
        return compose(primary, [*overrides, *searchpath], return_hydra_config=True)


def plain_config(config: "DictConfig") -> dict[str, Any]:
    """A composed config as plain values, complete, without how it is launched.

    All is resolved but the values of environment variables in texts, which may be secrets: those
    stay as ``${oc.env:NAME}``, and are looked up when a run is built
    (:func:`attention_lab.config.environment_variables.with_environment`).
    """
    resolved = _resolved(config)
    with _named_variables():
        return cast("dict[str, Any]", _without_secrets(resolved, config))


@contextmanager
def _named_variables() -> Iterator[None]:
    """In this context, ``${oc.env:NAME}`` resolves to itself, not to the variable's value."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def name(key: str, *default: Any) -> Any:
        return f"${{oc.env:{key}}}" if key in os.environ else oc.env(key, *default)

    OmegaConf.register_new_resolver("oc.env", name, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _without_secrets(value: Any, named: Any) -> Any:
    """A value with texts as they are when variables stand by their names; numbers tell nothing."""
    if isinstance(value, dict):
        return {key: _without_secrets(inner, _child(named, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner, _child(named, n)) for n, inner in enumerate(value)]
    is_text = isinstance(value, str) and isinstance(named, str)
    return named if is_text and "${oc.env:" in named else value


def _child(node: Any, key: Any) -> Any:
    """What a key of a node leads to; None where it leads nowhere, as ${sizes.${oc.env:NAME}}."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        return node[key]
    except (OmegaConfBaseException, LookupError, TypeError):
        return None


def _resolved(config: "DictConfig") -> dict[str, Any]:
    from omegaconf import OmegaConf

    ours = OmegaConf.masked_copy(config, [str(k) for k in config if k not in NOT_OF_A_RUN])
    return cast("dict[str, Any]", OmegaConf.to_container(ours, resolve=True, throw_on_missing=True))
