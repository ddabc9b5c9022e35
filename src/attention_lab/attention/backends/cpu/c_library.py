"""C code that is compiled by the system's compiler when it is first needed, and kept for later."""

import ctypes
import hashlib
import os
import platform
import shlex
import tempfile
from pathlib import Path

from attention_lab.external_programs import run_program

FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
#: Sets of flags, the fastest first; not every compiler knows all of them.
FLAG_SETS = (
    (*FLAGS, "-fopenmp"),
    (*FLAGS, "-fopenmp-simd"),
    ("-O3", "-Wno-unknown-pragmas"),
)
#: Seconds that compiling may take.
TIMEOUT = 60


def load_c(source: Path) -> ctypes.CDLL | None:
    """The compiled library of a C file; None if there is no compiler or it fails.

    The library is kept in the user's cache directory. Its name has a hash of the source and of the
    processor, so that machines that share a home directory each get their own.
    """
    made_from = (source.read_bytes(), repr(FLAG_SETS).encode(), _processor())
    name = f"{source.stem}-{hashlib.sha256(b'|'.join(made_from)).hexdigest()[:16]}.so"
    try:
        path = cache_directory() / name
        return _load(path) or _compile(source, path)
    except (OSError, RuntimeError):  # a read-only or full disk, or a user without a home directory
        return None


def cache_directory() -> Path:
    """Where compiled code is kept: ``ATTENTION_LAB_CACHE_DIR``, or the user's cache directory."""
    if directory := os.environ.get("ATTENTION_LAB_CACHE_DIR"):
        return Path(directory)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "attention_lab"


def _compile(source: Path, path: Path) -> ctypes.CDLL | None:
    """Compile a file with the first set of flags that gives a library that loads."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made, object_file = Path(scratch) / path.name, Path(scratch) / "object.o"
        for flags in FLAG_SETS:
            # Linked without -fopenmp: the library uses PyTorch's OpenMP, as two in one process
            # would compete for the cores.
            steps = (
                (*flags, "-fPIC", "-c", str(source), "-o", str(object_file)),
                ("-shared", str(object_file), "-o", str(made)),
            )
            done = [run_program(*compiler, *step, timeout=TIMEOUT) for step in steps]
            if any(step.error for step in done):
                continue
            if (library := _load(made)) is not None:
                made.replace(path)  # another process may have been faster; both made the same
                return library
    return None


def _load(path: Path) -> ctypes.CDLL | None:
    """A library; None if the file is missing or damaged."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def _processor() -> bytes:
    """The properties of the processor on which compiled code depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    named = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(named)})).encode()
