"""The launcher that started this process, torchrun or srun, and the process's rank.

They are read from environment variables. A shell may have variables that are left over from
another program; these are ignored. This module does not import torch, so importing it is fast.
"""

import os
import warnings
from typing import Literal

#: Variables that torchrun sets for each process; all are needed to connect the ranks.
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Variables that torchrun or Lightning may set besides.
TORCHRUN_EXTRAS = ("LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
#: Variables that srun sets for each task of a step.
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
#: Variables for the rank and the world size that other launchers set.
_OTHERS = (
    *("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    *("PMI_RANK", "PMI_SIZE", "PMIX_RANK", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)
#: Values that sbatch or a launcher sets for a single process; these are not left over.
_SINGLE = {name: "1" if name.endswith(("SIZE", "NUM_TASKS")) else "0" for name in (*SRUN, *_OTHERS)}
_RANK = {"torchrun": "RANK", "srun": "SLURM_PROCID"}
_WORLD_SIZE = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}


def launcher() -> Literal["torchrun", "srun"] | None:
    """The launcher that set all its variables for this process; None for a single process."""
    if set(TORCHRUN) <= set(os.environ) and _has_valid_rank("torchrun"):
        return "torchrun"
    if set(SRUN) <= set(os.environ) and _has_valid_rank("srun") and not is_interactive_step():
        return "srun"
    return None


def rank() -> int:
    """The rank of this process; 0 for a single process."""
    by = launcher()
    return int(os.environ[_RANK[by]]) if by else 0


def world_size() -> int:
    """The number of processes that were started together; 1 for a single process."""
    by = launcher()
    return int(os.environ[_WORLD_SIZE[by]]) if by else 1


def launch_description() -> str:
    """The number of processes, their launcher and the variable with the number, for messages."""
    by = launcher()
    assert by is not None, "nothing was started"
    variable = f"{_WORLD_SIZE[by]}={world_size()}"
    return f"{world_size()} were started by {by} (if {variable} is left over, unset it)"


def is_interactive_step() -> bool:
    """Whether this process runs in a shell that ``srun --pty`` has started.

    Only the first task of such a step has the terminal; the shells of the others exit at once.
    """
    return (
        "SLURM_PTY_PORT" in os.environ
        and os.environ.get("SLURM_PROCID") == "0"
        and os.environ.get("SLURM_TASK_PID") != str(os.getpid())  # that is the shell
    )


def ignore_leftovers() -> None:
    """Unset the variables that this process's launcher did not set; warn about them in one line.

    Lightning reads a rank from them when it is imported, and records nothing on ranks other than 0.
    """
    by = launcher()
    if by == "torchrun":
        return
    if by == "srun":  # the user may set MASTER_ADDR and MASTER_PORT
        reason = "srun started this process"
        names = [name for name in (*TORCHRUN, *TORCHRUN_EXTRAS) if not name.startswith("MASTER_")]
    else:
        shell = "this shell is an interactive step of SLURM"
        incomplete = "not all variables of torchrun or srun are set"
        reason = shell if is_interactive_step() else incomplete
        reason += ", so this is a single process"
        names = [*TORCHRUN, *TORCHRUN_EXTRAS, *SRUN, *_OTHERS]
    values = {name: os.environ[name] for name in names if name in os.environ}
    leftovers = {name: value for name, value in values.items() if _SINGLE.get(name) != value}
    for name in leftovers:
        del os.environ[name]
    if leftovers:
        found = ", ".join(f"{name}={value}" for name, value in leftovers.items())
        warnings.warn(f"{found} ignored: {reason}", stacklevel=2)


def _has_valid_rank(by: str) -> bool:
    """Whether a launcher's variables hold a valid rank and world size."""
    try:
        return 0 <= int(os.environ[_RANK[by]]) < int(os.environ[_WORLD_SIZE[by]])
    except ValueError:
        return False
