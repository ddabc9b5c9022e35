"""Import the objects that a config names, from installed packages and PYTHONPATH only.

A config may come from a stranger, together with Python files. Python would import these files from
the working directory, which ``python -m`` and ``PYTHONPATH=.`` put on the import path.
"""

import functools
import importlib
import os
import site
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

#: The modules that were imported after a check; Python does not search for them again.
_checked: dict[str, ModuleType] = {}


def import_object(target: str) -> object:
    """Import an object by its dotted name, such as "cauchy.CauchyAttention".

    Args:
        target: the dotted name. The location of its module is checked before the import.

    Raises:
        ImportError: if the module does not exist or may not be imported from its location.
        AttributeError: if its module has no such name.
    """
    module, _, name = target.rpartition(".")
    if module not in _checked or _checked[module] is not sys.modules.get(module):
        _check(module)
        _checked[module] = importlib.import_module(module)
    return getattr(_checked[module], name)


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
    """Raise ImportError unless a module may be imported from its location.

    This imports nothing; ``importlib.util.find_spec("a.b")`` would import ``a``.
    """
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ImportError(f"{module!r} is not a module's name")
    if parts[0] in sys.stdlib_module_names:
        raise ImportError("the standard library has no components")
    spec = PathFinder.find_spec(parts[0])
    if spec is None:  # not found, or an editable install has its own finder
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
    """The directories of ``sys.path`` that hold a top-level module or package."""
    if spec.origin is None:
        return {Path(place).resolve().parent for place in spec.submodule_search_locations or []}
    return {Path(spec.origin).resolve().parents[spec.submodule_search_locations is not None]}


def _check_is_package(spec: ModuleSpec) -> None:
    """Raise ImportError for a directory without ``__init__.py``, such as a directory of runs."""
    if spec.origin is None:
        raise ImportError(f"{spec.name} has no __init__.py")


def _roots() -> set[Path]:
    """The directories whose modules and packages may be imported."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = {Path(entry).resolve() for entry in entries if os.path.isabs(entry)}
    ours = Path(__file__).resolve().parents[2]
    return {ours, *_site_directories(), *_editable(), *named}


@functools.cache
def _site_directories() -> frozenset[Path]:
    """The directories in which pip installs packages."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return frozenset(Path(place).resolve() for place in (*site.getsitepackages(), *user))


@functools.cache
def _editable() -> frozenset[Path]:
    """The directories of editable installs, which pip lists in .pth files."""
    files = (file for place in _site_directories() for file in place.glob("*.pth"))
    texts = (file.read_text("utf-8", errors="surrogateescape") for file in files)
    lines = (line.strip() for text in texts for line in text.splitlines())
    return frozenset(Path(line).resolve() for line in lines if os.path.isabs(line))
