"""W&B's settings: their check before a run starts, our defaults, and the id of its W&B run."""

import functools
import os
import secrets
from collections.abc import Callable
from typing import Any


def set_quiet_defaults() -> None:
    """Turn off W&B's error reports and its output, unless the user's variables are set.

    Call this before W&B contacts a server: it must send nothing that the user did not ask for.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def new_run_id() -> str:
    """A new id for a W&B run. Under ``wandb agent``, W&B accepts only the id from the agent."""
    given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    return given or secrets.token_hex(4)


def check_settings(project: str | None, entity: str | None) -> None:
    """Raise ValueError if W&B would refuse a WANDB_ variable, the project or the entity."""
    import wandb

    settings = wandb.Settings()
    checks: dict[str, Callable[[], object]] = {
        f"logger.wandb.{option}={value}": functools.partial(
            settings.update_from_dict, {option: value}
        )
        for option, value in {"project": project, "entity": entity}.items()
        if value is not None
    }
    for name, value in os.environ.items():
        if name.startswith("WANDB_"):
            is_secret = "KEY" in name or "TOKEN" in name
            said = name if is_secret else f"{name}={value}"
            checks[said] = functools.partial(settings.update_from_env_vars, {name: value})
    for said, check in checks.items():
        try:
            check()
        except (ValueError, wandb.Error) as error:
            # W&B's settings are pydantic models, whose messages have many lines.
            details: list[Any] = getattr(error, "errors", list)()
            raise ValueError(f"{said}: {details[0]['msg'] if details else error}") from error
