"""Modules that a config names are not imported from the working directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attention_lab.config import imports
from attention_lab.config.imports import forget_working_directory, import_object


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's directory with modules in it, which leave this mark when they are imported."""
    mark = tmp_path.parent / f"{tmp_path.name} was imported"
    code = f"open({str(mark)!r}, 'w')\nclass X: pass\n"
    for place in ("evil.py", "outputs/evil.py", "package/__init__.py", "package/runs/evil.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(code)
    (tmp_path / "package/empty.py").touch()
    for name in ("evil", "outputs", "outputs.evil", "package", "package.runs", "package.runs.evil"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return mark


@pytest.mark.parametrize("entry", ["", ".", "../{name}", "run"])
@pytest.mark.parametrize("target", ["evil.X", "outputs.evil.X", "package.X", "package.empty.X"])
def test_a_module_of_the_working_directory_is_not_imported(
    entry: str, target: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its package is not imported either; ``find_spec("package.empty")`` would import it."""
    monkeypatch.chdir(tmp_path.parent if entry == "run" else tmp_path)
    entry = tmp_path.name if entry == "run" else entry.format(name=tmp_path.name)
    monkeypatch.setenv("PYTHONPATH", f"{entry}{os.pathsep}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"absolute path in PYTHONPATH|has no __init__\.py"):
        import_object(target)
    assert not mark.exists()


def test_modules_in_absolute_directories_of_pythonpath_are_imported(
    mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"/nowhere{os.pathsep}{tmp_path}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_object("evil.X") is sys.modules["evil"].X
    assert mark.exists()


@pytest.mark.parametrize("target", ["outputs.evil.X", "package.runs.evil.X"])
def test_a_directory_of_runs_is_not_imported_as_a_package(
    target: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds in the user's directories, too: they may contain a run from a stranger."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"has no __init__\.py"):
        import_object(target)
    assert not mark.exists()


@pytest.mark.parametrize("target", ["..evil.X", "a b.X", "X", ".X", ""])
def test_targets_that_are_not_dotted_names_are_refused(target: str) -> None:
    with pytest.raises(ImportError, match="is not a module's name"):
        import_object(target)


@pytest.mark.parametrize("kind", ["site", "editable"])
def test_installed_packages_are_imported(
    kind: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .pth file names the directory of an editable install."""
    site = tmp_path if kind == "site" else tmp_path.parent / f"{tmp_path.name}-site"
    site.mkdir(exist_ok=True)
    (site / "_own.pth").write_text(f"# a comment\nimport os\n{tmp_path}\n")
    monkeypatch.setattr(imports, "_site_directories", lambda: frozenset([site.resolve()]))
    imports._editable.cache_clear()
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        import_object("evil.X")
    finally:
        imports._editable.cache_clear()
    assert mark.exists()


def test_relative_entries_are_removed_from_sys_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra's plugins and modules that libraries import are then not found there either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    entries = ["", ".", "lib", str(tmp_path / "mine")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entries))
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    absolute = [str(tmp_path), str(tmp_path / "lib"), str(tmp_path / "mine")]
    monkeypatch.setattr(sys, "path", [*absolute, *sys.path])
    before = sys.path[3:]
    forget_working_directory()
    assert sys.path == [str(tmp_path / "mine"), *before]
    assert os.environ["PYTHONPATH"] == str(tmp_path / "mine")
    assert os.environ["PYTHONSAFEPATH"] == "1"


@pytest.mark.parametrize("way", ["-m", "PYTHONPATH=."])
def test_nothing_beside_a_run_is_imported_by_the_command(
    way: str, mark: Path, tmp_path: Path
) -> None:
    """Neither modules that a config names, nor those that Hydra or a library would import."""
    evil = (tmp_path / "evil.py").read_text()
    (tmp_path / "hydra_plugins").mkdir()
    for name in ("hydra_plugins/evil.py", "yaml.py", "torch.py", "omegaconf.py"):
        (tmp_path / name).write_text(evil)
    entry = "from attention_lab.cli import main; raise SystemExit(main())"
    how = ["-m", "attention_lab"] if way == "-m" else ["-P", "-c", entry]
    path = "" if way == "-m" else "."
    done = subprocess.run(
        [sys.executable, *how, "train", "--cfg", "job", "attention.score._target_=evil.X"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "evil.X" in done.stdout
    assert not mark.exists()


def test_the_path_of_an_editable_install_need_not_be_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    (tmp_path / "package.pth").write_bytes(os.fsencode(place) + b"\n")
    monkeypatch.setattr(imports, "_site_directories", lambda: frozenset([tmp_path]))
    assert imports._editable.__wrapped__() == {Path(place)}


def test_a_module_is_checked_again_only_if_it_is_imported_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep resolves the same classes for each of its jobs."""
    checked = []
    check = imports._check
    monkeypatch.setattr(imports, "_check", lambda name: (checked.append(name), check(name)))
    monkeypatch.setattr(imports, "_checked", {})
    module = "attention_lab.spelling"
    for _ in range(3):
        imports.import_object(f"{module}.nearest")
    assert checked == [module]
    monkeypatch.delitem(sys.modules, module)
    imports.import_object(f"{module}.nearest")
    assert checked == [module, module]
