"""Where the config groups are, and what a composed config comes to."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attention_lab

if TYPE_CHECKING:
    from omegaconf import DictConfig


def config_directory() -> Path:
    """The shipped ``conf/``: inside an installed package, else at the top of the repository."""
    package = Path(attention_lab.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def group_options(group: str, extra: Path | None = None) -> dict[str, Path]:
    """The options of a config group and their files, the user's own directory included.

    Files whose name begins with an underscore are parts of others, not options.
    """
    roots = [config_directory(), *([extra] if extra else [])]
    files = (file for root in roots for file in sorted((root / group).glob("*.yaml")))
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def composed(
    overrides: Sequence[str], extra: Path | None = None, primary: str = "train"
) -> dict[str, Any]:
    """The config of `attention-lab train OVERRIDES…`, as plain values.

    Args:
        overrides: as on the command line.
        extra: the user's own config directory.
        primary: what to compose: "train", or one option of one group, as in "attention/additive".
    """
    from hydra import compose, initialize_config_dir

    home, other = config_directory().resolve(), extra and extra.resolve()
    if other and (other / f"{primary}.yaml").is_file():
        home, other = other, home  # Hydra looks for a primary config in one directory only
    searchpath = [f"hydra.searchpath=[file://{other}]"] if other else []
    with initialize_config_dir(str(home), version_base="1.3"):
        return plain_config(compose(primary, [*overrides, *searchpath]))


def plain_config(config: "DictConfig") -> dict[str, Any]:
    """A composed config as plain values, complete and resolved, without Hydra's own settings."""
    from omegaconf import OmegaConf

    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return cast("dict[str, Any]", OmegaConf.to_container(ours, resolve=True, throw_on_missing=True))
