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
from attention_lab.data.core.vocabulary import BOS, EOS, UNK
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
    text = text if predicts.keeps_edges else text.strip()
    ids = predicts.vocabulary.encode(text)
    if not ids:
        raise CannotMap("the input is empty")
    _check_size(task, len(ids), 0)
    source, output, note = torch.tensor([ids], device=task.device), "", FORCED
    if isinstance(task, SequenceToSequence):
        if target is not None:
            ids = ids + task.data.target_vocabulary.encode(target)
        generated, note = _target(task, source, target)
        batch: Any = SequencePairs(source, generated, source.new_zeros(1))
        output = task.data.target_vocabulary.decode(generated[0].tolist())
        _check_size(task, source.shape[1], generated.shape[1])
    elif isinstance(predicts, ClassPredictor):
        if target is not None:
            raise CannotMap("a classifier has no target")
        batch = LabelledSequences(source, source.new_zeros(1))
        (output,) = predicts.predict([text])
    else:
        ids = predicts.vocabulary.encode(text + (target or ""))
        source = source.new_tensor([ids])
        labels = source.new_full(source.shape, IGNORE)
        batch = LabelledPositions(source, labels, source.new_tensor([len(ids)]))
        _check_size(task, len(ids), 0)
    names = task.data.position_labels(batch)
    maps = attention_maps(task, batch, names, step, note, max_positions=None)
    if not maps:
        kinds = {type(layer).__name__ for layer in attention_layers(task.model).values()}
        raise CannotMap(f"{' and '.join(sorted(kinds))} has no attention weights")
    return InputMaps([replace(each, example=text) for each in maps], output, ids.count(UNK))


def _target(task: SequenceToSequence, source: Tensor, target: str | None) -> tuple[Tensor, str]:
    """The target (1, T) from BOS to EOS, and a note that says whether it was given."""
    if target is not None:
        ids = [*task.data.target_vocabulary.encode(target.strip()), EOS]
        return source.new_tensor([[BOS, *ids]]), FORCED
    (generated,) = task.generate(source)
    # Decoding that was cut off at the greatest length has no end token.
    ends = [EOS] if len(generated) < task.max_length else []
    how = f"beam search with {task.num_beams} beams" if task.num_beams > 1 else "greedy decoding"
    return source.new_tensor([[BOS, *generated, *ends]]), f"free-running: {how}"


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
