"""Importing what a config names: only from installed packages or directories in PYTHONPATH.

A config may come from a stranger, together with Python files. Python itself would import these from
the working directory, which ``python -m`` and ``PYTHONPATH=.`` put on its path.
"""

import functools
import importlib
import os
import site
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import attention_lab


def import_object(target: str) -> object:
    """Import an object by its dotted name, such as "cauchy.CauchyAttention".

    Args:
        target: the name; its modules are found and checked before any of them is imported.

    Raises:
        ImportError: if it is in none of the places that modules may come from.
        AttributeError: if its module has no such name.
    """
    module, _, name = target.rpartition(".")
    _check(module)
    return getattr(importlib.import_module(module), name)


def forget_working_directory() -> None:
    """Remove the working directory from the import path of this process and its children.

    Absolute directories in ``PYTHONPATH`` stay: the user has named them.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    if not (entries := os.environ.get("PYTHONPATH", "")):
        return
    parts = entries.split(os.pathsep)
    relative = {Path(part).resolve() for part in parts if not os.path.isabs(part)}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(os.path.isabs, parts))
    dropped = relative - _roots()
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in dropped]


def _check(module: str) -> None:
    """Raise ImportError unless each package on the way to a module is where it may be.

    ``importlib.util.find_spec("a.b")`` would import ``a``; this imports nothing.
    """
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ImportError(f"{module!r} is not a module's name")
    if parts[0] in sys.stdlib_module_names:
        raise ImportError("the standard library has no components")
    spec = PathFinder.find_spec(parts[0])
    if spec is None:  # there is none, or an editable install has a finder of its own
        return
    places = _places(spec)
    if places <= _site_directories():
        return
    _check_is_package(spec)
    if not places <= _roots():
        raise ImportError(
            f"{parts[0]} is not an installed package; install it, or name its directory by its "
            "absolute path in PYTHONPATH"
        )
    name = parts[0]
    for part in parts[1:]:
        path, name = spec.submodule_search_locations, f"{name}.{part}"
        try:
            spec = PathFinder.find_spec(name, path) if path else None
        except KeyError:  # a directory without __init__.py, whose parent is not imported
            raise ImportError(f"{name} has no __init__.py") from None
        if spec is None:
            return
        _check_is_package(spec)


def _places(spec: ModuleSpec) -> set[Path]:
    """The directories on Python's path in which a top-level module or package is."""
    if spec.origin is None:
        return {Path(place).resolve().parent for place in spec.submodule_search_locations or []}
    return {Path(spec.origin).resolve().parents[spec.submodule_search_locations is not None]}


def _check_is_package(spec: ModuleSpec) -> None:
    """Raise ImportError for a directory without ``__init__.py``, such as one with runs."""
    if spec.origin is None:
        raise ImportError(f"{spec.name} has no __init__.py")


def _roots() -> set[Path]:
    """The directories whose modules and packages may be imported."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = {Path(entry).resolve() for entry in entries if os.path.isabs(entry)}
    ours = Path(attention_lab.__file__).resolve().parents[1]
    return {ours, *_site_directories(), *_editable(), *named}


@functools.cache
def _site_directories() -> frozenset[Path]:
    """Where packages are installed."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return frozenset(Path(place).resolve() for place in (*site.getsitepackages(), *user))


@functools.cache
def _editable() -> frozenset[Path]:
    """The directories that .pth files name, as ``pip install --editable`` writes them."""
    files = (file for place in _site_directories() for file in place.glob("*.pth"))
    texts = (file.read_text("utf-8", errors="surrogateescape") for file in files)
    lines = (line.strip() for text in texts for line in text.splitlines())
    return frozenset(Path(line).resolve() for line in lines if os.path.isabs(line))
