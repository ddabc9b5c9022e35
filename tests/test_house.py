"""The house: which layer may import which, and that no files import each other."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import attention_lab

LAYERS = [
    "contract",
    "cli",
    "benchmarks",
    "api",
    "sweeps",
    "reports",
    "training",
    "tracking",
    "config",
    "data",
    "models",
    "attention",
]
DRAWERS = {"utils", "util", "helpers", "common", "misc"}
#: A shim that belongs to sweeps: Hydra finds launchers only there.
PLUGINS = "hydra_plugins"
PACKAGE = Path(attention_lab.__file__).parent


def modules(package: Path) -> dict[str, Path]:
    """The files of a package and of the Hydra plugin beside it, by module name."""
    root = package.parent
    found = {}
    for path in sorted([*package.rglob("*.py"), *(root / PLUGINS).rglob("*.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(path: Path, root: Path) -> Iterator[str]:
    """The absolute names that a file imports, anywhere in it, functions included."""
    parts = path.relative_to(root).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            source = f"{above}.{node.module or ''}".strip(".")
            yield from (f"{source}.{alias.name}" for alias in node.names)


def imported_layers(path: Path, package: Path) -> Iterator[str]:
    """The layers of its package that a file imports."""
    for name in imported_names(path, package.parent):
        root, layer, *_ = [*name.split("."), ""]
        if root == PLUGINS:
            yield "sweeps"
        elif root == package.name and layer in LAYERS:
            yield layer


def may_import(parts: tuple[str, ...]) -> list[str]:
    """The layers that a module may import: its own and those below; a module in none: none."""
    if parts[0] in ("__main__", "__init__"):
        return ["cli"] if parts[0] == "__main__" else ["api"]
    return LAYERS[LAYERS.index(parts[0]) :] if parts[0] in LAYERS else []


def violations(package: Path) -> list[str]:
    """Imports that point up, folders that are no layer, and drawers for everything."""
    found = []
    for path in modules(package).values():
        parts = path.relative_to(package.parent).with_suffix("").parts
        parts = ("sweeps", *parts) if parts[0] == PLUGINS else parts[1:]
        module = ".".join(parts)
        if DRAWERS & set(parts):
            found.append(f"{module} is a drawer")
        elif len(parts) > 1 and parts[0] not in LAYERS:
            found.append(f"{module} is in no layer")
        for layer in imported_layers(path, package):
            if layer not in may_import(parts):
                found.append(f"{module} imports {layer}")
    return found


def test_imports_only_point_down() -> None:
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "code", "violation"),
    [
        ("attention/masks.py", "import house.data.batches", "attention.masks imports data"),
        ("attention/masks.py", "from house.models import x", "attention.masks imports models"),
        ("attention/masks.py", "from house import cli", "attention.masks imports cli"),
        ("attention/masks.py", "from ..data import batches", "attention.masks imports data"),
        ("attention/scores/a.py", "from ... import data", "attention.scores.a imports data"),
        ("data/__init__.py", "from ..training import x", "data.__init__ imports training"),
        ("models/a.py", "def f():\n    import house.cli", "models.a imports cli"),
        ("cli.py", "import house.training\nimport house.attention", None),
        ("models/a.py", "from house.models.b import c\nfrom ..attention import d", None),
        ("models/a.py", "import torch\nfrom lightning.data import x", None),
        ("models/a.py", "from house import __version__\nimport house.spelling", None),
        ("spelling.py", "import house.attention", "spelling imports attention"),
        ("data/utils.py", "", "data.utils is a drawer"),
        ("data/utils/a.py", "", "data.utils.a is a drawer"),
        ("attic/a.py", "", "attic.a is in no layer"),
        ("__init__.py", "from house import attention", "__init__ imports attention"),
        ("__main__.py", "from house.cli import main", None),
        ("../hydra_plugins/a/b.py", "import house.cli", "sweeps.hydra_plugins.a.b imports cli"),
        ("../hydra_plugins/a/b.py", "from house.sweeps import jobs\nimport house.data", None),
        ("data/a.py", "from hydra_plugins.a import b", "data.a imports sweeps"),
        ("cli/a.py", "from hydra_plugins.a import b", None),
    ],
)
def test_a_violation_is_found(
    module: str, code: str, violation: str | None, tmp_path: Path
) -> None:
    file = (tmp_path / "house" / module).resolve()
    file.parent.mkdir(parents=True)
    file.write_text(code)
    assert violations(tmp_path / "house") == ([violation] if violation else [])


#: Strings that name classes above their layer. A config names its classes by strings, too, and
#: these are compared with them or are the base classes that they must have.
OF_CONFIGS = {"config/validate.py", "config/identity.py", "config/hydra_section.py"}


def named_above(package: Path) -> list[str]:
    """Strings that name something in a layer above: an import by such a string points up, too."""
    found = []
    for path in modules(package).values():
        parts = path.relative_to(package.parent).with_suffix("").parts
        if parts[0] == PLUGINS or str(path.relative_to(package)) in OF_CONFIGS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if not isinstance(text, str) or not re.fullmatch(rf"{package.name}(\.\w+)+", text):
                continue
            layer = text.split(".")[1]
            if layer in LAYERS and layer not in may_import(parts[1:]):
                found.append(f"{'.'.join(parts[1:])} names {layer}")
    return found


def test_strings_name_nothing_in_a_layer_above() -> None:
    assert named_above(PACKAGE) == []


@pytest.mark.parametrize(
    ("module", "code", "violation"),
    [
        ("data/a.py", 'load("house.training.x")', "data.a names training"),
        ("data/__init__.py", 'X = {"x": "house.cli"}', "data.__init__ names cli"),
        ("data/a.py", 'load("house.models.x", "house.data.y", "house.a", "not house.cli")', None),
        ("config/validate.py", 'BASE = "house.training.x"', None),
    ],
)
def test_a_name_in_a_string_is_found(
    module: str, code: str, violation: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "house" / module
    file.parent.mkdir(parents=True)
    file.write_text(code)
    assert named_above(tmp_path / "house") == ([violation] if violation else [])


def cycles(package: Path) -> list[list[str]]:
    """Groups of files that import each other, in a circle, wherever in the files they do."""
    files = modules(package)
    imports = {name: set[str]() for name in files}
    for name, path in files.items():
        for imported in imported_names(path, package.parent):
            # The longest prefix that is a file: "a.b.function" is a name in a/b.py.
            parts = imported.split(".")
            prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
            imports[name] |= {next((each for each in prefixes if each in files), name)} - {name}
    return [sorted(group) for group in strongly_connected(imports) if len(group) > 1]


def strongly_connected(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The groups of nodes of a graph that all reach each other."""
    reached = {}
    for start in graph:
        seen, left = set[str](), [start]
        while left:
            new = graph[left.pop()] - seen
            seen |= new
            left += new
        reached[start] = seen
    groups: list[set[str]] = []
    for node in graph:
        if not any(node in group for group in groups):
            groups.append({node} | {each for each in reached[node] if node in reached[each]})
    return groups


def test_no_files_import_each_other() -> None:
    assert cycles(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "cycle"),
    [
        ({"a": "import house.b", "b": "import house.a"}, ["house.a", "house.b"]),
        (
            {"a": "from house import b", "b": "def f():\n    from .a import x"},
            ["house.a", "house.b"],
        ),
        (
            {"a": "import house.b", "b": "import house.c.d", "c/d": "from ..a import x"},
            ["house.a", "house.b", "house.c.d"],
        ),
        (
            {"a": "import hydra_plugins.c", "../hydra_plugins/c": "import house.a"},
            ["house.a", "hydra_plugins.c"],
        ),
        ({"a": "import house.b\nimport house.c", "b": "import house.c", "c": "import a"}, None),
    ],
)
def test_a_cycle_is_found(
    files: Mapping[str, str], cycle: list[str] | None, tmp_path: Path
) -> None:
    for name, code in files.items():
        file = (tmp_path / "house" / f"{name}.py").resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    assert cycles(tmp_path / "house") == ([cycle] if cycle else [])


def prints(module: ast.Module) -> Iterator[str]:
    """What a module uses to print by itself: text from elsewhere could then obey nobody."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "rich.print"):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("rich"):
            yield from (it.name for it in node.names if it.name in ("Console", "Text", "print"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_standard = ast.unparse(node.func.value) in ("sys.stdout", "sys.stderr")
            if is_standard and node.func.attr.startswith("write"):
                yield ast.unparse(node.func)


def test_all_that_is_printed_is_made_printable() -> None:
    found = {
        f"{path.relative_to(PACKAGE.parent)}: {name}"
        for path in modules(PACKAGE).values()
        for name in prints(ast.parse(path.read_text(encoding="utf-8")))
        if path != PACKAGE / "printing.py"
    }
    assert found == set(), "use echo, rich_console and rich_text of attention_lab.printing"


@pytest.mark.parametrize(
    "code",
    [
        "print(error)",
        "import sys\nprint(error, file=sys.stderr)",
        "from rich.console import Console",
        "from rich.text import Text",
        "from rich import print",
        "import rich\nrich.print(error)",
        "import sys\nsys.stderr.write(error)",
    ],
)
def test_printing_past_that_is_found(code: str) -> None:
    assert list(prints(ast.parse(code)))
