"""The chart of summaries over training in the viewer, in headless Chromium."""

import math
from pathlib import Path

import pytest

from attention_lab.tracking.viewer import EncodedSummaries, encode_summaries
from tests.browser import Browser
from tests.tracking.test_viewer_in_browser import LAYERS, encoded, maps_of, opened, text, wait

#: The entropy of two heads at three steps; the first step has another number, too.
ENTROPY = {0: [2.0, 1.0], 100: [1.5, 1.25], 200: [0.5, 1.0]}


def summaries_of(layer: str) -> dict[int, EncodedSummaries]:
    found = {
        step: encode_summaries({layer: {"entropy": values}}) for step, values in ENTROPY.items()
    }
    found[0][layer]["mean_distance"] = [3.0, None]
    return found


@pytest.mark.parametrize("width", [1280, 390])
def test_summaries_are_drawn_over_training(width: int, browser: Browser, tmp_path: Path) -> None:
    maps = [each for step in ENTROPY for each in encoded(maps_of(step))]
    with opened(browser, maps, tmp_path, summaries_of(LAYERS[2]), width=width) as page:
        assert text(page, "#summary-value") == "head 0, step 200: 0.5"
        assert page.evaluate("document.querySelectorAll('#summary-chart path').length") == 3
        page.press("ArrowLeft")
        wait(page, "byId('summary-value').textContent === 'head 0, step 100: 1.5'")
        page.press("h")
        wait(page, "byId('summary-value').textContent === 'head 1, step 100: 1.25'")
        page.press("h")
        wait(page, "byId('summary-value').textContent === 'mean over heads, step 100: 1.38'")
        page.press("s")
        wait(page, "byId('summary-value').textContent === 'mean over heads, step 100: none'")
        assert page.evaluate("byId('summary').value") == "mean_distance"
        page.press("s")
        x, y, across = page.evaluate(
            "(() => { byId('summary-chart').scrollIntoView({block: 'center', behavior: 'instant'});"
            "const now = byId('summary-chart').getBoundingClientRect();"
            "return [now.x, now.y + now.height / 2, now.width]; })()"
        )
        at = {"x": x + 0.2 * across, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, **at)
        wait(page, "shown.step === 0 && shown.summary === 'entropy'")
        page.evaluate(f"choose({{layer: '{LAYERS[0]}'}})")
        wait(page, "byId('summaries').hidden")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_step_without_a_number_is_a_gap_and_is_within_the_axes(
    browser: Browser, tmp_path: Path
) -> None:
    """No head has an entropy at step 200, and step 400 has no summaries."""
    maps = [each for step in (0, 100, 200, 300, 400) for each in encoded(maps_of(step))]
    entropies = {0: [2.0, 1.0], 100: [1.5, 1.0], 200: [math.nan] * 2, 300: [1.0, 0.5]}
    summaries = {
        step: encode_summaries({LAYERS[2]: {"entropy": values}})
        for step, values in entropies.items()
    }
    with opened(browser, maps, tmp_path, summaries) as page:
        assert text(page, "#summary-value") == "head 0, step 400: none"
        assert page.evaluate("document.querySelectorAll('#summary-chart path').length") == 3
        line = page.evaluate(
            "document.querySelector('#summary-chart path.chosen').getAttribute('d')"
        )
        assert (line.count("M"), line.count("L")) == (2, 1)
        now = "+document.querySelector('#summary-chart line.now').getAttribute('x1')"
        assert page.evaluate(f"{now} === CHART.width - CHART.right")
        page.press("ArrowLeft")
        wait(page, "byId('summary-value').textContent === 'head 0, step 300: 1'")
