"""The order of the house: which layer of the package may import which."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import attention_lab

LAYERS = [
    "contract",
    "cli",
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
PACKAGE = Path(attention_lab.__file__).parent


def imported_layers(path: Path, package: Path) -> Iterator[str]:
    """The layers of its package that a module imports, wherever in the module."""
    parts = path.relative_to(package.parent).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: len(parts) - node.level]) if node.level else ""
            source = f"{above}.{node.module or ''}".strip(".")
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, layer, *_ = [*name.split("."), ""]
            if root == package.name and layer in LAYERS:
                yield layer


def may_import(parts: tuple[str, ...]) -> list[str]:
    """The layers that a module may import: its own and those below; a module in none: none."""
    if parts[0] == "__main__":
        return ["cli"]
    return LAYERS[LAYERS.index(parts[0]) :] if parts[0] in LAYERS else []


def violations(package: Path) -> list[str]:
    """Imports that point up, folders that are no layer, and drawers for everything."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
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
    ],
)
def test_a_violation_is_found(
    module: str, code: str, violation: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "house" / module
    file.parent.mkdir(parents=True)
    file.write_text(code)
    assert violations(tmp_path / "house") == ([violation] if violation else [])


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
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
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
