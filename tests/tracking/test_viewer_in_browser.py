"""The viewer in headless Chromium: drawing, the mouse, keys, steps, two runs, sizes and print."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.viewer import (
    EncodedSummaries,
    encode_map,
    encode_summaries,
    write_viewer,
)
from tests.browser import Browser, Page
from tests.tracking.test_viewer import HOSTILE

LAYERS = ("encoder.0.self_attention", "decoder.0.self_attention", "decoder.0.cross_attention")
NOTE = "teacher-forced: the targets are given"


def maps_of(step: int, heads: int = 2, rows: int = 3, seed: int = 0) -> list[AttentionMap]:
    """The maps of a small encoder–decoder; the decoder's self-attention is causal."""
    generator = torch.Generator().manual_seed(step + seed)
    sizes = {"source": list("BOUT"), "target": ["B", "UW", "T", "</s>", "x"][:rows]}
    maps = []
    for layer in LAYERS:
        names = sizes["source" if layer.startswith("encoder") else "target"]
        keys = names if "self" in layer else sizes["source"]
        weights = torch.rand(heads, len(names), len(keys), generator=generator)
        hidden = None
        if "decoder.0.self" in layer:
            hidden = torch.ones(weights.shape, dtype=torch.bool).triu(1)
            weights = weights.masked_fill(hidden, 0.0)
        note = NOTE if layer.startswith("decoder") else ""
        maps.append(AttentionMap(step, "BOUT", layer, names, keys, weights, None, note, hidden))
    return maps


@contextmanager
def opened(
    browser: Browser,
    maps: list[dict[str, Any]],
    folder: Path,
    summaries: dict[int, EncodedSummaries] | None = None,
    **size: Any,
) -> Iterator[Page]:
    """A page of maps; at the end there must be no error and no request."""
    write_viewer(maps, folder / "page.html", "run", summaries)
    with browser.open(folder / "page.html", **size) as page:
        wait(page, "document.documentElement.dataset.ready")
        yield page
        assert page.errors == []
        assert page.requests == [(folder / "page.html").as_uri()]


def wait(page: Page, condition: str) -> None:
    """Wait until a JavaScript expression is true, at most 10 seconds."""
    assert page.evaluate(
        f"""(async () => {{
          for (let i = 0; i < 500; i++) {{
            if ({condition}) return true;
            await new Promise(done => setTimeout(done, 20));
          }}
          return false;
        }})()"""
    ), condition


def table(page: Page) -> list[list[str]]:
    """The cells of the listed weights, without names."""
    rows: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#numbers tbody tr')].map("
        "row => [...row.querySelectorAll('td')].map(cell => cell.textContent))"
    )
    return rows


def text(page: Page, selector: str) -> str:
    value: str = page.evaluate(f"document.querySelector('{selector}').textContent")
    return value


def encoded(maps: list[AttentionMap], **more: Any) -> list[dict[str, Any]]:
    return [encode_map(each, 65535) | more for each in maps]


def move(page: Page, row: float, column: float) -> None:
    """Move the mouse over the large map, in cells from its upper left corner."""
    x, y = page.evaluate(
        "(() => { const {area, canvas} = panels[0], box = canvas.getBoundingClientRect();"
        f"return [box.x + area.left + {column} * area.cell, box.y + area.top + {row} * area.cell];"
        "})()"
    )
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


#: The pixels of the large map, read from a copy.
PIXELS = """(() => {
  const {canvas, area} = panels[0], {width, height} = canvas;
  const copy = element("canvas", {width, height});
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  return context.getImageData(area.left, area.top, area.wide, area.high);
})()"""


def pixel(page: Page, row: int, column: int) -> list[int]:
    """The colour in the middle of a cell of the large map."""
    colour: list[int] = page.evaluate(
        f"(() => {{ const image = {PIXELS}, cell = panels[0].area.cell;"
        f"const at = 4 * (Math.round(({row} + .5) * cell) * image.width);"
        f"const from = at + 4 * Math.round(({column} + .5) * cell);"
        "return [...image.data.slice(from, from + 3)]; })()"
    )
    return colour


def test_the_page_opens_with_cross_attention_and_its_numbers(
    browser: Browser, tmp_path: Path
) -> None:
    maps = maps_of(0)
    with opened(browser, encoded(maps), tmp_path) as page:
        assert page.evaluate("[shown.layer, panels.length]") == [LAYERS[2], 1]
        wait(page, "document.querySelectorAll('#numbers td').length === 8")
        shown = torch.tensor([[float(cell) for cell in row] for row in table(page)])
        torch.testing.assert_close(shown, maps[2].weights[:, 0], atol=1e-4, rtol=0)
        assert text(page, "#note") == NOTE
        assert page.evaluate("document.querySelectorAll('#overview button').length") == 6
        wait(page, "[...document.querySelectorAll('#overview canvas')].every(c => c.width < 9)")


def test_the_token_under_the_mouse_is_marked_and_its_weights_are_listed(
    browser: Browser, tmp_path: Path
) -> None:
    maps = maps_of(0)
    with opened(browser, encoded(maps), tmp_path) as page:
        move(page, 1.5, 2.5)
        wait(page, "shown.row === 1 && shown.column === 2")
        wait(page, "byId('reading').textContent.includes('→')")
        assert f"{maps[2].weights[0, 1, 2]:.4f}" in text(page, "#reading")
        move(page, 2.5, -0.2)
        wait(page, "shown.hovered === 'row' && shown.row === 2")
        wait(page, "byId('reading').textContent.endsWith('attention to each key')")
        move(page, -0.2, 3.5)
        wait(page, "shown.hovered === 'column'")
        wait(page, "byId('reading').textContent.endsWith('attention from each query')")
        assert text(page, "#reading").startswith("T (4 of 4)")
        column = torch.tensor([[float(cell) for cell in row] for row in table(page)])
        torch.testing.assert_close(column, maps[2].weights[:, :, 3], atol=1e-4, rtol=0)


def test_hidden_pairs_are_not_zero(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, encoded(maps_of(0)), tmp_path) as page:
        page.evaluate(f"choose({{layer: '{LAYERS[1]}'}})")
        wait(page, "panels[0].layer === shown.layer")
        page.evaluate("mark({row: 0, axis: 'row'})")
        wait(page, "byId('numbers').textContent.includes('hidden')")
        assert [row[1:] for row in table(page)] == 2 * [["hidden", "hidden"]]
        assert page.evaluate("byId('legend-hidden').hidden") is False


def test_keys_choose_everything(browser: Browser, tmp_path: Path) -> None:
    maps = encoded(maps_of(0)) + encoded(maps_of(500))
    summaries = {0: encode_summaries({LAYERS[1]: {"entropy": [1.0], "mean_distance": [2.0]}})}
    with opened(browser, maps, tmp_path, summaries) as page:
        for key, state, value in [
            ("ArrowLeft", "shown.step", 0),
            ("ArrowRight", "shown.step", 500),
            ("ArrowDown", "shown.row", 1),
            ("ArrowUp", "shown.row", 0),
            ("h", "shown.head", "1"),
            ("h", "shown.head", "mean"),
            ("h", "shown.head", "max"),
            ("l", "shown.layer", LAYERS[0]),
            ("k", "shown.layer", LAYERS[1]),
            ("c", "shown.scale", "linear"),
            ("s", "shown.summary", "mean_distance"),
            ("v", "panels[0].area.kind", "lines"),
            ("v", "panels[0].area.kind", "map"),
            ("a", "shown.axis", "column"),
            ("+", "zoom.factor > 1", True),
            ("0", "zoom.factor", 1),
            ("?", "byId('help').open", True),
            ("Escape", "byId('help').open", False),
        ]:
            page.press(key)
            expected = f"'{value}'" if isinstance(value, str) else str(value).lower()
            wait(page, f"{state} === {expected}")
        page.press("ArrowRight", modifiers=8)
        wait(page, "shown.column === 1")


def test_heads_are_averaged_and_maximised(browser: Browser, tmp_path: Path) -> None:
    maps = maps_of(0)
    with opened(browser, encoded(maps), tmp_path) as page:
        for name, expected in (
            ("mean", maps[2].weights.mean(0)),
            ("max", maps[2].weights.amax(0)),
        ):
            page.evaluate(f"choose({{head: '{name}'}})")
            wait(page, f"document.querySelector('#numbers tbody th')?.textContent === '{name}'")
            shown = torch.tensor([float(cell) for cell in table(page)[0]])
            torch.testing.assert_close(shown, expected[0], atol=1e-4, rtol=0)


def test_play_shows_all_steps(browser: Browser, tmp_path: Path) -> None:
    maps = [each for step in (0, 100, 200) for each in encoded(maps_of(step))]
    with opened(browser, maps, tmp_path) as page:
        page.evaluate("byId('play').click()")
        wait(page, "shown.step === 0 && player !== null")
        wait(page, "shown.step === 200 && player === null")
        assert text(page, "#step-name") == "200"


@pytest.mark.parametrize("scale", ["root", "linear", "log", "rank", "rows"])
def test_colours_follow_the_scale(scale: str, browser: Browser, tmp_path: Path) -> None:
    weights = torch.tensor([[[0.0, 0.01, 0.25, 1.0], [0.0, 0.01, 0.02, 0.04]]])
    each = AttentionMap(0, "e", "l", ["a", "b"], list("wxyz"), weights)
    with opened(browser, encoded([each]), tmp_path) as page:
        page.evaluate(f"choose({{scale: '{scale}'}})")
        wait(page, "byId('scale').value === shown.scale")
        page.evaluate("mark({row: 1, column: null})")
        sums = [sum(pixel(page, 0, column)) for column in range(4)]
        assert sums == sorted(sums, reverse=True)
        assert pixel(page, 0, 0) == [255, 255, 255]
        assert pixel(page, 0, 3) == [0, 42, 102]
        assert (pixel(page, 1, 3) == [0, 42, 102]) == (scale == "rows")


def test_two_runs_have_a_difference(browser: Browser, tmp_path: Path) -> None:
    first, second = maps_of(0), maps_of(0, seed=7)
    long = "general-" + "with-a-long-name-" * 5
    maps = encoded(first, run="additive, step 0") + encoded(second, run=f"{long}, step 0")
    with opened(browser, maps, tmp_path) as page:
        wait(page, "panels.length === 3")
        wait(page, "document.querySelectorAll('#numbers tbody tr').length === 3")
        difference = torch.tensor([float(cell.replace("−", "-")) for cell in table(page)[2]])
        expected = second[2].weights[0, 0] - first[2].weights[0, 0]
        torch.testing.assert_close(difference, expected, atol=2e-4, rtol=0)
        places = "panels.map(p => p.canvas.getBoundingClientRect())"
        assert page.evaluate(f"new Set({places}.map(place => place.x)).size") == 3
        assert page.evaluate(f"new Set({places}.map(place => place.y)).size") == 1


def test_two_steps_have_a_difference(browser: Browser, tmp_path: Path) -> None:
    first, second = maps_of(0), maps_of(500)
    with opened(browser, encoded(first) + encoded(second), tmp_path) as page:
        page.press("d")
        wait(page, "panels.length === 3 && shown.compared === '0'")
        wait(page, "document.querySelectorAll('#numbers tbody tr').length === 3")
        labels = "[...document.querySelectorAll('#panels b')].map(each => each.textContent)"
        assert page.evaluate(labels) == ["step 0", "step 500", "difference"]
        difference = torch.tensor([float(cell.replace("−", "-")) for cell in table(page)[2]])
        expected = second[2].weights[0, 0] - first[2].weights[0, 0]
        torch.testing.assert_close(difference, expected, atol=2e-4, rtol=0)
        page.press("d", modifiers=8)
        wait(page, "panels.length === 1 && shown.compared === 'none'")


def test_outputs_of_different_lengths_have_no_difference(browser: Browser, tmp_path: Path) -> None:
    maps = encoded(maps_of(0), run="a") + encoded(maps_of(0, rows=5, heads=1), run="b")
    with opened(browser, maps, tmp_path) as page:
        wait(page, "panels.length === 2")
        assert "There is no difference to show" in text(page, "#caption")
        page.evaluate("mark({row: 4})")
        page.evaluate(f"choose({{layer: '{LAYERS[0]}', head: '1'}})")
        wait(page, "panels.length === 3")


def test_every_head_of_either_run_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    """A run with fewer heads shows its last one, and the title says which one that is."""
    first, second = maps_of(0, heads=2), maps_of(0, heads=3)
    maps = encoded(first, run="two") + encoded(second, run="three")
    with opened(browser, maps, tmp_path) as page:
        page.evaluate("choose({head: '2'})")
        wait(
            page,
            "document.querySelectorAll('#panels figcaption')[1]?.textContent.includes('head 2')",
        )
        assert "· head 1 ·" in text(page, "#panels figcaption")
        shown = torch.tensor([float(cell) for cell in table(page)[0]])
        torch.testing.assert_close(shown, first[2].weights[1, 0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(
    scheme: str, browser: Browser, tmp_path: Path
) -> None:
    maps = encoded(maps_of(0, heads=8)) + encoded(maps_of(9, heads=8))
    with opened(browser, maps, tmp_path, width=390, height=844, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("panels[0].canvas.getBoundingClientRect().width") > 250
        assert page.evaluate("dark.matches") == (scheme == "dark")


def test_cells_are_square_and_long_maps_zoom(browser: Browser, tmp_path: Path) -> None:
    names = [f"token {number}" for number in range(700)]
    weights = torch.zeros(1, 700, 300)
    weights[0, 655, 255] = 1.0
    each = AttentionMap(0, "e", "l", names, names[:300], weights)
    with opened(browser, [encode_map(each)], tmp_path) as page:
        assert page.evaluate("panels[0].area.cell") < 1
        darkest = page.evaluate(
            f"(() => {{ const {{data}} = {PIXELS};"
            "let least = 765; for (let i = 0; i < data.length; i += 4)"
            "least = Math.min(least, data[i] + data[i + 1] + data[i + 2]); return least; })()"
        )
        assert darkest == 0 + 42 + 102
        # A pixel for ten by ten cells shows the only weight among them.
        part = "{left: 0, top: 0, right: 300, bottom: 700}"
        image = f"[...paint(panels[0].sheet, 'root', {part}, 30, 70).data]"
        assert page.evaluate(f"{image}.filter(byte => byte === 42).length") == 1
        page.evaluate("mark({row: 655, column: 255})")
        for _ in range(8):
            page.press("+")
        assert page.evaluate("panels[0].area.cell") == 72
        wait(page, "byId('reading').textContent.includes('1.00')")
        assert page.evaluate(
            "(() => { const {area} = panels[0]; return area.firstRow <= 655"
            " && area.firstRow + area.high / area.cell >= 656; })()"
        )


def test_odd_names_and_weights_are_shown(browser: Browser, tmp_path: Path) -> None:
    names = [HOSTILE, "שלום", "é́̂", "👩‍👩‍👧", "x" * 200, "\n", "\ud800", ""]
    weights = torch.full((2, 8, 8), 0.1)
    weights[0, 0, :5] = torch.tensor([torch.nan, -0.5, 1.7, torch.inf, -1e-5])
    each = AttentionMap(0, HOSTILE, "l", names, names, weights)
    with opened(browser, encoded([each]), tmp_path) as page:
        wait(page, "document.querySelectorAll('#numbers td').length === 16")
        assert table(page)[0][:5] == ["NaN", "−0.5000", "1.7000", "NaN", "0.0000"]
        assert page.evaluate("byId('legend-odd').hidden") is False
        page.evaluate("choose({head: 'max'})")
        wait(page, "document.querySelector('#numbers tbody th')?.textContent === 'max'")
        assert table(page)[0][:4] == ["NaN", "0.1000", "1.7000", "NaN"]
        page.evaluate("choose({head: '0'})")
        assert page.evaluate("document.title") == "run"
        assert "≥1" in text(page, "#legend")
        page.press("v")
        wait(page, "panels[0].area.kind === 'lines'")
        page.evaluate("mark({row: 3, hovered: 'row'})")


def test_ten_thousand_tokens_open(browser: Browser, tmp_path: Path) -> None:
    names = [str(number) for number in range(10_000)]
    weights = torch.zeros(1, 4, 10_000)
    weights[0, 2, 9_999] = 1.0
    each = AttentionMap(0, "e", "l", names[:4], names, weights)
    with opened(browser, [encode_map(each)], tmp_path) as page:
        page.evaluate("mark({row: 2})")
        wait(page, "byId('numbers').textContent.includes('9999')")
        assert "the 128 greatest weights are listed" in text(page, "#reading")


def test_the_page_prints(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, encoded(maps_of(0)), tmp_path) as page:
        page.print(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
        page.emulate(media="print")
        assert (
            page.evaluate("getComputedStyle(document.querySelector('.controls')).display") == "none"
        )
