"""Recording attention at the validations of a run: images, the page, summaries and the check."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image
from torch import Tensor

from attention_lab.attention import Backend, record_attention
from attention_lab.tracking import attention_callback
from attention_lab.tracking.attention_callback import AttentionMapCallback
from attention_lab.tracking.attention_map import AttentionMap
from attention_lab.tracking.attention_summaries import (
    SUMMARIES,
    append_rows,
)
from attention_lab.tracking.media import log_images
from attention_lab.tracking.recorded_attention import RecordedLayer, record_layers
from attention_lab.tracking.viewer import encode_map
from tests.conftest import Compose, FinishedRun
from tests.runs import build, train
from tests.tracking.test_attention_map import probe_maps
from tests.tracking.test_viewer import decoded, embedded

ONE = [1.0]
LAYERS = {"encoder.0.self_attention", "decoder.0.self_attention", "decoder.0.cross_attention"}


def page(directory: Path) -> list[dict[str, Any]]:
    """The maps in a run's attention.html."""
    text = (directory / "attention" / "attention.html").read_text("utf-8")
    maps: list[dict[str, Any]] = embedded(text)["maps"]
    return maps


def test_each_example_layer_and_validation_has_an_image(words_run: FinishedRun) -> None:
    data = build(words_run.config).data
    labels = data.position_labels(data.probe(3))
    words = ["".join(example["source"]) for example in labels]
    folder = words_run.directory / "attention"
    assert {path.name for path in folder.iterdir()} == {
        "attention.html",
        "summaries.csv",
        "step-000002",
        "step-000004",
    }
    expected = {f"{word}-{layer}.png" for word in words for layer in LAYERS}
    assert len(expected) == 9
    for step in ("step-000002", "step-000004"):
        assert {path.name for path in (folder / step).iterdir()} == expected | {"maps.json"}
        for path in (folder / step).glob("*.png"):
            with Image.open(path) as picture:
                picture.verify()


def test_the_page_holds_every_map(words_run: FinishedRun) -> None:
    maps = page(words_run.directory)
    assert len(maps) == 2 * 3 * 3
    assert {(each["step"], each["layer"]) for each in maps} == {
        (step, layer) for step in (2, 4) for layer in LAYERS
    }
    for each in maps:
        letters = list(each["example"])
        over_source = not each["layer"].endswith("decoder.0.self_attention")
        assert (each["columns"] == letters) == over_source
        if each["layer"].startswith("decoder"):
            assert each["rows"][-1] == "</s>"
            assert "<s>" not in each["rows"]
            assert "<pad>" not in each["rows"]


def test_the_page_has_the_summaries_of_the_file(words_run: FinishedRun) -> None:
    text = (words_run.directory / "attention" / "attention.html").read_text("utf-8")
    found = embedded(text)["summaries"]
    for row in rows_of(words_run.directory / "attention" / "summaries.csv"):
        drawn = found[row["step"]][row["layer"]]
        expected = {name: [float(row[name])] for name in SUMMARIES if row[name]}
        assert drawn == expected


def test_the_page_is_written_at_every_validation(
    tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[set[int]] = []
    write = AttentionMapCallback.on_validation_end

    def record(callback: AttentionMapCallback, *arguments: Any) -> None:
        write(callback, *arguments)
        steps.append({each["step"] for each in page(tmp_path / "run")})

    monkeypatch.setattr(AttentionMapCallback, "on_validation_end", record)
    train(tiny("attention=additive"), tmp_path / "run", [])
    assert steps == [{2}, {2, 4}]


def test_the_page_shows_the_attention_of_the_last_checkpoint(words_run: FinishedRun) -> None:
    run = build(words_run.config)
    checkpoint = words_run.directory / "checkpoints" / "last.ckpt"
    run.task.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    stored = [each for each in page(words_run.directory) if each["step"] == 4]
    maps = {(each.example, each.layer): each for each in probe_maps(run)}
    assert len(stored) == len(maps) == 9
    for each in stored:
        ours = maps[each["example"], each["layer"]]
        assert (each["rows"], each["columns"]) == (ours.rows, ours.columns)
        weights = decoded(each)
        if ours.hidden is not None:
            assert torch.equal(weights == -1, ours.hidden)
            weights = weights.masked_fill(ours.hidden, 0.0)
        torch.testing.assert_close(weights, ours.weights, atol=1 / 250, rtol=0)


def test_each_step_layer_and_head_has_a_row_of_summaries(words_run: FinishedRun) -> None:
    found = rows_of(words_run.directory / "attention" / "summaries.csv")
    keys = [(int(row["step"]), row["layer"], int(row["head"])) for row in found]
    assert sorted(keys) == [(step, layer, 0) for step in (2, 4) for layer in sorted(LAYERS)]
    for row in found:
        assert 0 < float(row["entropy"]) < 3
        assert row["head_similarity"] == ""  # there is one head
        assert (row["monotonicity"] != "") == row["layer"].endswith("cross_attention")
        assert (row["diagonal"] == "") == row["layer"].endswith("cross_attention")


def test_the_mean_of_each_layer_is_logged(words_run: FinishedRun) -> None:
    logged = {
        (int(row["step"]), key): float(value)
        for row in rows_of(words_run.directory / "metrics.csv")
        for key, value in row.items()
        if key.startswith("attention/") and value
    }
    for row in rows_of(words_run.directory / "attention" / "summaries.csv"):
        for name in SUMMARIES:
            key = int(row["step"]), f"attention/{row['layer']}/{name}"
            assert (key in logged) == (row[name] != "")
            if row[name]:
                assert logged[key] == pytest.approx(float(row[name]), rel=1e-5)
    result = words_run.result
    assert not any("attention/" in name for name in (*result["validation"], *result["test"]))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_resumed_run_does_not_repeat_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows after the checkpoint are dropped; without a checkpoint, all are."""
    path = tmp_path / "attention" / "summaries.csv"
    path.parent.mkdir()
    for step in (2, 4):
        append_rows(path, step, {"layer": {"entropy": ONE}})
    callback = AttentionMapCallback(tmp_path / "attention", 1)
    with monkeypatch.context() as patched:
        patched.setattr(rank_zero_only, "rank", 1)  # other ranks leave the file alone
        callback.load_state_dict({"steps": [2], "seconds": 0.0, "mismatches": {}})
    assert [row["step"] for row in rows_of(path)] == ["2", "4"]
    callback.load_state_dict({"steps": [2], "seconds": 0.0, "mismatches": {}})
    assert [row["step"] for row in rows_of(path)] == ["2"]
    assert callback.summaries == {2: {"layer": {"entropy": [1.0]}}}


def test_a_resumed_run_ignores_maps_of_another_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one warning; their summaries stay."""
    callback = AttentionMapCallback(tmp_path / "attention", 1)
    each = encode_map(AttentionMap(8, "e", "l", ["r"], ["c"], torch.ones(1, 1, 1)))
    older = {key: value for key, value in each.items() if key != "levels"}
    texts = {2: json.dumps([older]), 4: "{}", 6: "[{", 8: json.dumps([each])}
    for step, text in texts.items():
        file = callback._json_file(step)
        file.parent.mkdir(parents=True)
        file.write_text(text)
        append_rows(tmp_path / "attention" / "summaries.csv", step, {"l": {"entropy": ONE}})
    state = {"steps": [2, 4, 6, 8, 10], "seconds": 0.0, "mismatches": {}}
    callback.load_state_dict(state)
    assert (callback.maps, callback.state_dict()) == ([each], state)
    assert len(rows_of(tmp_path / "attention" / "summaries.csv")) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "step-000002/maps.json has a wrong value for 0.levels: Field required" in line
    assert line.endswith("attention.html leaves out the maps of 3 of 5 steps")


def test_weights_that_do_not_give_the_output_are_a_loud_warning(
    tiny: Compose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line for each layer, though there are two validations, and a record of it."""
    config = tiny("attention=multi_head", "attention.num_heads=2")

    def wrong(self: Backend, *arguments: Any) -> tuple[Tensor, Tensor | None]:
        output, weights = attend(self, *arguments)
        return output * 1.01, weights

    attend = Backend.attend
    monkeypatch.setattr(Backend, "attend", wrong)
    result = train(config, tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if "weights times" in line]
    assert sorted(line.split(": ")[2] for line in lines) == sorted(LAYERS)
    assert all("at step 2" in line and "do not trust its attention maps" in line for line in lines)
    assert set(result["attention_mismatches"]) == LAYERS
    assert result["attention_mismatches"] == pytest.approx(dict.fromkeys(LAYERS, 0.01), rel=0.5)


def test_a_right_backend_is_no_mismatch(words_run: FinishedRun) -> None:
    assert words_run.result["attention_mismatches"] == {}


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_attention_is_recorded_in_the_precision_of_training(
    precision: str, tiny_digits: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[torch.dtype] = []

    def record(task: Any, batch: Any, **options: bool) -> dict[str, RecordedLayer]:
        with record_attention(task.model) as weights:
            layers = record_layers(task, batch, **options)
        dtypes.extend(each.dtype for calls in weights.values() for each in calls)
        return layers

    monkeypatch.setattr(attention_callback, "record_layers", record)
    result = train(tiny_digits(f"trainer.precision={precision}", "trainer.max_epochs=1"), tmp_path)
    assert set(dtypes) == {torch.bfloat16}
    assert result["attention_mismatches"] == {}


def test_synthetic_data_give_the_alignment_error_rate(compose: Compose, tmp_path: Path) -> None:
    small = ["data.examples=40", "data.evaluation_examples=20", "model.d_model=16"]
    layers = ["model.num_encoder_layers=1", "model.num_decoder_layers=1"]
    config = compose(
        "data=reverse", "trainer=cpu", "logger=csv", "trainer.max_steps=1", *small, *layers
    )
    train(config, tmp_path / "run")
    found = rows_of(tmp_path / "run" / "attention" / "summaries.csv")
    rates = {row["layer"]: row["alignment_error_rate"] for row in found}
    assert 0 <= float(rates["decoder.0.cross_attention"]) <= 1
    assert rates["encoder.0.self_attention"] == ""


def test_time_spent_recording_is_measured(words_run: FinishedRun) -> None:
    seconds = words_run.result["seconds"]
    assert 0 < seconds["attention_maps"] < seconds["total"]


def test_different_examples_have_different_files(tmp_path: Path) -> None:
    maps = [
        AttentionMap(0, name, "layer", ["row"], ["column"], torch.ones(1, 1, 1))
        for name in ("a-b", "a.b")
    ]
    pictures = AttentionMapCallback(tmp_path, 2)._write_images(maps)
    assert len(set(pictures.values())) == 2


def test_keys_of_a_target_have_the_names_of_the_input_tokens(words_run: FinishedRun) -> None:
    """Position j of a target predicts token j, and its input is the token before."""
    for each in page(words_run.directory):
        if each["layer"] == "decoder.0.self_attention":
            assert each["columns"] == ["<s>", *each["rows"][:-1]]


def test_only_joint_sequences_have_a_boundary_line(words_run: FinishedRun) -> None:
    assert all(each["sources"] is None for each in page(words_run.directory))


class Kept(WandbLogger):
    """A logger that keeps what is logged."""

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}
        super().__init__(experiment=SimpleNamespace(log=self.logged.update))


def test_wandb_images_are_keyed_by_layer_and_number_and_captioned(tmp_path: Path) -> None:
    logger, callback = Kept(), AttentionMapCallback(tmp_path, 1)
    maps = [
        AttentionMap(3, example, layer, ["row"], ["column"], torch.ones(1, 1, 1), note=note)
        for layer, note in (("cross", "the targets are given"), ("self", ""))
        for example in ("thorough/a b", "x" * 300)
    ]
    log_images([logger], callback._write_images(maps), 3)
    assert logger.logged.pop("trainer/global_step") == 3
    assert {key: image._caption for key, image in logger.logged.items()} == {
        "attention/cross/1": "thorough/a b, step 3, the targets are given",
        "attention/cross/2": f"{'x' * 200}…, step 3, the targets are given",
        "attention/self/1": "thorough/a b, step 3",
        "attention/self/2": f"{'x' * 200}…, step 3",
    }
