"""The name of a sweep's directory: the same for the same sweep, so that it can be resumed."""

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from omegaconf import DictConfig


def sweep_name(config: "DictConfig") -> str:
    """A readable name, with a hash of everything that determines the runs of a sweep.

    Args:
        config: the command's config, with the section ``hydra``, which holds the swept values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from attention_lab.config.compose import typed_overrides
    from attention_lab.config.identity import identity

    settings = config.hydra
    overrides = OverridesParser.create().parse_overrides(typed_overrides(settings))
    swept = {o.get_key_element(): str(o.input_line) for o in overrides if o.is_sweep_override()}
    params = dict(settings.sweeper.get("params") or {})
    # Missing values stay "???": the swept values may replace them.
    without_hydra = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    base = cast("dict[str, Any]", OmegaConf.to_container(without_hydra))
    section = base.pop("sweep", {})
    unset = [key for key in ("zip", "param_grid") if section.get(key) is None]
    aside = ("retry", "max_failures", "keep", *unset)
    sweep = {key: value for key, value in section.items() if key not in aside}
    decisive = [
        identity(base),
        sweep,
        sorted(swept.values()),
        {k: str(v) for k, v in params.items()},
    ]
    digest = blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=4).hexdigest()
    choices = settings.runtime.choices
    readable = choices.get("experiment") or "-".join(
        [choices.get("data", "from"), *(params | _own_keys(section) | swept)]
    )
    return re.sub(r"[^\w.-]+", "_", readable) + f"-{digest}"


def _own_keys(section: Mapping[str, Any]) -> dict[str, None]:
    """The keys of ``sweep.param_grid``; the sweeper checks its value."""
    grids = section.get("param_grid")
    dicts = [grid for grid in (grids if isinstance(grids, list) else []) if isinstance(grid, dict)]
    return {str(key): None for grid in dicts for key in grid}
