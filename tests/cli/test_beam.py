"""Metrics with beam search: `attention-lab evaluate --num-beams`, and in training."""

import json
import shutil
from pathlib import Path

import pytest

from attention_lab.data.core.batches import SequencePairs
from attention_lab.data.core.sequence_to_sequence import SequenceToSequenceDataModule
from attention_lab.data.core.vocabulary import BOS, EOS, PAD
from attention_lab.models.decoding import beam_search
from attention_lab.tracking.record_files import read_record
from attention_lab.training.build import BuiltRun
from tests.cli.conftest import Command
from tests.conftest import Compose, FinishedRun
from tests.runs import build


def test_a_run_can_be_evaluated_with_beam_search(
    command: Command, words_run: FinishedRun, words: BuiltRun
) -> None:
    beam = ["--num-beams", "5", "--length-penalty", "2.0", "--split", "validation"]
    answer = command("evaluate", str(words_run.directory), *beam)
    assert answer.code == 0, answer.err
    batch: SequencePairs = words.data.split("validation")
    length = words.task.max_length
    written = beam_search(words.task.model, batch.source, BOS, EOS, length, 5, 2.0).tolist()
    assert isinstance(words.data, SequenceToSequenceDataModule)
    errors = words.data.metric()
    errors.update(
        [row[: row.index(EOS)] if EOS in row else row for row in written],
        words.data.references("validation"),
    )
    per = float(errors.compute()["per"])
    assert f"validation/per {100 * per:.2f} %" in " ".join(answer.out.split())
    greedily = command("evaluate", str(words_run.directory), "--split", "validation")
    assert answer.out != greedily.out
    directory = words_run.directory / "evaluations"
    assert {"validation,num_beams=5,length_penalty=2.json", "validation.json"} <= {
        path.name for path in directory.iterdir()
    }
    kept = read_record(directory / "validation,num_beams=5,length_penalty=2.json")
    assert kept["metrics"]["per"] == pytest.approx(per)
    assert (kept["split"], kept["checkpoint"]) == ("validation", "best")
    assert kept["decoding"] == {"num_beams": 5, "length_penalty": 2.0}
    whole = (words_run.directory / "checkpoints" / "best.ckpt").read_bytes()
    assert whole.endswith(kept["checkpoint_sha256"].encode())


def test_training_can_validate_with_beam_search(tiny: Compose) -> None:
    run = build(tiny("task.num_beams=3", "task.length_penalty=1.5"))
    task, batch = run.task.eval(), run.data.probe(3)
    assert batch.source.min() == PAD
    length = task.max_length
    expected = beam_search(task.model, batch.source, BOS, EOS, length, 3, 1.5).tolist()
    expected = [row[: row.index(EOS)] if EOS in row else row for row in expected]
    assert task.generate(batch.source) == expected  # type: ignore[operator]
    for wrong in ("task.num_beams=0", "task.length_penalty=-1"):
        with pytest.raises(ValueError, match="must be at least"):
            build(tiny(wrong), run.data)


def test_a_report_compares_evaluations_with_beam_search(
    command: Command, words_run: FinishedRun, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(words_run.directory, run)
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    arguments = ("report", str(run), "--evaluation", "num_beams=3")
    answer = command(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "attention-lab: --evaluation num_beams=3: 1 of 1 finished runs have no such evaluation; "
        f"run attention-lab evaluate {run} --num-beams 3\n"
    )
    assert not (run / "report.html").exists()

    answer = command("report", str(run), "--evaluation", "last,length_penalty=2")
    assert answer.err.endswith(f"evaluate {run} --checkpoint last --length-penalty 2\n")

    evaluated = command("evaluate", str(run), "--num-beams", "3")
    assert evaluated.code == 0
    file = run / "evaluations" / "test,num_beams=3.json"
    assert evaluated.out.splitlines()[-1] == f"saved to {file}"
    answer = command(*arguments)
    assert (answer.code, answer.err) == (0, "")
    per = read_record(file)["metrics"]["per"]
    assert f"is {100 * per:.1f} % (one seed)" in " ".join(answer.out.split())
    assert "`attention-lab evaluate` saved with num_beams=3;" in " ".join(answer.out.split())
    assert "saved with num_beams=3;" in (run / "num_beams=3" / "report.html").read_text()
    assert not (run / "report.html").exists()  # that is for the run's own test

    (run / "num_beams=3").rename(tmp_path / "moved")
    (run / "num_beams=3").symlink_to(tmp_path / "moved")
    answer = command(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.endswith(
        "num_beams=3 is a symbolic link; choose another directory with --output\n"
    )
    (run / "num_beams=3").unlink()

    # The run was trained longer since.
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "checkpoint_sha256": "0" * 64}))
    answer = command(*arguments)
    assert answer.code == 2
    assert (
        f"{file} is from an older checkpoint; run attention-lab evaluate {run} --num-beams 3"
        in answer.err
    )

    file.write_text(json.dumps(record))
    file.parent.rename(tmp_path / "elsewhere")
    file.parent.symlink_to(tmp_path / "elsewhere")
    answer = command(*arguments)
    assert answer.code == 2
    assert "test,num_beams=3.json is a symbolic link that leads out of" in answer.err
    file.parent.unlink()
    (tmp_path / "elsewhere").rename(file.parent)

    file.write_text(json.dumps({**record, "schema_version": 99}))
    answer = command(*arguments)
    assert answer.code == 2
    assert "has schema_version 99" in answer.err


@pytest.mark.parametrize("is_link", [True, False])
def test_an_evaluation_that_cannot_be_saved_is_printed(
    command: Command, words_run: FinishedRun, tmp_path: Path, is_link: bool
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(words_run.directory, run)
    shutil.rmtree(run / "evaluations", ignore_errors=True)
    elsewhere.mkdir()
    if is_link:
        (run / "evaluations").symlink_to(elsewhere)
    else:
        (run / "evaluations").write_text("a file")
    answer = command("evaluate", str(run))
    assert answer.code == 0
    assert "test/per" in answer.out
    assert "evaluations/test.json cannot be written: " in answer.err
    assert not list(elsewhere.iterdir())
