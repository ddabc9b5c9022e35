"""The documentation site: its navigation is complete, and it builds without warnings."""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

import attention_lab
from attention_lab import attention

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "site"
#: What a browser loads with a page: scripts, styles, images, frames.
LOADED = re.compile(r"""<(?!a\b)\w+\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']*""")


def documented(page: str) -> list[str]:
    """The names in a page of the API reference."""
    text = (SITE / "api" / f"{page}.rst").read_text("utf-8")
    return re.findall(r"^\.\. auto(?:class|function):: (\S+)$", text, re.MULTILINE)


def test_every_page_is_in_the_navigation_once() -> None:
    navigation = (SITE / "navigation.md").read_text("utf-8")
    entries = re.findall(r"^(?![:`])(\S+)$", navigation, re.MULTILINE)
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    pages = [str(file.relative_to(ROOT).with_suffix("")) for file in files]
    reference = [f"api/{file.stem}" for file in (SITE / "api").iterdir()]
    assert sorted(entries) == sorted({*pages, *reference} - {"README"})  # README is the first page


def test_the_reference_has_every_public_name() -> None:
    assert sorted(documented("attention_lab")) == sorted(attention_lab.__all__)
    classes = {name for name in attention.__all__ if name != "BACKENDS"}
    assert sorted(documented("attention")) == sorted(classes)


@pytest.mark.parametrize("name", documented("components"))
def test_a_component_of_the_reference_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert getattr(import_module(module), attribute).__doc__


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere() -> None:
    pytest.importorskip("furo", reason="needs the extra docs")
    pytest.importorskip("myst_nb", reason="needs the extra docs")
    command = [ROOT / "scripts" / "docs", "-D", "nb_execution_mode=off"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    pages = list((ROOT / "build" / "docs" / "html").rglob("*.html"))
    assert len(pages) >= 30
    assert [found for page in pages for found in LOADED.findall(page.read_text("utf-8"))] == []
