"""Weights & Biases: one W&B run for each training run, offline unless the user is logged in."""

import netrc
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger


@dataclass(frozen=True)
class LoggerOptions:
    """Whether and where to log besides the run directory."""

    #: "auto": online if logged in, else offline; "off": no W&B at all. The environment variable
    #: WANDB_MODE, where set, has the last word.
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    #: The W&B project.
    project: str = "attention-lab"
    #: The W&B entity (user or team); None means the user's own.
    entity: str | None = None

    def logger(
        self,
        directory: Path,
        group: str,
        config: Mapping[str, Any],
        run_id: str | None = None,
    ) -> WandbLogger | None:
        """Start the W&B run of a run directory, which also keeps its files; None if W&B is off.

        A run that was interrupted goes on in the same W&B run. Offline, W&B begins another
        directory of the same id, which `wandb sync` puts after the first.

        Args:
            directory: the run's directory.
            group: the sweep.
            config: the run's config, logged once.
            run_id: by which W&B knows the run; None lets it choose.
        """
        mode, _ = self.mode()
        if mode == "off":
            return None
        # Nothing leaves the machine that the user did not ask for.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # only where it is used: it takes most of a second to import

        # Started here because Lightning would pass options that do not go with offline runs.
        run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=directory.name,
            group=group,
            dir=directory,
            config=dict(config),
            mode=mode,
            id=run_id,
            resume="allow",
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run)

    def mode(self) -> tuple[Literal["online", "offline", "off"], str]:
        """Whether a run is sent as it goes, kept for later or not logged at all, and why."""
        wanted = os.environ.get("WANDB_MODE") or self.wandb
        asked = f"WANDB_MODE={wanted}" if os.environ.get("WANDB_MODE") else f"logger.wandb={wanted}"
        if wanted in ("off", "disabled"):
            return "off", asked
        if wanted == "online":
            return "online", asked
        if wanted != "auto":
            return "offline", asked
        if is_logged_in(server()):
            return "online", f"logged in to {server()}"
        return "offline", f"nobody is logged in to {server()}"


def server() -> str:
    """Where W&B runs would go."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)


def is_logged_in(server: str) -> bool:
    """Whether a W&B key is at hand: in the environment or, after `wandb login`, in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    _, _, password = keys.authenticators(urlparse(server).netloc) or ("", "", "")
    return bool(password)
