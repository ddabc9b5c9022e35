"""The viewer of attention maps: right weights, safe text, no network, a working script."""

import base64
import json
import math
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.viewer import encode_map, encode_summaries, template, write_viewer

HOSTILE = (
    "</script><script>document.title = 'broken'</script>"
    "<img src=x onerror=\"document.title = 'broken'\"><!--<script>"
)


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


def decoded(stored: dict[str, Any]) -> torch.Tensor:
    """The weights of a map (H, L, S) from its codes; -1 where the mask hides a pair."""
    kind = np.uint8 if stored["levels"] == 255 else np.dtype("<u2")
    heads = [
        np.frombuffer(zlib.decompress(base64.b64decode(head)), kind) for head in stored["heads"]
    ]
    codes = torch.tensor(np.stack(heads).astype("int64"))
    roots = (codes - stored["zero"]) / (stored["levels"] - stored["zero"])
    weights = (stored["limit"] * roots * roots.abs()).masked_fill(codes == 1, torch.nan)
    return weights.masked_fill(codes == 0, -1).view(-1, len(stored["rows"]), len(stored["columns"]))


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
        torch.testing.assert_close(decoded(stored), original.weights, atol=1 / 250, rtol=0)


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
        errors = (decoded(stored) - weights).abs()
        assert (errors.flatten() <= torch.tensor(worst)).all()


def test_hidden_and_infinite_weights_have_their_own_codes() -> None:
    weights = torch.tensor([[[0.5, torch.nan], [0.0, -torch.inf]]])
    hidden = torch.tensor([[[False, False], [True, False]]])
    names = ["a", "b"]
    stored = encode_map(AttentionMap(0, "e", "l", names, names, weights, hidden=hidden), 65535)
    found = decoded(stored)
    assert found[0, 0, 0] == pytest.approx(0.5, abs=1e-4)
    assert found[0, 1, 0] == -1
    assert found.isnan().tolist() == [[[False, True], [False, True]]]


def test_steps_beyond_the_largest_size_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = [encode_map(each) for each in some_maps(["a"], ["b"])]
    steps = [each | {"step": step} for step in range(0, 1000, 100) for each in maps[:4]]
    size = sum(len(head) for each in steps for head in each["heads"])
    monkeypatch.setattr("attention_lab.tracking.viewer.MAX_SIZE", size // 2)
    write_viewer(steps, tmp_path / "attention.html", "run")
    data = embedded((tmp_path / "attention.html").read_text("utf-8"))
    assert {each["step"] for each in data["maps"]} == {0, 200, 400, 700, 900}
    assert data["steps_left_out"] == 5


def test_summaries_are_those_of_the_steps_in_the_page(tmp_path: Path) -> None:
    maps = [encode_map(each) for each in some_maps(["a"], ["b"])]
    numbers = {"entropy": [0.123456789, math.nan], "diagonal": [math.nan, math.inf]}
    summaries = {step: encode_summaries({"decoder.0": numbers}) for step in (0, 250, 500)}
    write_viewer(maps, tmp_path / "attention.html", "run", summaries)
    data = embedded((tmp_path / "attention.html").read_text("utf-8"))
    expected = {"decoder.0": {"entropy": [0.123457, None]}}
    assert data["summaries"] == {"0": expected, "500": expected}


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


def test_the_parts_of_the_page_are_compiled_with_it() -> None:
    """The fork server of a sweep does it once, for all jobs."""
    environment = template().environment
    assert environment.cache is not None
    compiled = {name for _, name in environment.cache}
    assert compiled == set(environment.list_templates())
    assert "main.js" in compiled
