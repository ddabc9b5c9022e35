"""Attention maps of a text that the user gives, with a trained network."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_lab.attention import Additive, AttentionLayer, attention_layers
from attention_lab.attention.backends.api import EAGER
from attention_lab.data.core.batches import (
    IGNORE,
    LabelledPositions,
    LabelledSequences,
    SequencePairs,
)
from attention_lab.data.core.vocabulary import BOS, EOS, UNK, TextVocabulary
from attention_lab.memory import check_fits
from attention_lab.tracking.attention_map import AttentionMap, attention_maps
from attention_lab.tracking.recorded_attention import record_layers
from attention_lab.training.prediction import (
    ClassPredictor,
    ContinuationPredictor,
    Sampling,
    predictor,
)
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence

#: The most weights of all maps of a text.
MAX_WEIGHTS = 2**27
FORCED = "forced: the output is given"
FREE = "free-running"


class CannotMap(ValueError):
    """There are no attention maps of a text. The message is one line, for the user."""


@dataclass(frozen=True)
class InputMaps:
    """The attention maps of a text.

    Args:
        maps: the maps of all layers that have weights.
        output: the predicted or given target, the continuation of a text, or the predicted class;
            "" if a language model generates nothing.
        unknown: the number of tokens that are not in the vocabulary.
    """

    maps: list[AttentionMap]
    output: str
    unknown: int


class _Example(NamedTuple):
    """A text as a batch of one."""

    batch: Any
    #: The names of the positions of each sequence.
    names: dict[str, list[str]]
    note: str
    output: str
    unknown: int


def input_maps(
    task: AttentionTask,
    text: str,
    step: int,
    target: str | None = None,
    length: int | None = None,
) -> InputMaps:
    """The attention maps of a text.

    Sequence to sequence: of the generated target, or of a given one. Maps of generated tokens are
    computed in one forward pass over them, with the same weights as in decoding.

    Args:
        task: the trained task.
        text: the input.
        step: the number of optimizer steps of the weights.
        target: a target to predict; for a language model, what follows the text.
        length: for a language model, the number of tokens to generate after the text by greedy
            decoding; None means none.

    Raises:
        CannotPredict: if the data is not text.
        CannotMap: if no layer has weights, the text is empty, or there would be too many weights.
        TooLarge: if the weights need more memory than there is.
        ValueError: if the text is too long for the network.
    """
    batch, names, note, output, unknown = _example(task, text, target, length)
    layers = record_layers(task, batch)
    maps = attention_maps(task, layers, [names], step, note, max_positions=None)
    if not maps:
        kinds = {type(layer).__name__ for layer in attention_layers(task.model).values()}
        raise CannotMap(f"{' and '.join(sorted(kinds))} has no attention weights")
    return InputMaps([replace(each, example=text) for each in maps], output, unknown)


def _example(task: AttentionTask, text: str, target: str | None, length: int | None) -> _Example:
    predicts = predictor(task, Sampling(length=length, temperature=0))
    vocabulary = predicts.vocabulary
    ids = vocabulary.encode(text if predicts.keeps_edges else text.strip())
    if not ids:
        raise CannotMap("the input is empty")
    _check_size(task, len(ids), 0)
    if isinstance(task, SequenceToSequence):
        return _pair(task, vocabulary, ids, target)
    if isinstance(predicts, ClassPredictor):
        if target is not None:
            raise CannotMap("a classifier has no target")
        batch = LabelledSequences(_row(task, ids), _row(task, [0])[0])
        (output,) = predicts.predict([text])
        names = {"input": _tokens(vocabulary, ids)}
        return _Example(batch, names, "", output, ids.count(UNK))
    assert isinstance(predicts, ContinuationPredictor)
    if length is None:
        return _text(task, vocabulary, vocabulary.encode(text + (target or "")), FORCED)
    _check_size(task, len(ids) + length, 0)
    generated = predicts.generate(ids)
    example = _text(
        task, vocabulary, [*ids, *generated], f"{FREE}: greedy decoding after the input"
    )
    return example._replace(output=predicts.continuation(ids, generated))


def _text(task: AttentionTask, vocabulary: TextVocabulary, ids: list[int], note: str) -> _Example:
    """A text for a language model."""
    _check_size(task, len(ids), 0)
    row = _row(task, ids)
    labels, length = torch.full_like(row, IGNORE), _row(task, [len(ids)])[0]
    names = {"input": _tokens(vocabulary, ids)}
    return _Example(LabelledPositions(row, labels, length), names, note, "", ids.count(UNK))


def _pair(
    task: SequenceToSequence, vocabulary: TextVocabulary, ids: list[int], target: str | None
) -> _Example:
    """A source with its target, and a note that says whether that was given."""
    targets = task.data.target_vocabulary
    given = targets.encode((target or "").strip())
    encoded, note = ([BOS, *given, EOS], FORCED) if target is not None else _generated(task, ids)
    # Not the dataset's position_labels: a network may generate padding.
    predicted = encoded[1:]
    _check_size(task, len(ids), len(predicted))
    batch = SequencePairs(_row(task, ids), _row(task, encoded), _row(task, [0])[0])
    names = {"source": _tokens(vocabulary, ids), "target": _tokens(targets, predicted)}
    return _Example(batch, names, note, targets.decode(predicted), [*ids, *given].count(UNK))


def _generated(task: SequenceToSequence, ids: list[int]) -> tuple[list[int], str]:
    """The generated target of a source, from BOS to EOS, and a note on how it was decoded."""
    (generated,) = task.generate(_row(task, ids))
    # Decoding that was cut off at the greatest length has no end token.
    ends = [EOS] if len(generated) < task.max_length else []
    how = f"beam search with {task.num_beams} beams" if task.num_beams > 1 else "greedy decoding"
    return [BOS, *generated, *ends], f"{FREE}: {how}"


def _row(task: AttentionTask, ids: list[int]) -> Tensor:
    """Token ids as a batch of one, (1, L)."""
    return torch.tensor([ids], device=task.device)


def _tokens(vocabulary: TextVocabulary, ids: list[int]) -> list[str]:
    return [vocabulary.token(id) for id in ids]


def _check_size(task: AttentionTask, source: int, target: int) -> None:
    """Raise CannotMap if there would be too many weights, TooLarge if they do not fit into memory.

    The memory of GPUs is not read.
    """
    lengths = {"input": source, "source": source, "target": target, "both": source + target}
    layers, total, most = attention_layers(task.model), 0, 0
    for name, (rows, columns) in task.model.attention_axes().items():
        weights = layers[name].num_heads * lengths[rows] * lengths[columns]
        total += weights
        most = max(most, weights * _hidden_dim(layers[name]))
    if total > MAX_WEIGHTS:
        raise CannotMap(
            f"the maps of {source:,} positions have {total:,} weights, and a page has at most "
            f"{MAX_WEIGHTS:,}: use a shorter input"
        )
    if task.device.type == "cpu":
        # Two copies of the weights, and the sum and the tanh of the largest hidden layers.
        check_fits(f"the maps of {source:,} positions need at least", 8 * (total + most))


def _hidden_dim(layer: AttentionLayer) -> int:
    """The size of the hidden layers that attention keeps for each pair of positions; 0 if none."""
    score = getattr(layer, "score", None)
    if isinstance(score, Additive) and layer.backend is EAGER:
        return score.vector.shape[1]
    return 0
