"""Compose the config of a run in Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from attention_lab.config.compose import (
    WrongCommand,
    check_groups,
    check_own_directory,
    compose_with_hydra,
    plain_config,
)
from attention_lab.config.hydra_loader import use_own_loader
from attention_lab.config.overrides import own_directory, with_own_directory
from attention_lab.config.suggestions import explain

#: The keys of a composed config that hold the overrides and the user's own config directory.
OVERRIDES, CONFIG_DIR = "overrides", "config_dir"


class Composition(NamedTuple):
    """A composed config, and the directory that a run of it has by default."""

    config: DictConfig
    directory: Path


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """Compose the config of a run, as ``attention-lab train OVERRIDES…`` does.

    Its values can be changed before training: ``config.optimizer.lr = 1e-3``. Unknown keys are
    refused. As with overrides, ``config.attention`` also changes the attention of the model, and
    ``config.seed`` that of the data. The overrides are in ``config.overrides``; a run records them,
    and reports group runs by them. ``config.config_dir`` has the directory.

    >>> compose("attention=additive", "seed=3").seed
    3

    Args:
        overrides: in Hydra's syntax: ``"attention=additive"``, ``"optimizer.lr=1e-3"``.
        config_dir: a directory with your own config groups; None means that of the environment
            variable ``ATTENTION_LAB_CONFIG_DIR``, if it is set.

    Raises:
        WrongCommand: if an override is invalid; it is a ValueError with a message of one line.
    """
    return composition(overrides, config_dir).config


def composition(overrides: Sequence[str], config_dir: str | Path | None = None) -> Composition:
    """Like :func:`compose`, but also returns the default directory of a run."""
    flags = [] if config_dir is None else [f"--config-dir={config_dir}"]
    arguments = with_own_directory([*overrides, *flags])
    own = own_directory(arguments)
    if own is not None:
        check_own_directory(str(own), f"{CONFIG_DIR}=")
    try:
        with use_own_loader():
            config = compose_with_hydra(overrides, own)
        check_groups(config, config.hydra.runtime.choices)
        plain = plain_config(config, config.hydra)
        directory = Path(config.hydra.run.dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise WrongCommand(explain(error, arguments)) from None
    # Interpolations stay, so that a model uses a config.attention that is changed later.
    ours = OmegaConf.masked_copy(config, [key for key in plain if key in config])
    ours["choices"] = plain["choices"]
    ours[OVERRIDES] = list(overrides)
    ours[CONFIG_DIR] = None if own is None else str(own.absolute())
    OmegaConf.set_struct(ours, True)
    return Composition(ours, directory)
