"""The checks of `attention-lab doctor`: versions, devices, SLURM, disk, W&B."""

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from attention_lab.external_programs import run_program

#: The default directory of runs.
OUTPUTS = Path("outputs")
#: The marks of checks. FAILED means that no run with default options can work.
FINE, LIMITED, FAILED = " ", "!", "✗"
PACKAGES = {"torch": "torch", "lightning": "lightning", "hydra": "hydra-core", "wandb": "wandb"}
#: Free bytes on the disk: below SCARCE few checkpoints fit, below FULL a sweep stops.
SCARCE, FULL = 1 << 30, 1 << 20
DRIVER = Path("/proc/driver/nvidia/version")
#: Seconds to wait for an answer of SLURM.
TIMEOUT = 10


class Finding(NamedTuple):
    """The result of one check: its name, a message, and a mark (fine, limited or failed)."""

    about: str
    what: str
    mark: str = FINE

    def __str__(self) -> str:
        return f"{self.mark} {self.about:<14}{self.what}"


def findings() -> Iterator[Finding]:
    """All checks, each as soon as its result is known; those with slow imports come last."""
    yield Finding("attention-lab", f"{_version('attention-lab')}, {source()}")
    yield Finding("Python", f"{platform.python_version()}, {sys.executable}")
    yield packages()
    yield cpu()
    yield slurm()
    yield disk(OUTPUTS)
    if find_spec("torch") is None:
        return
    yield gpus()
    yield backends()
    yield kernels()
    yield wandb()


def source() -> str:
    """The location and revision of the package."""
    from attention_lab.tracking.code_version import code_version

    place = Path(__file__).parents[1]
    revision: str | None = code_version()["git_revision"]
    if revision is None:
        why = "no git repository" if shutil.which("git") else "git is not installed"
        return f"{place}; {why}, so runs record only its version"
    changed = ", with uncommitted changes" if revision.endswith("-dirty") else ""
    return f"{place}; git {revision.removesuffix('-dirty')}{changed}"


def packages() -> Finding:
    """The versions of the main packages."""
    found = {name: _version(package) for name, package in PACKAGES.items()}
    missing = [PACKAGES[name] for name, number in found.items() if number is None]
    if missing:
        what = f"{', '.join(missing)} missing; `pip install {' '.join(missing)}`"
        return Finding("packages", what, FAILED)
    return Finding("packages", ", ".join(f"{name} {number}" for name, number in found.items()))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu() -> Finding:
    """CPU cores, and the threads of a single run."""
    from attention_lab.training.distributed.workers import cores

    usable, there = cores(), os.cpu_count() or 1
    some = f"{usable} cores" if usable == there else f"{usable} of {there} cores for this process"
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if not wanted.isdecimal():
        return Finding("CPU", f"{some}; OMP_NUM_THREADS is not set, so a single run uses all")
    threads = f"{some}; OMP_NUM_THREADS={wanted} threads for each run"
    if int(wanted) > usable:
        return Finding("CPU", f"{threads}, more than cores; set {usable} or less", LIMITED)
    return Finding("CPU", threads)


def slurm() -> Finding:
    """Whether SLURM is installed and answers, and whether this is a SLURM job."""
    if (job := os.environ.get("SLURM_JOB_ID")) is not None:
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
        tasks = os.environ.get("SLURM_NTASKS", "1")
        return Finding("SLURM", f"inside job {job}; nodes: {nodes}, tasks: {tasks}")
    if shutil.which("sbatch") is None:
        return Finding("SLURM", "none: no sbatch here, so this is not a login node")
    if (error := run_program("scontrol", "ping", timeout=TIMEOUT).error) is not None:
        return Finding("SLURM", f"does not answer: {error}; check SLURM_CONF", LIMITED)
    known = run_program("srun", "--version", timeout=TIMEOUT).stdout.strip() or "no srun here"
    if find_spec("submitit") is None:
        remedy = "`pip install 'attention-lab[slurm]'` installs what hydra/launcher=slurm needs"
        return Finding("SLURM", f"{known}; {remedy}", LIMITED)
    return Finding("SLURM", f"{known}; hydra/launcher=slurm submits jobs")


def disk(directory: Path) -> Finding:
    """Whether a directory is writable, and its free space. It need not exist yet."""
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    elsewhere = "set hydra.run.dir=… or hydra.sweep.dir=…"
    if not nearest.is_dir():
        return Finding("disk", f"{nearest} is not a directory; {elsewhere}", FAILED)
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Finding("disk", f"{nearest} is not writable; {elsewhere}", FAILED)
    free = shutil.disk_usage(nearest).free
    what = f"{free / 2**30:,.1f} GiB free for runs"
    if free < SCARCE:
        return Finding("disk", f"{what}; {elsewhere}", FAILED if free < FULL else LIMITED)
    return Finding("disk", what)


def gpus() -> Finding:
    """The GPUs, or why none can be used."""
    import torch

    with warnings.catch_warnings():  # torch's warnings repeat the finding
        warnings.simplefilter("ignore")
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number:
        each = [torch.cuda.get_device_properties(i) for i in range(number)]
        kinds = [f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in each]
        counted = (f"{kinds.count(kind)} × {kind}" for kind in dict.fromkeys(kinds))
        return Finding("GPU", ", ".join(counted))
    if torch.backends.mps.is_available():
        return Finding("GPU", "Apple GPU (mps)")
    is_there = DRIVER.exists()
    if torch.version.cuda is None:
        remedy = "; there is a driver: see https://pytorch.org for a CUDA build"
        what = "none: torch is built without CUDA"
        return Finding("GPU", what + remedy * is_there, LIMITED if is_there else FINE)
    if not is_there:
        return Finding("GPU", "none: no NVIDIA driver")
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return Finding(
            "GPU", f"none: CUDA_VISIBLE_DEVICES={visible!r} hides them; unset it", LIMITED
        )
    what = f"none: torch's CUDA {torch.version.cuda} does not support the driver"
    return Finding("GPU", f"{what}; `nvidia-smi` shows the version that it supports", LIMITED)


def backends() -> Finding:
    """The attention backends that can train here."""
    import torch

    from attention_lab.attention import BACKENDS

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    device = "cuda" if cuda else "mps" if mps else "cpu"
    able = [each.name for each in BACKENDS if device in each.trains_on]
    others = [each.name for each in BACKENDS if device not in each.trains_on]
    rest = f"; {', '.join(others)}: inference only" if others else ""
    return Finding("backends", f"{', '.join(able)} train on {device}{rest}")


def kernels() -> Finding:
    """Whether the kernels in C can be compiled."""
    from attention_lab.attention.backends.cpu.additive import compiled_kernels
    from attention_lab.attention.backends.cpu.c_library import cache_directory

    if compiled_kernels() is not None:
        return Finding("C kernels", f"compiled, in {cache_directory()}")
    what = "cannot be compiled here, so additive attention is slower on a CPU"
    return Finding("C kernels", f"{what}; install a C compiler or set CC", LIMITED)


def wandb() -> Finding:
    """Where a run would be logged, and how many runs are not uploaded."""
    from attention_lab.cli.sync import not_uploaded
    from attention_lab.tracking.wandb_logger import WandbOptions, server, server_problem

    try:
        WandbOptions().check()
        mode, why = WandbOptions().chosen_mode()
    except ValueError as error:
        return Finding("W&B", str(error), FAILED)
    said = server_problem(server()) if mode == "online" else None
    remedy = " (`wandb login`)" if "not logged in" in why else ""
    runs = len({part.parent for part in not_uploaded(OUTPUTS)})
    kept = f"; {runs} of the runs in {OUTPUTS} not uploaded (`attention-lab sync`)" if runs else ""
    if said is not None:
        return Finding("W&B", f"{said}, so runs will be logged offline{kept}", LIMITED)
    return Finding("W&B", f"{mode}: {why}{remedy}{kept}")
