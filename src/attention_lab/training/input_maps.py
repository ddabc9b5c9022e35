"""Attention maps of a text that the user gives, with a trained network."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attention_lab.attention import attention_layers
from attention_lab.data.core.batches import (
    IGNORE,
    LabelledPositions,
    LabelledSequences,
    SequencePairs,
)
from attention_lab.data.core.vocabulary import BOS, EOS, UNK, TextVocabulary
from attention_lab.tracking.attention_map import AttentionMap, attention_maps
from attention_lab.training.prediction import ClassPredictor, Sampling, predictor
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence

#: The most weights of all maps of a text.
MAX_WEIGHTS = 2**27
FORCED = "forced: the output is given"


class CannotMap(ValueError):
    """There are no attention maps of a text. The message is one line, for the user."""


@dataclass(frozen=True)
class InputMaps:
    """The attention maps of a text.

    Args:
        maps: the maps of all layers that have weights.
        output: the predicted or given target, or the predicted class; "" for a language model.
        unknown: the number of tokens that are not in the vocabulary.
    """

    maps: list[AttentionMap]
    output: str
    unknown: int


def input_maps(task: AttentionTask, text: str, step: int, target: str | None = None) -> InputMaps:
    """The attention maps of a text.

    Sequence to sequence: of the generated target, or of a given one. Maps of a generated target are
    computed in one forward pass over it, with the same weights as in decoding.

    Args:
        task: the trained task.
        text: the input.
        step: the number of optimizer steps of the weights.
        target: a target to predict; for a language model, what follows the text.

    Raises:
        CannotPredict: if the data is not text.
        CannotMap: if no layer has weights, the text is empty, or there would be too many weights.
        ValueError: if the text is too long for the network.
    """
    predicts = predictor(task, Sampling())
    vocabulary = predicts.vocabulary
    ids = vocabulary.encode(text if predicts.keeps_edges else text.strip())
    if not ids:
        raise CannotMap("the input is empty")
    _check_size(task, len(ids), 0)
    batch: Any
    given = [*ids]
    if isinstance(task, SequenceToSequence):
        targets = task.data.target_vocabulary
        given += targets.encode(target or "")
        batch, note = _pair(task, ids, target)
        # Not the dataset's position_labels: a network may generate padding.
        predicted = batch.target[0, 1:].tolist()
        names = {"source": _tokens(vocabulary, ids), "target": _tokens(targets, predicted)}
        output = targets.decode(predicted)
        _check_size(task, len(ids), len(predicted))
    elif isinstance(predicts, ClassPredictor):
        if target is not None:
            raise CannotMap("a classifier has no target")
        batch, note = LabelledSequences(_row(task, ids), _row(task, [0])[0]), ""
        names = {"input": _tokens(vocabulary, ids)}
        (output,) = predicts.predict([text])
    else:
        given = vocabulary.encode(text + (target or ""))
        _check_size(task, len(given), 0)
        row = _row(task, given)
        labels, length = torch.full_like(row, IGNORE), _row(task, [len(given)])[0]
        batch, note, output = LabelledPositions(row, labels, length), FORCED, ""
        names = {"input": _tokens(vocabulary, given)}
    maps = attention_maps(task, batch, [names], step, note, max_positions=None)
    if not maps:
        kinds = {type(layer).__name__ for layer in attention_layers(task.model).values()}
        raise CannotMap(f"{' and '.join(sorted(kinds))} has no attention weights")
    return InputMaps([replace(each, example=text) for each in maps], output, given.count(UNK))


def _row(task: AttentionTask, ids: list[int]) -> Tensor:
    """Token ids as a batch of one, (1, L)."""
    return torch.tensor([ids], device=task.device)


def _tokens(vocabulary: TextVocabulary, ids: list[int]) -> list[str]:
    return [vocabulary.token(id) for id in ids]


def _pair(
    task: SequenceToSequence, ids: list[int], target: str | None
) -> tuple[SequencePairs, str]:
    """A source with its target from BOS to EOS, and a note that says whether that was given."""
    source, index = _row(task, ids), _row(task, [0])[0]
    if target is not None:
        encoded = [BOS, *task.data.target_vocabulary.encode(target.strip()), EOS]
        return SequencePairs(source, _row(task, encoded), index), FORCED
    (generated,) = task.generate(source)
    # Decoding that was cut off at the greatest length has no end token.
    ends = [EOS] if len(generated) < task.max_length else []
    how = f"beam search with {task.num_beams} beams" if task.num_beams > 1 else "greedy decoding"
    pair = SequencePairs(source, _row(task, [BOS, *generated, *ends]), index)
    return pair, f"free-running: {how}"


def _check_size(task: AttentionTask, source: int, target: int) -> None:
    """Raise CannotMap if there would be too many weights."""
    lengths = {"input": source, "source": source, "target": target, "both": source + target}
    layers, total = attention_layers(task.model), 0
    for name, (rows, columns) in task.model.attention_axes().items():
        total += layers[name].num_heads * lengths[rows] * lengths[columns]
    if total > MAX_WEIGHTS:
        raise CannotMap(
            f"the maps of {source:,} positions have {total:,} weights, and a page has at most "
            f"{MAX_WEIGHTS:,}: use a shorter input"
        )
