"""`attention-lab dashboard`: create a W&B workspace and a W&B report for sweeps.

Both group the runs by the settings that the sweep varies, in the colours of report.html. If you are
not logged in to W&B, their specification is written to dashboard.json in the sweep's directory.
"""

import json
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from attention_lab.atomic_write import write_atomically
from attention_lab.cli import fail
from attention_lab.cli.parser import Parser, existing_directory
from attention_lab.printing import echo

if TYPE_CHECKING:
    from attention_lab.reports.wandb_dashboard import Dashboard
    from attention_lab.tracking.wandb_logger import WandbOptions

FILE = "dashboard.json"


def run(arguments: Sequence[str]) -> int:
    """Create the workspace and the report, or write their specification; returns the exit code."""
    parser = Parser("dashboard", __doc__)
    help = "a sweep's or a run's directory"
    parser.add_argument("sweep", type=existing_directory, nargs="+", metavar="SWEEP", help=help)
    sweeps: list[Path] = parser.parse_args(arguments).sweep
    if find_spec("wandb_workspaces") is None:
        return fail("needs wandb-workspaces; pip install 'attention-lab[dashboard]'", 2)

    from attention_lab.reports.comparison import compare
    from attention_lab.reports.runs import NotARun, read_runs
    from attention_lab.reports.wandb_dashboard import dashboard
    from attention_lab.reports.wandb_report import report_options
    from attention_lab.tracking.safe_logger import error_line

    try:
        comparison = compare(read_runs(sweeps))
        options = report_options(comparison)
        problem = _problem(options)
    except (NotARun, OSError) as error:
        return fail(str(error), 1)
    except ValueError as error:
        return fail(str(error), 2)
    name = sweeps[0].resolve().name
    if problem is None:
        try:
            made = dashboard(comparison, _entity(), options.chosen_project(), name)
            echo(*made.save())
            return 0
        except Exception as error:  # of W&B, or of the network
            problem = error_line(error)
    made = dashboard(comparison, os.environ.get("WANDB_ENTITY", ""), options.chosen_project(), name)
    return _write(made, sweeps, problem)


def _problem(options: "WandbOptions") -> str | None:
    """Why nothing can be created in W&B now; None if it can.

    Raises:
        ValueError: if WANDB_MODE is not a mode of W&B.
    """
    from attention_lab.tracking.wandb_logger import is_logged_in, server, server_problem

    mode, asked = options.chosen_mode()
    if not is_logged_in(server()):
        return f"not logged in to {server()}"
    return server_problem(server()) if mode == "online" else asked


def _entity() -> str:
    """The user's W&B entity."""
    from attention_lab.tracking.wandb_settings import set_quiet_defaults

    set_quiet_defaults()
    import wandb

    return os.environ.get("WANDB_ENTITY") or str(wandb.Api().default_entity)


def _write(made: "Dashboard", sweeps: Sequence[Path], problem: str) -> int:
    """Write the specification, and say how to create the dashboard later; returns the exit code."""
    file = sweeps[0] / FILE
    text = json.dumps(made.specification(), indent=1, ensure_ascii=False)
    try:
        write_atomically(file, text + "\n")
    except OSError as error:
        return fail(f"{problem}, and {file} cannot be written: {error.strerror}", 1)
    again = shlex.join(["attention-lab", "dashboard", *map(str, sweeps)])
    echo(f"{problem}: wrote the specification to {file}; to create it, log in and run: {again}")
    return 0
