"""The viewer of attention maps: right weights, safe text, no network, a working script."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.viewer import encode_map, write_viewer

HOSTILE = (
    "</script><script>document.title = 'broken'</script>"
    "<img src=x onerror=\"document.title = 'broken'\"><!--<script>"
)
CHROMIUM = shutil.which("chromium")


def some_maps(rows: list[str], columns: list[str], heads: int = 2) -> list[AttentionMap]:
    """Two steps of two layers of two examples, with weights that are all different."""
    generator = torch.Generator().manual_seed(0)
    shape = (heads, len(rows), len(columns))
    return [
        AttentionMap(step, example, layer, rows, columns, torch.rand(shape, generator=generator))
        for step in (0, 500)
        for example in ("BOUTIQUE", "CHOCOLATE")
        for layer in ("decoder.0", "decoder.1")
    ]


def embedded(page: str) -> dict[str, Any]:
    """The page's data, as its script reads it."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    data: dict[str, Any] = json.loads(match[1])
    return data


def test_every_map_is_in_the_page(tmp_path: Path) -> None:
    maps = some_maps(["B", "UW", "T"], list("BOUT"))
    write_viewer([encode_map(each) for each in maps], tmp_path / "attention.html", "run")
    data = embedded((tmp_path / "attention.html").read_text("utf-8"))
    for original, stored in zip(maps, data["maps"], strict=True):
        assert stored["step"] == original.step
        assert stored["example"] == original.example
        assert stored["layer"] == original.layer
        assert stored["rows"] == original.rows
        assert stored["columns"] == original.columns
        assert stored["heads"] == 2
        roots = torch.tensor(list(base64.b64decode(stored["weights"]))).reshape(2, 3, 4) / 255
        torch.testing.assert_close(roots**2, original.weights, atol=1 / 255, rtol=0)


def test_small_weights_and_those_out_of_range_are_in_the_page(tmp_path: Path) -> None:
    names = list("abcd")
    for weights, worst in (
        (torch.tensor([[[0.0, 0.0008, 0.0077, 0.9]]]), [0, 0.0002, 0.0004, 0.004]),
        (torch.tensor([[[-0.5, 1.7, 0.0, 0.001]]]), [0.01, 1e-6, 0, 0.0005]),
        (torch.tensor([[[-1.5, 1.0, 0.0, 0.001]]]), [1e-6, 0.01, 0, 0.0005]),
    ):
        path = tmp_path / "attention.html"
        write_viewer(
            [encode_map(each) for each in [AttentionMap(0, "e", "l", ["r"], names, weights)]],
            path,
            "run",
        )
        (stored,) = embedded(path.read_text("utf-8"))["maps"]
        for byte, weight, error in zip(
            base64.b64decode(stored["weights"]), weights.flatten().tolist(), worst, strict=True
        ):
            root = (byte - stored["zero"]) / (255 - stored["zero"])
            assert abs(stored["limit"] * root * abs(root) - weight) <= error


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    write_viewer(
        [encode_map(each) for each in some_maps(["a"], ["b"])], tmp_path / "attention.html", "run"
    )
    page = (tmp_path / "attention.html").read_text("utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|\burl\(|\bfetch\(|\bimport\b", page)


def test_markup_in_names_is_escaped(tmp_path: Path) -> None:
    names = [HOSTILE, '"', "&amp;", "\ud800", "\u2028", "字"]
    maps = some_maps(names, names)
    write_viewer([encode_map(each) for each in maps], tmp_path / "attention.html", HOSTILE)
    page = (tmp_path / "attention.html").read_text("utf-8")
    assert page.count("<script") == page.count("</script") == 2
    assert embedded(page)["maps"][0]["rows"] == names


def test_a_large_model_stays_below_a_megabyte(tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(128)]
    weights = torch.rand(8, 128, 128)
    maps = [AttentionMap(0, "example", f"layer.{i}", names, names, weights) for i in range(4)]
    write_viewer([encode_map(each) for each in maps], tmp_path / "attention.html", "run")
    assert (tmp_path / "attention.html").stat().st_size < 1_000_000


def test_the_old_page_stays_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "attention.html"
    path.write_text("old")
    replace = os.replace

    def check_then_replace(source: Path, target: Path) -> None:
        assert path.read_text() == "old"
        assert source.parent == target.parent, "only within one file system is it atomic"
        assert source.read_text("utf-8").endswith("</html>\n")
        replace(source, target)

    monkeypatch.setattr("os.replace", check_then_replace)
    write_viewer([encode_map(each) for each in some_maps(["a"], ["b"])], path, "run")
    assert path.read_text("utf-8") != "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_viewer_without_maps_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one attention map"):
        write_viewer([], tmp_path / "attention.html", "run")
    assert not list(tmp_path.iterdir())


def test_importing_the_viewer_imports_no_jinja2_or_matplotlib() -> None:
    code = (
        "import sys, attention_lab.tracking.attention_map, attention_lab.tracking.viewer\n"
        "print({'jinja2', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Pressed after the page has drawn itself: one step back, one row down.
PRESS = """<script>
for (const key of ["ArrowLeft", "ArrowDown"])
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
</script></body>"""


def rendered(page: str, folder: Path) -> tuple[str, str]:
    """The document after Chromium has run its scripts, and their errors."""
    if CHROMIUM is None:
        pytest.skip("needs chromium to run the page's script")
    (folder / "page.html").write_text(page, "utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=2000",
            "--enable-logging=stderr",
            "--dump-dom",
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(complaints)


@pytest.mark.parametrize(
    ("rows", "note", "caption"),
    [
        (
            ["B", HOSTILE, "T"],
            "teacher-forced: the targets are given",
            "Rows: the predicted token (teacher-forced: the targets are given). "
            "Columns: what it attends to.",
        ),
        (
            list("BOUT"),
            "",
            "Rows: the position that attends. Columns: the position it attends to.",
        ),
        (["B", HOSTILE, "T"], None, "Rows: the predicted token. Columns: what it attends to."),
    ],
)
def test_the_script_runs(rows: list[str], note: str | None, caption: str, tmp_path: Path) -> None:
    maps = some_maps(rows, list("BOUT"), heads=3)
    pages = [encode_map(each) | {"note": note} for each in maps]
    if note is None:  # as runs have them that began before there were notes
        for each in pages:
            del each["note"]
    write_viewer(pages, tmp_path / "attention.html", "run")
    page = (tmp_path / "attention.html").read_text("utf-8")
    document, complaints = rendered(page.replace("</body>", PRESS), tmp_path)
    assert complaints == ""
    assert "<title>run</title>" in document
    assert 'data-panels="3"' in document
    assert document.count('<figure class="panel">') == 3
    assert f'<p id="caption">{caption}</p>' in document
    assert '<output id="step-name">0</output>' in document
    shown = [float(weight) for weight in re.findall(r"<td[^>]*>([\d.]+)</td>", document)]
    second_row_before_training = maps[0].weights[:, 1]
    torch.testing.assert_close(
        torch.tensor(shown).reshape(3, 4), second_row_before_training, atol=0.0071, rtol=0
    )


BY_ROWS = """<script>
byId("colours").value = "rows";
byId("colours").dispatchEvent(new Event("change"));
</script></body>"""


def test_the_scale_of_the_viewer_explains_the_colours(tmp_path: Path) -> None:
    weights = torch.tensor([[[1.25, -0.25, 0.0], [0.004, 0.001, 0.0]]])
    each = AttentionMap(0, "e", "l", ["a", "b"], ["a", "<s>", "c"], weights, sources=1)
    write_viewer([encode_map(each) for each in [each]], tmp_path / "attention.html", "run")
    page = (tmp_path / "attention.html").read_text("utf-8")
    document, complaints = rendered(page, tmp_path)
    assert complaints == ""
    assert scale(document) == ["0", "0.1", "0.5", "≥1", "−0.1", "−0.5", "−1"]
    assert "The line separates source and target." in document
    assert document.count('<div class="boundary"') == 2
    assert shades(document)[0] == "0, 42, 102"  # 1.25, as dark as 1
    document, complaints = rendered(
        page.replace("</body>", PRESS.replace("</body>", BY_ROWS)), tmp_path
    )
    assert complaints == ""
    assert scale(document) == ["0", "0.5", "1", "−0.5", "−1"]
    assert shades(document)[0] == "0, 42, 102"  # 0.004, the greatest of the second row
    assert shades(document)[1] not in ("255, 255, 255", shades(document)[0])


def scale(document: str) -> list[str]:
    """The labels of the scale."""
    (inside,) = re.findall(r'<div id="scale">(.*?)</div>', document, re.DOTALL)
    return re.findall(r"<span[^>]*>([^<]*)</span>", inside)


def shades(document: str) -> list[str]:
    """The colours of the table's cells."""
    return re.findall(r'<td[^>]*style="background: rgb\(([\d, ]+)\)', document)
