"""The page shows the comparison without any network."""

import base64
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import pytest
from PIL import Image

from attention_lab.reports.comparison import compare
from attention_lab.reports.page import render_page
from attention_lab.reports.report import write_report
from attention_lab.reports.runs import read_runs
from attention_lab.reports.terminal_table import terminal_table
from attention_lab.tracking.record_files import with_version
from tests.reports.conftest import Compared, WriteRun


def parsed(page: str) -> ElementTree.Element:
    """The page as a tree, parsed as XML so that a missing end tag is an error."""
    return ElementTree.fromstring(page)


def words(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def table_rows(page: str, heading: str) -> list[list[str]]:
    """The cells of a section's tables, without the links to runs below a label."""
    (section,) = [s for s in parsed(page).iter("section") if words(s[0]) == heading]
    for cell in section.iter("td"):
        for links in cell.findall("small[@class='runs']"):
            cell.remove(links)
    return [[words(cell) for cell in row] for row in section.iter("tr")]


def test_the_page_loads_no_other_file(sweep: Path) -> None:
    page = render_page(compare(read_runs([sweep]), "scaled"))
    assert not re.search(r"https?:|//\w|@import|<script .|<link|<iframe", page)
    loaded = re.findall(r'(?:src|url)[=(]["\']?([^"\')\s]+)', page)
    assert loaded
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in loaded)


def test_the_sections_of_the_page_are_in_order(sweep: Path) -> None:
    tree = parsed(render_page(compare(read_runs([sweep]), "scaled")))
    assert [words(heading) for heading in tree.iter("h2")] == [
        "Test results",
        "Numbers",
        "Difference to scaled",
        "Quality against cost",
        "Training",
        "Attention maps",
        "Runs without a result",
        "Provenance",
    ]
    names = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(names) == len(set(names))


def test_the_numbers_of_the_page(sweep: Path) -> None:
    page = render_page(compare(read_runs([sweep]), "scaled"))
    rows = {row[0]: row for row in table_rows(page, "Numbers")}
    assert rows["additive"][1:4] == ["3", "12.0 [7.0, 18.1]", "42.0 [37.0, 47.2]"]
    assert rows["additive"][5:] == ["1.23 M", "10.1 k", "612 MB", "1.2 min"]
    assert rows["general"][1:3] == ["1/4", "15.0 (one seed)"]
    assert rows["trivial baseline"][2:5] == ["70.0", "99.0", "–"]
    differences = {row[0]: row for row in table_rows(page, "Difference to scaled")}
    assert differences["additive"][1:3] == ["3", "−9.0 [−11.5, −6.5]p = 0.0041g = −3.2"]
    assert differences["general"][1:3] == ["1", "−5.0 (one seed)no pno g"]


def test_the_table_of_training(sweep: Path) -> None:
    for seed in range(3):
        file = sweep / f"attention=additive,data=g2p,seed={seed}" / "result.json"
        further = {
            "validation": {"per": 0.2 + 0.01 * seed},
            "last": {"per": 0.3},
            "area_under_curve": 0.4,
            "best_step": 1500,
        }
        file.write_text(json.dumps(json.loads(file.read_text()) | further))
    rows = {row[0]: row for row in table_rows(render_page(compare(read_runs([sweep]))), "Training")}
    assert rows["additive"] == [
        *("additive", "21.0 [18.5, 23.6]", "1.50 k", "30.0 (all equal)", "40.0 (all equal)"),
        "200",
    ]
    # Older runs lack some of it.
    assert rows["scaled"] == ["scaled", "–", "–", "–", "–", "200"]


def test_tuning_has_a_table(sweep: Path) -> None:
    choices = [
        {"overrides": ["attention=scaled"], "value": 0.1, "scores": {"0.1": 0.25, "0.2": 0.3}},
        {"overrides": ["attention=additive"], "value": 0.2, "scores": {"0.1": None, "0.2": 0.125}},
    ]
    tuning = {"key": "optimizer.lr", "grid": [0.1, 0.2], "seeds": [7], "choices": choices}
    jobs = [{"directory": run.name, "overrides": []} for run in sweep.iterdir()]
    (sweep / "sweep.json").write_text(json.dumps(with_version({"jobs": jobs, "tuning": tuning})))
    page = render_page(compare(read_runs([sweep])))
    assert table_rows(page, "Tuning of optimizer.lr") == [
        ["attention", "0.1", "0.2"],
        ["scaled", "25.0", "30.0"],
        ["additive", "–", "12.5"],
    ]
    section = next(s for s in parsed(page).iter("section") if words(s[0]).startswith("Tuning"))
    assert [words(bold) for bold in section.iter("strong")] == ["25.0", "12.5"]


def test_each_kind_of_slices_has_a_chart(write_run: WriteRun) -> None:
    test = {
        "per": 0.5,
        "accuracy/length=10-19": 0.5,
        "accuracy/length=1-9": 0.75,
        "accuracy/length=8,pairs=4": 1.0,
    }
    for label in "xy":
        run = write_run(f"a={label}", 0, test=test)
    tree = parsed(render_page(compare(read_runs([run.parent]))))
    charts = {
        words(s[0]): [words(text) for text in s.iter("text")][:3]
        for s in tree.iter("section")
        if "by" in words(s[0])
    }
    assert list(charts) == ["Accuracy by length", "Accuracy by length and pairs"]
    assert charts["Accuracy by length"] == ["1-9", "10-19", "length"]
    assert charts["Accuracy by length and pairs"][:2] == ["8, 4", "length and pairs"]


def test_the_page_names_every_run_without_a_result(sweep: Path) -> None:
    rows = table_rows(render_page(compare(read_runs([sweep]))), "Runs without a result")
    found = {tuple(row[2:4]): row[4] for row in rows[1:]}
    assert found["1", "diverged"] == "the loss is nan at step 70"
    assert found["2", "failed"] == "RuntimeError: out of memory"
    assert "exited unexpectedly" in found["3", "preempted"]


def test_provenance(sweep: Path) -> None:
    tree = parsed(render_page(compare(read_runs([sweep]))))
    terms = [words(element) for element in tree.iter("dt")]
    facts = dict(zip(terms, (words(element) for element in tree.iter("dd")), strict=True))
    assert facts["Command"] == "attention-lab train -m"
    assert facts["Swept"] == "attention"
    assert facts["In all runs"] == "data=g2p"
    assert facts["Seeds"] == "0, 1, 2, 3"
    assert facts["Git revision"] == "0123abc"
    assert facts["Versions"] == "torch 2.13.0"
    assert facts["Ran"].endswith("2026-01-02 04:05 +00:00")


def test_links_lead_to_the_runs_their_viewers_and_logs(sweep: Path, tmp_path: Path) -> None:
    for run in sweep.iterdir():
        (run / "log.txt").touch()
    (sweep / "attention=additive,data=g2p,seed=1" / "attention" / "attention.html").touch()
    output = tmp_path / "elsewhere" / "reports"
    page = write_report(compare(read_runs([sweep])), output)
    links = [link.get("href", "") for link in parsed(page.read_text()).iter("a")]
    for run in sweep.iterdir():
        assert f"../../sweep/{quote(run.name)}" in links
        assert f"../../sweep/{quote(run.name)}/log.txt" in links
    assert [link for link in links if link.endswith(".html")] == 2 * [
        "../../sweep/attention%3Dadditive%2Cdata%3Dg2p%2Cseed%3D1/attention/attention.html"
    ]
    assert all((output / unquote(link)).exists() for link in links)


def test_maps_are_those_of_the_first_seed_at_the_last_step(sweep: Path) -> None:
    # Step 1000 comes after step 200, though not in the order of letters.
    first = sweep / "attention=additive,data=g2p,seed=0" / "attention"
    (first / "step-1000").mkdir()
    Image.new("RGB", (40, 4), (9, 9, 9)).save(first / "step-1000" / "word-self_attention.png")
    tree = parsed(render_page(compare(read_runs([sweep]))))
    (image,) = tree.iter("img")
    data = base64.b64decode(str(image.get("src")).removeprefix("data:image/png;base64,"))
    assert data == (first / "step-1000" / "word-self_attention.png").read_bytes()
    assert image.get("alt") == "self_attention of additive on word"
    assert [words(caption) for caption in tree.iter("figcaption")] == ["additiveseed 0, step 1,000"]
    assert [element for element in tree.iter("div") if element.get("class") == "maps wide"]


def test_the_description_of_a_map_has_the_summaries_of_its_layer(write_run: WriteRun) -> None:
    run = write_run("a=x", 0, maps=["step-20/word-one.png", "step-20/word-two.png"])
    rows = ["step,layer,head,entropy,diagonal", "10,one,0,9,9", "20,one,0,1,0.5", "20,one,1,2,"]
    (run / "attention" / "summaries.csv").write_text("\n".join([*rows, ""]))
    tree = parsed(render_page(compare(read_runs([run]))))
    assert [image.get("alt") for image in tree.iter("img")] == [
        "one of all runs on word. On average over heads and examples: entropy 1.5, diagonal 0.5",
        "two of all runs on word",
    ]


def test_maps_are_of_one_seed_where_all_groups_have_it(write_run: WriteRun) -> None:
    picture = ["step-1/word-cross.png"]
    for seed in range(3):
        write_run("a=x", seed, maps=picture if seed else [])
        run = write_run("a=y", seed, maps=picture if seed != 1 else [])
    write_run("a=none", 0)
    write_run("a=failed", 0, status="failed", maps=picture)
    tree = parsed(render_page(compare(read_runs([run.parent]))))
    assert {words(caption) for caption in tree.iter("figcaption")} == {
        "xseed 2, step 1",
        "yseed 2, step 1",
    }
    notes = [words(note) for note in tree.iter("p") if "No maps" in words(note)]
    assert [note.partition("No maps: ")[2] for note in notes] == ["none."]


def test_a_page_that_would_be_too_large_names_the_omitted_examples(
    write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run("a=x", 0, maps=["step-1/first-l.png", "step-1/second_%3F-l.png"])
    assert "in the viewers only" not in render_page(compare(read_runs([run])))
    size = (run / "attention" / "step-1" / "first-l.png").stat().st_size
    monkeypatch.setattr("attention_lab.reports.attention_maps.MAX_BYTES", size)
    page = render_page(compare(read_runs([run])))
    assert "some maps are in the viewers only: l on second ?." in page
    assert [image.get("alt") for image in parsed(page).iter("img")] == ["l of all runs on first"]


def test_layers_may_differ_between_groups(write_run: WriteRun) -> None:
    write_run("a=x", 0, maps=["step-1/word-one.png", "step-1/word-both.png"])
    run = write_run("a=y", 0, maps=["step-1/word-both.png", "step-1/other-both.png"])
    tree = parsed(render_page(compare(read_runs([run.parent]))))
    assert [image.get("alt") for image in tree.iter("img")] == [
        "both of x on word",
        "both of y on word",
        "one of x on word",
        "both of y on other",
    ]


def test_maps_are_of_the_baseline_and_the_best_groups(compared: Compared) -> None:
    comparison = compared({f"g{i}": [0.1 * i] for i in range(7)}, "g5")
    for run in comparison.runs:
        folder = run.directory / "attention" / "step-1"
        folder.mkdir(parents=True)
        Image.new("RGB", (6, 4)).save(folder / "word-l.png")
    tree = parsed(render_page(comparison))
    assert [image.get("alt") for image in tree.iter("img")] == [
        f"l of g{i} on word" for i in (0, 1, 2, 5)
    ]


def test_text_of_users_is_escaped(write_run: WriteRun) -> None:
    script = "<script>alert('&')</script>"
    error = {"error": f"{script} failed", "versions": {script: script}, "git_revision": script}
    for seed in range(2):
        curve, maps = {1: 0.5, 2: 0.4}, [f"step-1/<script>-{seed}<script>.png"]
        write_run(f"x={script}", seed, name=f"{seed}", curve=curve, record=error, maps=maps)
    write_run("x=$\\frac{$ #010101", 0, name="<script>", curve=curve)
    run = write_run(f"x={script}", 2, name="3", status="failed", record=error)
    page = render_page(compare(read_runs([run.parent]), f"x={script}"))
    assert page.count("<script") == page.count('<script>\n"use strict"') == 1
    assert words(parsed(page)).count(script) > 10
    assert "$\\frac{$ #010101" in words(next(parsed(page).iter("svg")))


def corrupt_metrics(sweep: Path) -> None:
    for file in sweep.glob("*/metrics.csv"):
        file.write_bytes(b'step,validation/per\n100,"0.5\n\x00\xff,,')


def only_one_run(sweep: Path) -> None:
    for run in sorted(sweep.iterdir())[1:]:
        shutil.rmtree(run)


def one_seed(sweep: Path) -> None:
    for run in sweep.glob("*seed=[1-9]"):
        shutil.rmtree(run)


def nothing_finished(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.unlink()


def no_maps(sweep: Path) -> None:
    for maps in sweep.glob("*/attention"):
        shutil.rmtree(maps)


def empty_results(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.write_text("{}")


def strange_results(sweep: Path) -> None:
    for file in sweep.glob("*/result.json"):
        file.write_text(
            '{"monitor": "f1", "test": {"per": "low", "f1": true}, "trivial_baseline": 3}'
        )


def no_record_at_all(sweep: Path) -> None:
    for file in sweep.glob("*/status.json"):
        file.write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        corrupt_metrics,
        only_one_run,
        one_seed,
        nothing_finished,
        no_maps,
        empty_results,
        strange_results,
        no_record_at_all,
    ],
)
def test_every_incomplete_sweep_has_a_report(sweep: Path, damage: Callable[[Path], None]) -> None:
    damage(sweep)
    runs = read_runs([sweep])
    page = write_report(compare(read_runs([sweep])), sweep)
    assert parsed(page.read_text()).find(".//h1") is not None
    assert terminal_table(compare(runs), 80)
    # Every run is there, finished or not.
    for run in runs:
        assert run.name in page.read_text()


def test_a_page_of_many_groups_shows_the_best_and_the_baseline(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"a": [0.4, 0.5, 0.6], "b": [0.1, 0.2, 0.3], "c": [0.2, 0.3, 0.4], "d": [0.9, 0.8]}
    comparison = compared(dict(scores), baseline="attention=d")
    whole = render_page(comparison)
    assert "report.csv" not in whole
    monkeypatch.setattr("attention_lab.reports.charts.styles.MAX_SHOWN", 2)
    page = render_page(comparison)
    assert "show 3 of 4 groups: the best and the baseline; " in page
    assert '<a href="report.csv">report.csv</a> has all groups' in page
    assert [row[0] for row in table_rows(page, "Numbers")[1:4]] == ["b", "c", "d"]
    assert len(table_rows(page, "Provenance")) == len(table_rows(whole, "Provenance")) - 3
