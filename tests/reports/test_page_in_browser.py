"""The page in a real browser: its tables, maps, collapsed sections, sizes and colours."""

import itertools
import random
from pathlib import Path

import pytest
from PIL import Image

from attention_lab.reports.charts.styles import colour
from attention_lab.reports.comparison import compare
from attention_lab.reports.report import write_report
from attention_lab.reports.runs import read_runs
from tests.browser import Browser, Page
from tests.reports.conftest import WriteRun

#: The width of A4 without its margins, in CSS pixels.
A4 = 702


@pytest.fixture
def report(sweep: Path) -> Path:
    """The report on three groups."""
    return write_report(compare(read_runs([sweep]), "scaled"), sweep)


def first_column(page: Page, table: int = 0) -> list[str]:
    """The labels of a table's rows, without the links below them."""
    cells = f"document.querySelectorAll('table')[{table}].querySelectorAll('td:first-child')"
    labels: list[str] = page.evaluate(f"[...{cells}].map((cell) => cell.innerText.split('\\n')[0])")
    return labels


def test_a_click_on_a_header_sorts_its_table(report: Path, browser: Browser) -> None:
    with browser.open(report) as page:
        header = "th:nth-child(3)"
        page.click(f"{header} button")
        rising = first_column(page)
        assert page.evaluate(f"document.querySelector('{header}').ariaSort") == "ascending"
        page.click(f"{header} button")
        falling = first_column(page)
        assert page.evaluate(f"document.querySelector('{header}').ariaSort") == "descending"
        assert page.evaluate("document.querySelectorAll('th[aria-sort]').length") == 1
        assert not page.errors
    assert rising == ["additive", "general", "scaled", "trivial baseline"]
    assert falling == ["scaled", "general", "additive", "trivial baseline"]


def test_the_keyboard_sorts_a_table_by_quantities(report: Path, browser: Browser) -> None:
    """The cells of a column are "950", "1.23 M" and "–", which has no value."""
    text = report.read_text()
    for old, new in (("1234567.0", "950"), ("1234567.0", "None")):
        text = text.replace(f'data-value="{old}"', f'data-value="{new}"', 1)
    report.write_text(text)
    with browser.open(report) as page:
        page.evaluate("document.querySelector('th:nth-child(6) button').focus()")
        page.press("Enter")
        assert first_column(page)[:3] == ["scaled", "additive", "general"]
        page.press(" ")
        assert first_column(page)[:3] == ["additive", "scaled", "general"]


def test_escape_closes_a_map_that_a_key_enlarged(report: Path, browser: Browser) -> None:
    with browser.open(report) as page:
        page.evaluate("document.querySelector('figure button').focus()")
        for key, closing in (("Enter", "Escape"), (" ", "Escape"), ("Enter", "Enter")):
            page.press(key)
            width = page.evaluate("document.querySelector('dialog[open] img')?.clientWidth")
            assert width > 1000
            if closing == "Escape":
                page.press(closing)
            else:
                page.click("dialog")
            assert page.evaluate("document.querySelector('dialog[open]')") is None
            assert page.evaluate("document.activeElement.matches('figure button')")
        assert not page.errors


def shown(page: Page) -> str | None:
    """The text of the tooltip; None if it is hidden."""
    text: str | None = page.evaluate(
        "(() => { const tip = document.querySelector('.tooltip');"
        "return tip.hidden ? null : tip.textContent; })()"
    )
    return text


ADDITIVE = "additive\n12.0 % [7.0, 18.1]\nseed 0: 10.0 %\nseed 1: 12.0 %\nseed 2: 14.0 %"


def test_the_mouse_shows_the_values_of_a_mark(report: Path, browser: Browser) -> None:
    with browser.open(report) as page:
        assert shown(page) is None
        page.hover(".mark:nth-of-type(3)")
        assert shown(page) == ADDITIVE
        page.hover("h1")
        assert shown(page) is None
        assert page.evaluate("document.querySelectorAll('.chart title').length") == 0
        assert not page.errors


@pytest.mark.parametrize("width", [1280, 390])
def test_the_keyboard_shows_the_values_of_marks(report: Path, browser: Browser, width: int) -> None:
    """Tab enters a chart, arrows move in it, Escape hides the values, Tab leaves it."""
    with browser.open(report, width=width) as page:
        page.press("Tab")
        assert str(shown(page)).startswith("scaled\n21.0 %")
        page.press("ArrowRight")
        page.press("ArrowDown")
        assert shown(page) == ADDITIVE
        inside = "(() => { const box = document.querySelector('.tooltip').getBoundingClientRect();"
        inside += "return box.left >= 0 && box.right <= innerWidth && box.top >= 0; })()"
        assert page.evaluate(inside)
        page.press("ArrowRight")
        assert shown(page) == ADDITIVE
        page.press("Escape")
        assert shown(page) is None
        page.press("ArrowLeft")
        assert str(shown(page)).startswith("general\n")
        page.press("Tab")
        assert shown(page) is None or not str(shown(page)).startswith("general\n15.0")


@pytest.mark.parametrize(("width", "columns"), [(1280, 2), (390, 1)])
def test_charts_are_stacked_on_a_phone_and_their_text_keeps_its_size(
    report: Path, browser: Browser, width: int, columns: int
) -> None:
    with browser.open(report, width=width) as page:
        lefts = "[...document.querySelector('.charts').children].map((chart) => "
        lefts += "Math.round(chart.getBoundingClientRect().left))"
        assert len(set(page.evaluate(lefts))) == columns
        sizes = "[...document.querySelectorAll('.chart text')].map((text) => "
        sizes += "text.getBoundingClientRect().height)"
        assert min(page.evaluate(sizes)) > 12
        beyond = "[...document.querySelectorAll('.chart text')].filter((text) => { const box = "
        beyond += "text.getBoundingClientRect(); return box.left < 0 || box.right > innerWidth; })"
        assert page.evaluate(f"{beyond}.map((text) => text.textContent)") == []


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_the_page_is_never_wider_than_the_window(
    report: Path, browser: Browser, width: int
) -> None:
    with browser.open(report, width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("innerWidth") == width
        assert page.requests == [report.as_uri()]
        assert not page.errors


def test_a_print_has_all_columns_and_folded_parts(report: Path, browser: Browser) -> None:
    with browser.open(report, width=A4) as page:
        hidden = "[...document.querySelectorAll('dd, td')].filter((each) => !each.checkVisibility("
        hidden += "{contentVisibilityAuto: true}) || each.clientHeight === 0).length"
        assert page.evaluate(hidden) > 0
        page.emulate(media="print")
        assert page.evaluate(hidden) == 0
        widest = "Math.max(...[...document.querySelectorAll('table')].map((t) => t.offsetWidth))"
        assert page.evaluate(widest) <= A4
        assert page.evaluate("document.documentElement.scrollWidth") == A4


def test_a_page_with_many_groups_and_maps_is_small_and_short(
    write_run: WriteRun, browser: Browser
) -> None:
    """12 groups with 18 images of 100 KB each, in a window of 1280 by 900 pixels."""
    picture = b"\x89PNG\r\n\x1a\n" + random.Random(0).randbytes(100_000)
    for number in range(12):
        test = {"per": 0.1 * (number + 1), "wer": 0.5, "per/length=1-9": 0.1, "wer/length=1-9": 0.1}
        curve = {step: 0.5 - step / 3000 for step in range(10, 1001, 10)}
        run = write_run(f"a={number:02}", 0, test=test, curve=curve, result={"parameters": number})
        rows = [f"{step},layer,0,{step}" for step in range(10, 1001, 10)]
        (run / "attention" / "step-1000").mkdir(parents=True)
        (run / "attention" / "summaries.csv").write_text("\n".join(["step,layer,head,e", *rows]))
        for name in itertools.product(("one", "two", "three"), "abcdef"):
            (run / "attention" / "step-1000" / f"{'-'.join(name)}.png").write_bytes(picture)
    page = write_report(compare(read_runs([run.parent])), run.parent)
    assert page.stat().st_size < 4_000_000
    with browser.open(page, width=1280, height=900) as opened:
        assert opened.evaluate("document.documentElement.scrollHeight") <= 4 * 900


def test_headings_are_in_order(report: Path, browser: Browser) -> None:
    with browser.open(report) as page:
        found = "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((h) => h.tagName[1])"
        levels = [int(level) for level in page.evaluate(found)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert {3, 4} < set(levels)
    assert all(later - level <= 1 for level, later in itertools.pairwise(levels))


def test_a_browser_shows_the_charts(sweep: Path, tmp_path: Path, browser: Browser) -> None:
    page, picture = write_report(compare(read_runs([sweep])), tmp_path), tmp_path / "page.png"
    with browser.open(page, width=1200) as opened:
        opened.screenshot(picture, whole=True)
    with Image.open(picture) as image:
        colours = image.convert("RGB").getcolors(maxcolors=2**24)
    counts = {shade: count for count, shade in colours or []}
    for row, group in enumerate(compare(read_runs([sweep])).groups):
        # A mark in a table has about 70 pixels; a group with several seeds has lines as well.
        least = 400 if len(group.finished) > 1 else 100
        pixels = tuple(bytes.fromhex(colour(row).removeprefix("#")))
        assert counts.get(pixels, 0) > least, f"{group.label} is not in the charts"
