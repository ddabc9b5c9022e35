"""The documentation site: its navigation is complete, and it builds without warnings."""

import re
import subprocess
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

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


class Page(HTMLParser):
    """The places of a page, and where its links lead."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids.add(values.get("id") or "")
        self.links += filter(None, (values.get("href"), values.get("src")))


def broken_links(site: Path) -> list[str]:
    """The links inside a site that lead to no file, or to no place of a page."""
    pages = {file: Page(file) for file in site.rglob("*.html")}
    found = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            place = unquote(parts.fragment)
            ids = pages[target].ids if target in pages else {place}
            if not target.exists() or (place and place not in ids):
                found.append(f"{file.relative_to(site)}: {link}")
    return found


def test_broken_links_are_found(tmp_path: Path) -> None:
    links = ("b.html", "b.html#x", "c.png", "https://a.b/c", "#y", "b.html#z", "d.html", "e.png")
    (tmp_path / "a.html").write_text("".join(f'<a href="{link}">' for link in links) + '<p id="y">')
    (tmp_path / "b.html").write_text('<p id="x">')
    (tmp_path / "c.png").touch()
    assert broken_links(tmp_path) == ["a.html: b.html#z", "a.html: d.html", "a.html: e.png"]


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere() -> None:
    """The notebook is executed by a test of its own."""
    pytest.importorskip("furo", reason="needs the extra docs")
    pytest.importorskip("myst_nb", reason="needs the extra docs")
    command = [ROOT / "scripts" / "docs", "-D", "nb_execution_mode=off"]
    built = subprocess.run(command, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    site = ROOT / "build" / "docs" / "html"
    pages = {file: file.read_text("utf-8") for file in site.rglob("*.html")}
    assert len(pages) >= 30
    assert [found for page in pages.values() for found in LOADED.findall(page)] == []
    assert broken_links(site) == []
    reference = "".join(page for file, page in pages.items() if file.parent.name == "api")
    assert "&lt;class" not in reference  # a default that is a class is its name
    assert ">Type<" not in reference  # types are annotations, not prose before a colon
