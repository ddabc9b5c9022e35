"""Several source–target pairs packed into a row with masks: the same loss, without padding."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import Documents, Mask, NoMask
from attention_lab.config.components import ConfigError
from attention_lab.data.core.batches import PackedPairs, SequencePairs
from attention_lab.data.core.dataloader import TrainingDataLoader
from attention_lab.data.core.packing import PackedPairRows, pack
from attention_lab.data.core.vocabulary import BOS, EOS, PAD
from attention_lab.data.files.pairs import Pairs
from attention_lab.models import encoder_decoder
from tests.conftest import Compose
from tests.runs import build

Ids = tuple[int, ...]

#: Sources of 1 to 20 letters, and targets of up to 8 letters less or more.
LETTERS = np.random.default_rng(0).choice(list("abcdefgh"), size=(150, 30)).tolist()
LINES = [
    ("".join(row[: 1 + n % 20]), "".join(row[::-1][: max(1, n % 20 + n % 17 - 8)]))
    for n, row in enumerate(LETTERS)
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "own.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in LINES))
    return str(path)


def loaded(path: str, **options: Any) -> Pairs:
    data = Pairs(path, **{"batch_size": 4, "packing": True} | options)
    data.setup()
    return data


def packed(data: Pairs) -> PackedPairs:
    """All training rows as one batch."""
    rows = data.training_rows()
    assert isinstance(rows, PackedPairRows)
    return rows.select(torch.arange(len(rows.lengths())))


def documents(ids: Tensor, positions: Tensor) -> list[Ids]:
    """The documents of a row: each starts at a position 0."""
    ids = ids[ids != PAD]
    starts = (positions[: len(ids)] == 0).nonzero().flatten().tolist()
    found = [tuple(part.tolist()) for part in ids.tensor_split(starts[1:])]
    counted = [place for document in found for place in range(len(document))]
    assert positions.tolist() == counted + [0] * (len(positions) - len(ids))
    return found


@pytest.mark.parametrize("capacity", [2, 30, 200])
def test_packing_fills_rows_of_two_sequences(capacity: int) -> None:
    lengths = np.random.default_rng(0).integers(1, capacity // 2 + 1, size=(500, 2))
    rows = pack(lengths, capacity)
    filled = np.stack([np.bincount(rows, of_side) for of_side in lengths.T])
    assert (filled <= capacity).all()
    assert (filled.sum(0) > 0).all()
    # Any-fit rows have a side that is more than half full, but one.
    assert (filled.max(0) * 2 > capacity).sum() >= filled.shape[1] - 1
    assert filled.shape[1] <= 1.15 * lengths.sum(0).max() / capacity + 1


def test_packed_rows_have_the_training_pairs_without_padding(path: str) -> None:
    data = loaded(path)
    batch, pairs = packed(data), data.split("train")
    found = []
    for source, inputs, labels, *positions in zip(*batch, strict=True):
        documents_of = (
            documents(source, positions[0]),
            documents(inputs, positions[1]),
            documents(labels, positions[1]),
        )
        found += list(zip(*documents_of, strict=True))
    assert all(given[0] == BOS and asked[-1] == EOS for _, given, asked in found)
    assert all(given[1:] == asked[:-1] for _, given, asked in found)
    real = [
        tuple(tuple(ids[ids != PAD].tolist()) for ids in pair)
        for pair in zip(pairs.source, pairs.target, strict=True)
    ]
    assert sorted((source, (*given, EOS)) for source, given, _ in found) == sorted(real)
    assert len(batch.source) < len(pairs.source) / 3
    for row, batched in enumerate(data.training_rows().lengths().tolist()):
        assert batched == [(batch.source[row] != PAD).sum(), (batch.labels[row] != PAD).sum() + 1]
    assert isinstance(next(iter(data.val_dataloader())), SequencePairs)
    assert isinstance(next(iter(data.evaluation_dataloader("train"))), SequencePairs)


def test_a_pair_without_a_source_is_refused() -> None:
    pairs = SequencePairs(
        torch.tensor([[5], [PAD]]), torch.tensor([[BOS, 5, EOS]] * 2), torch.arange(2)
    )
    with pytest.raises(ValueError, match="a training pair has no source or no target tokens; use"):
        PackedPairRows(pairs, 8)


def test_a_resumed_epoch_has_the_remaining_batches(path: str) -> None:
    first, second = (loaded(path).train_dataloader() for _ in range(2))
    assert isinstance(first, TrainingDataLoader)
    assert isinstance(second, TrainingDataLoader)
    batches = iter(first)
    next(batches)
    second.load_state_dict(first.state_dict())
    remaining = list(batches)
    assert len(remaining) > 1
    for ours, theirs in zip(remaining, second, strict=True):
        assert isinstance(ours, PackedPairs)
        assert all(map(torch.equal, ours, theirs))


def config(compose: Compose, path: str, *overrides: str) -> dict[str, Any]:
    own = ["data=pairs", f"data.train={path}", "model.d_model=16", "trainer=cpu", "logger=csv"]
    return compose(*own, *overrides)


ROTARY = ("attention=multi_head", "attention/positions=rotary")


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("attention=linear",),
        ("attention=additive",),
        ("attention=multi_head", "+attention@model.self_attention=local"),
        (
            *("attention=multi_head", "+attention@model.self_attention=multi_head"),
            "attention/positions@model.self_attention.positions=rotary",
        ),
        ("model=prefix_decoder",),
        ("model=prefix_decoder", *ROTARY),
    ],
    ids=" ".join,
)
def test_packing_changes_neither_loss_nor_gradients(
    overrides: tuple[str, ...], compose: Compose, path: str
) -> None:
    found: list[Any] = []
    for packing in ("false", "true"):
        run = build(config(compose, path, f"data.packing={packing}", *overrides))
        task = run.task.double().eval()
        rows = run.data.training_rows()
        loss, labels, tokens = task.loss(rows.select(torch.arange(len(rows.lengths()))))
        loss.backward()
        gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
        found.append((loss.detach(), int(labels), int(tokens), gradients))
    assert_close(*found, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("model", ["encoder_decoder", "prefix_decoder"])
def test_other_pairs_of_a_row_change_nothing(model: str, compose: Compose, path: str) -> None:
    run = build(config(compose, path, "data.packing=true", f"model={model}"))
    network = run.task.model.double().eval()
    source, inputs, _, *positions = packed(run.data)
    before = network(source, inputs, *positions)
    of_source, of_target = ((place == 0).cumsum(1) == 2 for place in positions)  # the second pair
    other_source = torch.where(of_source | (source == PAD), source, source.roll(1))
    other_inputs = torch.where(of_target | (inputs == PAD), inputs, inputs.roll(1))
    after = network(other_source, other_inputs, *positions)
    assert_close(after[of_target], before[of_target])
    assert (after - before)[~of_target].abs().max() > 0.01


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), None),
        (ROTARY, "counts positions from the row's start"),
        ((*ROTARY, "+attention@model.self_attention=multi_head"), "counts positions from the"),
        (("attention=multi_head", "attention/positions=t5"), "counts positions from the"),
        (("attention=multi_head", "attention/mask=sliding_window"), "counts positions from the"),
        (("attention=multi_head", "attention/mask=block_sparse"), "counts positions from the"),
        (("attention/score=location",), "counts positions from the"),
        (("model=prefix_decoder", "model.conv_kernel_size=3"), "a convolution mixes packed"),
        (("model=recurrent_encoder_decoder",), r"Decoder\.forward has no argument source_pos"),
        (("data.packed_length=5",), "data.packed_length=5: a training pair has a sequence of 27"),
        (("data.packed_length=0",), "packed_length must be"),
        (("data.packed_length=1000000",), "packing into rows of 1,000,000 tokens needs"),
        (("data.packing=false", "data.packed_length=64"), "packed_length=64 needs packing=true"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    overrides: tuple[str, ...], message: str | None, compose: Compose, path: str
) -> None:
    packing = config(compose, path, "data.packing=true", *overrides)
    if message is None:
        assert build(packing).task.training
        return
    with pytest.raises(ConfigError, match=message) as error:
        build(packing)
    assert "\n" not in str(error.value)


def test_cross_attention_that_mixes_pairs_is_refused(
    compose: Compose, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where self-attention keeps the pairs apart."""

    def of_self_attention(ids: Tensor, query_ids: Tensor | None = None) -> Mask:
        return Documents(ids) if query_ids is None else NoMask()

    monkeypatch.setattr(encoder_decoder, "Documents", of_self_attention)
    with pytest.raises(ConfigError, match="the model mixes the documents of a row"):
        build(config(compose, path, "data.packing=true"))
