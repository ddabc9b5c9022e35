"""Each line as a separate document: one in each row, or packed with masks; the loss is the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attention_lab.config.components import ConfigError
from attention_lab.data.core.batches import IGNORE, LabelledPositions
from attention_lab.data.core.dataloader import TrainingDataLoader
from attention_lab.data.core.packing import pack
from attention_lab.data.core.vocabulary import PAD
from attention_lab.data.files.text import Text
from attention_lab.models.decoder import Decoder
from tests.conftest import Compose
from tests.data.poem import MARKS, POEM, SPLITS, loaded, read, written
from tests.runs import build

pytestmark = MARKS

LINES = "to be\nor\n\nnot to be that is\nthe question\n"
TOKENS: dict[str, dict[str, Any]] = {
    "characters": {},
    "bytes": {"tokens": "bytes"},
    "bpe": {"tokens": "bpe", "vocab_size": 260},
}
KINDS = pytest.mark.parametrize("packing", [False, True])


def documents(batch: LabelledPositions) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Inputs and labels of each document of a batch, sorted."""
    found = []
    for row in range(len(batch.inputs)):
        length = int(batch.length[row])
        positions = range(length) if batch.positions is None else batch.positions[row].tolist()
        starts = [place for place in range(length) if positions[place] == 0]
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            assert list(positions[start:end]) == list(range(end - start))
            ids = (tensor[row, start:end].tolist() for tensor in (batch.inputs, batch.labels))
            found.append((tuple(next(ids)), tuple(next(ids))))
    return sorted(found)


def whole(data: Text, split: str = "train") -> LabelledPositions:
    return data.split(split).select(torch.arange(len(data.split(split).lengths())))


@KINDS
@pytest.mark.parametrize("tokens", TOKENS)
def test_each_line_is_predicted_from_the_line_end_before_it(
    tokens: str, packing: bool, tmp_path: Path
) -> None:
    path = written(tmp_path, LINES)
    options = {"length": 12, "documents": True, "packing": packing, **TOKENS[tokens]}
    data = loaded([path], validation=path, test=path, **options)
    decode = data.text_vocabulary.decode
    texts = sorted((decode(given), decode(asked)) for given, asked in documents(whole(data)))
    assert texts == sorted(
        [
            ("to be", "o be\n"),  # the first token has nothing before it
            ("\nor", "or\n"),
            ("\n", "\n"),
            ("\nnot to be t", "not to be th"),  # longer than a row
            ("hat is", "at is\n"),
            ("\nthe questio", "the question"),
            ("n", "\n"),
        ]
    )


@KINDS
def test_documents_may_be_shorter_than_a_window(packing: bool, tmp_path: Path) -> None:
    path, short = written(tmp_path, POEM), written(tmp_path, "Ah\n", "short.txt")
    options = {"length": 40, "documents": True, "packing": packing}
    data = loaded(path, test=short, **options)
    assert data.text_vocabulary.decode(whole(data, "test").labels[0].tolist()) == "h\n"
    empty = written(tmp_path, "A", "one_token.txt")
    with pytest.raises(ValueError, match=r"one_token\.txt: the test text has 1 tokens"):
        loaded(path, test=empty, **options)


@pytest.mark.parametrize("tokens", TOKENS)
def test_packed_rows_have_the_same_documents_without_padding(tokens: str, tmp_path: Path) -> None:
    options = {"length": 40, "documents": True, **TOKENS[tokens]}
    apart = loaded(written(tmp_path, POEM), **options)
    packed = loaded(apart.path, packing=True, **options)
    for split in SPLITS:
        ours, theirs = whole(packed, split), whole(apart, split)
        assert documents(ours) == documents(theirs)
        assert len(ours.inputs) < len(theirs.inputs)
        assert ours.positions is not None
        padding = torch.arange(ours.inputs.shape[1]) >= ours.length[:, None]
        assert (ours.inputs[padding] == PAD).all()
        assert (ours.positions[padding] == 0).all()
        assert torch.equal(ours.labels == IGNORE, padding)
        assert torch.equal(ours.lengths(), packed.split(split).lengths())
    text = loaded(apart.path, **options | {"documents": False})
    assert text.trivial_baseline("test") == packed.trivial_baseline("test")
    assert "".join(read(text, split) for split in SPLITS) == POEM


@pytest.mark.parametrize("capacity", [1, 7, 64])
def test_packing_fills_rows(capacity: int) -> None:
    lengths = np.random.default_rng(0).integers(1, capacity + 1, size=500)
    rows = pack(lengths[:, None], capacity)
    filled = np.bincount(rows, lengths)
    assert (filled <= capacity).all()
    assert (filled > 0).all()
    # Any-fit rows are more than half full, but one.
    assert (filled * 2 > capacity).sum() >= len(filled) - 1
    assert len(filled) <= 1.05 * max(lengths.sum() / capacity, (lengths * 2 > capacity).sum()) + 1


@KINDS
def test_a_resumed_epoch_has_the_remaining_batches(packing: bool, tmp_path: Path) -> None:
    path = written(tmp_path, POEM)

    def loader() -> TrainingDataLoader[LabelledPositions]:
        made = loaded(path, length=40, documents=True, packing=packing).train_dataloader()
        assert isinstance(made, TrainingDataLoader)
        return made

    first, second = loader(), loader()
    batches = iter(first)
    next(batches), next(batches)
    second.load_state_dict(first.state_dict())
    remaining = list(batches)
    assert len(remaining) > 1
    for ours, theirs in zip(remaining, second, strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)
        assert torch.equal(ours.labels, theirs.labels)


def config(compose: Compose, path: str, *overrides: str) -> dict[str, Any]:
    own = ["data=text", f"data.path={path}", "data.length=40", "data.documents=true"]
    return compose(*own, "model.d_model=16", "trainer=cpu", "logger=csv", *overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("attention=linear",),
        ("attention=multi_head", "model.positions=sinusoidal"),
        ("attention=multi_head", "attention/positions=t5", "model.positions=none"),
        ("attention=multi_head", "attention/mask=sliding_window", "attention.mask.window=4"),
    ],
    ids=" ".join,
)
def test_packing_changes_neither_loss_nor_gradients(
    overrides: tuple[str, ...], compose: Compose, tmp_path: Path
) -> None:
    path, found = written(tmp_path, POEM), []
    for packing in ("false", "true"):
        run = build(config(compose, path, f"data.packing={packing}", *overrides))
        task = run.task.double().eval()
        assert isinstance(run.data, Text)
        loss, labels, tokens = task.loss(whole(run.data))
        loss.backward()
        gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
        task.update_metrics(whole(run.data, "test"), "test")
        metrics = task.compute_metrics("test")
        found.append((loss.detach(), int(labels), int(tokens), gradients, metrics))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), None),
        (("attention=multi_head", "attention/mask=global_tokens"), "counts positions from the"),
        (("attention=multi_head", "attention/mask=block_sparse"), "counts positions from the"),
        (("attention=multi_head", "attention/score=location"), "counts positions from the"),
        (("model.conv_kernel_size=3",), "data.packing=true: model.conv_kernel_size: a convolution"),
        (("attention=linformer",), "Linformer cannot be causal"),
        (("data.documents=false",), "packing=true needs documents=true"),
    ],
)
def test_a_model_that_mixes_documents_is_refused(
    overrides: tuple[str, ...], message: str | None, compose: Compose, tmp_path: Path
) -> None:
    path = written(tmp_path, "\n".join(["a" * 90, "b" * 30] * 50))
    packed = config(compose, path, "data.length=96", "data.packing=true", *overrides)
    if message is None:
        assert build(packed).task.training
        return
    with pytest.raises(ConfigError, match=message) as error:
        build(packed)
    assert "\n" not in str(error.value)


def test_packing_needs_a_network_with_positions(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = config(compose, written(tmp_path, POEM), "data.packing=true")
    monkeypatch.setattr(Decoder, "hidden_states", lambda self, tokens, caches=None: tokens)
    with pytest.raises(ConfigError, match=r"Decoder\.hidden_states has no argument positions; add"):
        build(packed)
