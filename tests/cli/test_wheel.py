"""The installed package contains the configs and works from an empty directory."""

import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import attention_lab
from tests.cli.conftest import TINY, Answer, fresh

REPOSITORY = Path(attention_lab.__file__).parents[2]
Installed = Callable[..., Answer]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the package's wheel is unpacked, as pip would."""
    directory = tmp_path_factory.mktemp("wheel")
    built = fresh("-m", "hatchling", "build", "-t", "wheel", "-d", str(directory), cwd=REPOSITORY)
    assert built.code == 0, built.err
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


@pytest.fixture
def installed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Runs the installed command in an empty directory."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    where = fresh("-c", "import attention_lab; print(attention_lab.__file__)", cwd=tmp_path)
    assert where.out.startswith(str(site)), "this is the checkout, not the wheel"

    def run(*arguments: str) -> Answer:
        return fresh("-m", "attention_lab", *arguments, cwd=tmp_path)

    return run


def test_the_wheel_carries_every_config_and_no_test(site: Path) -> None:
    ours = {path.relative_to(REPOSITORY / "conf") for path in (REPOSITORY / "conf").rglob("*.yaml")}
    packed = site / "attention_lab" / "conf"
    assert {path.relative_to(packed) for path in packed.rglob("*.yaml")} == ours
    assert sorted(path.name for path in site.iterdir() if not path.name.endswith("dist-info")) == [
        "attention_lab",
        "hydra_plugins",
    ]


def test_it_trains_reports_and_lists_from_an_empty_directory(
    installed: Installed, tmp_path: Path
) -> None:
    assert "scaled_dot_product" in installed("list", "attention").out
    answer = installed("train", "-m", *TINY, "attention=none,additive", "hydra.sweep.dir=sweep")
    assert answer.code == 0, answer.err
    assert (tmp_path / "sweep" / "report.html").is_file()


def test_a_users_configs_are_added_to_the_installed_ones(
    installed: Installed, tmp_path: Path
) -> None:
    own = tmp_path / "mine" / "attention"
    own.mkdir(parents=True)
    (own / "two_heads.yaml").write_text("# Two heads\ndefaults: [multi_head, _self_]\nheads: 2\n")
    answer = installed("train", "--config-dir", "mine", "attention=two_heads", "--cfg", "job")
    assert answer.code == 0, answer.err
    assert "heads: 2" in answer.out


def test_the_console_script_is_the_same_command(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("attention-lab")
    if not os.access(script, os.X_OK):
        pytest.skip("the package is not installed in this environment")
    answer = fresh("-c", f"import subprocess; subprocess.run([{str(script)!r}])", cwd=tmp_path)
    assert answer.out.startswith("Train models with different attention mechanisms")


def test_the_python_api_composes_with_the_installed_configs(
    installed: Installed, tmp_path: Path
) -> None:
    code = "import attention_lab as al; print(al.compose('attention=additive').choices.attention)"
    assert fresh("-c", code, cwd=tmp_path).out == "additive\n"
