"""Weights & Biases: a W&B run for each training run, offline unless the user is logged in."""

import contextlib
import functools
import netrc
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger, WandbLogger

from attention_lab.data.files.paths import shown
from attention_lab.external_programs import run_program
from attention_lab.spelling import nearest
from attention_lab.tracking.run_artifacts import RunArtifacts
from attention_lab.tracking.run_name import LONGEST_NAME
from attention_lab.tracking.safe_logger import SafeLogger, do_within, error_line
from attention_lab.tracking.wandb_history import STEP, WandbRunLogger, last_steps
from attention_lab.tracking.wandb_settings import check_settings, set_quiet_defaults

Mode = Literal["online", "offline", "disabled"]
Logged = Literal["online", "offline"]

#: W&B's values of WANDB_MODE, and the mode that each stands for.
MODES: dict[str, Mode] = {
    "online": "online",
    "run": "online",
    "shared": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
#: Seconds within which the server must answer a check.
CHECK_TIMEOUT = 5
#: Seconds to wait for W&B to start a run and to finish its upload, unless WANDB_INIT_TIMEOUT and
#: WANDB_FINISH_TIMEOUT are set.
INIT_TIMEOUT, FINISH_TIMEOUT = 10.0, 60.0
#: A script that prints the problem with W&B's server or key, if there is one.
CHECK = """
import wandb
try:
    wandb.login(verify=True)
except Exception as error:
    print(error)
"""


#: The most characters that W&B's server accepts.
LONGEST = {"name": LONGEST_NAME, "job_type": 64, "tags": 64}
#: The environment variables of W&B in place of options.
VARIABLES = {
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
}


@dataclass(frozen=True)
class WandbOptions:
    """Whether and where to log to W&B.

    All options but the mode are arguments of ``wandb.init``. If one is None, W&B's environment
    variable counts, such as WANDB_PROJECT, and without it a default.
    """

    #: "auto": online if logged in, otherwise offline; "disabled": no W&B. The environment variable
    #: WANDB_MODE overrides this.
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    #: The W&B project; None means "attention-lab".
    project: str | None = None
    #: The W&B entity (user or team); None means the user's own.
    entity: str | None = None
    #: The name of the run; None means the values that differ in its sweep.
    name: str | None = None
    #: The group of the run; None means the name of its sweep.
    group: str | None = None
    #: None means "train", "tune" or "search".
    job_type: str | None = None
    tags: Sequence[str] | None = None
    notes: str | None = None
    #: Whether to log the best checkpoint as an artifact: at the end of the run (True), or also
    #: each new best one during training ("all").
    log_model: bool | Literal["all"] = False

    def check(self) -> None:
        """Raise ValueError if the options and the WANDB_ variables are invalid.

        The server is not contacted: if it does not answer, the run logs offline.
        """
        if self.project is not None and not self.project.strip():
            raise ValueError("logger.wandb.project: is empty; name a W&B project")
        mode, asked = self.chosen_mode()
        if mode == "disabled":
            return
        self._check_lengths()
        check_settings(self.project, self.entity)
        if mode == "online" and not is_logged_in(server()):
            raise ValueError(
                f"{asked}: not logged in to {server()}; run `wandb login`, or omit this to log "
                "offline"
            )

    def _check_lengths(self) -> None:
        """Raise ValueError if W&B's server would refuse a text because of its length."""
        for option, longest in LONGEST.items():
            variable, value = VARIABLES[option], getattr(self, option)
            said = f"logger.wandb.{option}" if value is not None else variable
            value = os.environ.get(variable, "") if value is None else value
            if option == "tags":
                value = value.split(",") if isinstance(value, str) else value
            for text in [value] if isinstance(value, str) else value:
                if len(text) > longest:
                    raise ValueError(f"{said}={text}: has more than {longest} characters")

    def chosen(self, option: str, default: str | None = None) -> Any:
        """The value of an option of ``wandb.init``, else of its variable, else a default."""
        value = getattr(self, option)
        return (os.environ.get(VARIABLES[option]) or default) if value is None else value

    def chosen_project(self) -> str:
        """The W&B project."""
        return str(self.chosen("project", "attention-lab"))

    def logger(
        self,
        directory: Path,
        config: Mapping[str, Any],
        *,
        name: str,
        group: str,
        job_type: str,
        run_id: str | None = None,
    ) -> SafeLogger | None:
        """Start the W&B run of a run directory, which also holds its files; None if W&B is off.

        A resumed run continues the same W&B run. Offline, W&B starts another directory with the
        same id, which `wandb sync` appends to the first.

        Args:
            directory: the run's directory; WANDB_DIR takes precedence.
            config: the run's hyperparameters, logged once.
            name: the default of the option ``name``.
            group: the default of the option ``group``.
            job_type: the default of the option ``job_type``.
            run_id: the id of the W&B run; None lets W&B choose one.
        """
        mode, _ = self.chosen_mode()
        if mode == "disabled":
            return None
        artifacts = RunArtifacts(directory, str(config.get("attention")), self.log_model)
        directory = Path(os.environ.get("WANDB_DIR") or directory)
        defaults = {"name": name, "group": group, "job_type": job_type}
        given = {
            "project": self.chosen_project(),
            "entity": self.entity,
            **{option: self.chosen(option, default) for option, default in defaults.items()},
            "tags": self.tags,
            "notes": self.notes,
            "dir": directory,
            "config": dict(config),
            "id": run_id,
        }
        return _SafeWandbLogger(directory, functools.partial(_start, given), mode, artifacts)

    def chosen_mode(self) -> tuple[Mode, str]:
        """W&B's mode for the run (online, offline or disabled), and why.

        Raises:
            ValueError: if WANDB_MODE is not a mode of W&B.
        """
        asked = os.environ.get("WANDB_MODE")
        if asked is not None:
            if asked not in MODES:
                raise ValueError(f"WANDB_MODE={asked}: no such mode of W&B{nearest(asked, MODES)}")
            return MODES[asked], f"WANDB_MODE={asked}"
        if self.mode != "auto":
            return self.mode, f"logger.wandb.mode={self.mode}"
        if is_logged_in(server()):
            return "online", f"logged in to {server()}"
        return "offline", f"not logged in to {server()}"


def _start(given: Mapping[str, Any], mode: Logged) -> WandbLogger:
    """Start a W&B run; TimeoutError if the server does not answer, and W&B's own errors.

    Args:
        given: the arguments of ``wandb.init``.
        mode: online or offline.
    """
    import wandb  # only where it is used: it takes most of a second to import

    set_quiet_defaults()
    # In a terminal, W&B would ask for a key.
    if mode == "online" and not is_logged_in(server()):
        raise ValueError(f"not logged in to {server()}")
    logged = last_steps(given["dir"], given["id"]) if given["id"] else {}
    known = set(given["dir"].glob("wandb/run-*"))
    patience = _seconds("WANDB_INIT_TIMEOUT", INIT_TIMEOUT)
    try:
        # Lightning would start it with options that offline runs do not support.
        run = wandb.init(**given, mode=mode, resume="allow", settings=_settings(patience))
    except Exception as error:
        disconnect()
        for empty in set(given["dir"].glob("wandb/run-*")) - known:
            shutil.rmtree(empty, ignore_errors=True)
        raise _explained(error, patience) from error
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP, step_sync=True)
    return WandbRunLogger(run, logged)


class _SafeWandbLogger(SafeLogger):
    """W&B's logger, which continues offline if logging online fails.

    Args:
        directory: the directory in which W&B has its own, ``wandb``.
        start: a function that starts the W&B run in a mode.
        mode: the first mode.
        artifacts: the artifacts of the run.
    """

    def __init__(
        self,
        directory: Path,
        start: Callable[[Logged], WandbLogger],
        mode: Logged,
        artifacts: RunArtifacts,
    ) -> None:
        self.directory, self.artifacts = directory, artifacts
        # W&B copies the files of artifacts before it uploads them, to the user's home unless this
        # is set. Offline, they must be with the run.
        self._has_data_dir = "WANDB_DATA_DIR" in os.environ
        os.environ.setdefault("WANDB_DATA_DIR", str(directory.resolve() / "wandb"))

        def offline() -> WandbLogger:
            if mode == "online":
                disconnect()  # otherwise W&B would return the failed run
            return start("offline")

        starts = {"online": functools.partial(start, "online")} if mode == "online" else {}
        super().__init__("W&B", {**starts, "offline": offline}, _finish_within())

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Log a new best checkpoint, if all of them are asked for."""
        saved = checkpoint_callback
        if self.artifacts.log_model == "all":
            best = (saved.monitor, saved.best_model_score, saved.saved_step)
            self.attempt(lambda logger: self.artifacts.log_best(_run(logger), *best, "mutable"))

    def close(self, exit_code: int) -> None:
        super().close(exit_code)
        if not self._has_data_dir:
            del os.environ["WANDB_DATA_DIR"]

    def finish(self, logger: Logger, exit_code: int) -> None:
        """Log the artifacts of a finished run, finish the W&B run, and mark it as uploaded.

        Raises:
            TimeoutError: if the upload takes too long.
            RuntimeError: if the server refused data.
            Exception: if an artifact cannot be logged; the W&B run is finished first.
        """
        run = _run(logger)
        try:
            if exit_code == 0 and self.artifacts.log_model:
                self.artifacts.log_finished(run)
        finally:
            _finish(run, exit_code)

    def remedy(self) -> str:
        if not any(self.directory.glob("wandb/*run-*")):
            return ""
        return upload_later(self.directory)


def _finish(run: Any, exit_code: int) -> None:
    """Finish a W&B run, and mark it as uploaded; raises if that fails."""
    file, log, is_online = run.settings.sync_file, run.settings.log_internal, not run.offline
    try:
        run.finish(exit_code=exit_code)
    except TimeoutError:
        raise TimeoutError(f"{server()} did not receive all data in time") from None
    if is_online:
        if "filestream: fatal error" in Path(log).read_text(encoding="utf-8"):
            raise RuntimeError(f"{server()} refused data")
        Path(f"{file}.synced").touch()  # as `wandb sync` does


def _run(logger: Logger) -> Any:
    """The W&B run of a logger, which is a WandbLogger."""
    return cast("WandbLogger", logger).experiment


def upload_later(directory: Path) -> str:
    """The command that uploads the runs in a directory."""
    return f"Upload later: attention-lab sync {shlex.quote(shown(directory))}"


def server() -> str:
    """The address of the W&B server."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.Settings().base_url)


def is_logged_in(server: str) -> bool:
    """Whether there is a W&B key: in the environment or, after `wandb login`, in netrc."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        keys = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    hosts = [urlparse(server).netloc]
    if hosts[0] == "api.forge.coreweave.com":
        hosts.append("api.wandb.ai")  # W&B accepts a key for its other name as well
    return any(password for _, _, password in filter(None, map(keys.authenticators, hosts)))


@functools.cache
def server_problem(server: str) -> str | None:
    """Why a W&B server does not accept runs from here; None if it does. Checked once."""
    ours = {
        "WANDB_BASE_URL": server,
        "WANDB_MODE": "online",
        "WANDB_HTTP_TIMEOUT": str(CHECK_TIMEOUT),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    # A separate process can be killed, and does not share the W&B service of a run.
    command = (sys.executable, "-P", "-c", CHECK)
    timeout = CHECK_TIMEOUT + 15  # W&B itself takes a while to start
    done = run_program(*command, timeout=timeout, environment=os.environ | ours)
    if done.returncode is None:
        return f"{server} did not answer in time"
    if "did not respond in time" in done.stdout:
        return f"{server} did not answer within {CHECK_TIMEOUT} s"
    said = done.stdout.strip() or (done.stderr.strip() if done.returncode else "")
    return error_line(RuntimeError(said)) if said else None


def disconnect() -> None:
    """Stop W&B's service of this process, even if it has not finished."""
    import wandb

    with contextlib.suppress(Exception, SystemExit):  # the service may have stopped already
        do_within(_finish_within(), wandb.teardown)


def _finish_within() -> float | None:
    """Seconds to wait for W&B to finish; it has a shorter timeout of its own."""
    patience = _seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT)
    return patience + 10 if patience else None  # for W&B, 0 means no timeout


def _settings(init_timeout: float) -> Any:
    import wandb

    return wandb.Settings(
        init_timeout=init_timeout,
        finish_timeout=_seconds("WANDB_FINISH_TIMEOUT", FINISH_TIMEOUT),
        finish_timeout_raises=True,
    )


def _seconds(variable: str, default: float) -> float:
    return float(os.environ.get(variable, default))


def _explained(error: Exception, patience: float) -> Exception:
    """W&B's error, or a TimeoutError of one line if the server did not answer."""
    text = str(error)
    if "deadline exceeded" not in text and not text.startswith("Timed out"):
        return error
    cause = re.search(r"connection refused|no such host|unreachable|HTTP \d+|x509: .*", text)
    because = f" ({cause[0]})" if cause else ""
    return TimeoutError(f"{server()} did not answer within {patience:g} s{because}")
