"""How fast the viewer opens and zooms in headless Chromium, and how large its pages are.

    python -m benchmarks.viewer

A page of 4 layers × 8 heads × 128 × 128 with 20 steps, and one of 8 heads × 2,000 × 2,000.
"""

import statistics
import tempfile
from pathlib import Path

import torch
from tests.browser import Browser

from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.viewer import encode_map, write_viewer

ROUNDS = 5


def main() -> None:
    """Write both pages, open each several times, and print medians."""
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder) / "profile") as browser:
        for name, layers, length, steps in (("training", 4, 128, 20), ("long input", 1, 2000, 1)):
            page = Path(folder) / f"{name}.html"
            write_viewer(
                [
                    encode_map(random_map(step, layer, length, step / steps))
                    for step in range(steps)
                    for layer in range(layers)
                ],
                page,
                name,
            )
            rounds = [measure(browser, page) for _ in range(ROUNDS)]
            medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
            print(
                f"{name}: {page.stat().st_size / 1e6:.1f} MB, "
                + ", ".join(f"{key} {value:.0f} ms" for key, value in medians.items())
            )


def random_map(step: int, layer: int, length: int, progress: float) -> AttentionMap:
    """Causal softmax attention of random queries and keys, sharper at later steps."""
    generator = torch.Generator().manual_seed(layer)
    query, key = (torch.randn(8, length, 16, generator=generator) for _ in range(2))
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1).expand(8, -1, -1)
    logits = (query @ key.mT / 4 * (0.5 + 3 * progress)).masked_fill(hidden, -torch.inf)
    names = [f"token {position}" for position in range(length)]
    weights = logits.softmax(-1)
    return AttentionMap(step, "example", f"layers.{layer}", names, names, weights, hidden=hidden)


def measure(browser: Browser, page: Path) -> dict[str, float]:
    """Milliseconds from navigation to the first paint and to the drawn map, and of zooming."""
    with browser.open(page) as opened:
        times: dict[str, float] = opened.evaluate(
            """(async () => {
              const frame = () => new Promise(requestAnimationFrame);
              while (!document.documentElement.dataset.ready) await frame();
              const drawn = performance.now();
              await frame();
              const paint = performance.getEntriesByName("first-contentful-paint")[0].startTime;
              const timed = action => {
                const start = performance.now();
                action();
                return performance.now() - start;
              };
              return {
                "first paint": paint, "map drawn": drawn,
                "zoom in": timed(() => zoomBy(4, 0.5, 0.5)), "zoom out": timed(() => zoomBy(0)),
              };
            })()"""
        )
    return times


if __name__ == "__main__":
    main()
