"""Scores of what a beam search writes: `attention-lab evaluate --beam`, and in training."""

import pytest

from attention_lab.data.batches import SequencePairs
from attention_lab.data.sequence_pairs import SequencePairsData
from attention_lab.data.vocabulary import BOS, EOS, PAD
from attention_lab.models.decoding import beam_search
from attention_lab.training.building import Run, build
from tests.cli.conftest import Command
from tests.conftest import Compose, FinishedRun


def test_a_beam_may_be_evaluated(command: Command, words_run: FinishedRun, words: Run) -> None:
    beam = ["--beam", "5", "--length-penalty", "2.0", "--split", "validation"]
    answer = command("evaluate", str(words_run.directory), *beam)
    assert answer.code == 0, answer.err
    batch: SequencePairs = words.data.split("validation")
    length = words.objective.max_length
    written = beam_search(words.objective.model, batch.source, BOS, EOS, length, 5, 2.0).tolist()
    assert isinstance(words.data, SequencePairsData)
    errors = words.data.metric()
    errors.update(
        [row[: row.index(EOS)] if EOS in row else row for row in written],
        words.data.references("validation"),
    )
    per = float(errors.compute()["per"])
    assert f"validation/per {per:.4f}" in " ".join(answer.out.split())
    greedily = command("evaluate", str(words_run.directory), "--split", "validation")
    assert answer.out != greedily.out


def test_training_may_validate_with_a_beam(tiny: Compose) -> None:
    run = build(tiny("objective.beams=3", "objective.length_penalty=1.5"))
    objective, batch = run.objective.eval(), run.data.probe(3)
    assert batch.source.min() == PAD
    length = objective.max_length
    expected = beam_search(objective.model, batch.source, BOS, EOS, length, 3, 1.5).tolist()
    expected = [row[: row.index(EOS)] if EOS in row else row for row in expected]
    assert objective.write(batch.source) == expected  # type: ignore[operator]
    for wrong in ("objective.beams=0", "objective.length_penalty=-1"):
        with pytest.raises(ValueError, match="must be at least"):
            build(tiny(wrong), run.data)
