"""Summaries of attention: a few numbers for each head, computed from its weights.

Each function takes the weights of one layer, (B, H, L, S), and returns one number for each head,
(H,): the mean over all rows, which are the L queries of all B examples. A row must sum to 1; a row
of zeros (padding, or a query without a visible key) does not count. A number is NaN if no row
counts. :func:`normalized` makes such weights.
"""

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_lab.atomic_write import write_atomically
from attention_lab.tracking.attention_map import position_names
from attention_lab.tracking.recorded_attention import RecordedLayer
from attention_lab.tracking.untrusted_files import open_file

#: For each example, the names of the positions of each sequence.
Labels = list[dict[str, list[str]]]
#: By layer and summary, the numbers of all heads; NaN where a summary does not apply.
LayerSummaries = Mapping[str, Mapping[str, Sequence[float]]]

#: The summaries in the order of the columns of ``summaries.csv``.
SUMMARIES = (
    "entropy",
    "first_token",
    "head_similarity",
    "largest_logit",
    "mean_distance",
    "diagonal",
    "previous_token",
    "induction",
    "monotonicity",
    "alignment_error_rate",
)


def summarize(
    layer: RecordedLayer,
    labels: Labels,
    alignments: Tensor | None = None,
) -> dict[str, Tensor]:
    """The summaries of a layer that apply to it, by name, (H,) each.

    Args:
        layer: the layer.
        labels: for each example, the names of the positions of each sequence.
        alignments: (B, T, S) bool, which source positions each target position is aligned with;
            None if that is unknown.
    """
    queries, keys = layer.axes
    weights = normalized(_without_padding(layer, labels))
    found = {
        "entropy": entropy(weights),
        "first_token": first_token(weights),
        "head_similarity": head_similarity(weights),
    }
    if layer.logits is not None:
        found["largest_logit"] = largest_logit(layer.logits, weights != 0)
    if queries == keys:
        tokens = _token_ids(
            [position_names(example, keys, is_query=False) for example in labels], weights.shape[3]
        )
        found["mean_distance"] = mean_distance(weights)
        found["diagonal"] = diagonal(weights)
        found["previous_token"] = previous_token(weights)
        found["induction"] = induction(weights, tokens)
    if layer.axes == ("target", "source"):
        found["monotonicity"] = monotonicity(weights)
        if alignments is not None:
            found["alignment_error_rate"] = alignment_error_rate(weights, alignments)
    return found


def layer_means(summaries: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each summary over the heads; those that are NaN for all heads are left out."""
    means = {name: float(values.nanmean()) for name, values in summaries.items()}
    return {name: mean for name, mean in means.items() if not isnan(mean)}


def normalized(weights: Tensor) -> Tensor:
    """The share of each key in its row, |a_ij| / Σ_j |a_ij|; rows of zeros stay as they are.

    Weights that are a distribution stay as they are. Others, such as those of sigmoid or
    differential attention, need not sum to 1, or may be negative.
    """
    size = weights.abs()
    return size / size.sum(-1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def entropy(weights: Tensor) -> Tensor:
    """−Σ_j a_ij ln a_ij, in nats, not normalized (Clark et al. 2019, §3.3).

    It is 0 if one key has all weight, and ln n if n keys have the same.
    """
    return _mean_over_rows(torch.special.entr(weights).sum(-1), _has_keys(weights))


def first_token(weights: Tensor) -> Tensor:
    """a_i0, the weight of the first key: high in an attention sink (Xiao et al. 2024, §3.1)."""
    return _mean_over_rows(weights[..., 0], _has_keys(weights))


def mean_distance(weights: Tensor) -> Tensor:
    """Σ_j a_ij |i − j|, in positions (Vig & Belinkov 2019, "attention distance").

    The paper weighs each row by its sum over the keys, which is 1 here. Queries and keys must be
    the same sequence.
    """
    places = torch.arange(max(weights.shape[2:]))
    distance = (places[: weights.shape[2], None] - places[: weights.shape[3]]).abs()
    return _mean_over_rows((weights * distance).sum(-1), _has_keys(weights))


def diagonal(weights: Tensor) -> Tensor:
    """a_ii, the weight of a query's own position (Clark et al. 2019, §3.1)."""
    own = weights.diagonal(dim1=2, dim2=3)
    return _mean_over_rows(own, _has_keys(weights)[..., : own.shape[-1]])


def previous_token(weights: Tensor) -> Tensor:
    """a_i,i−1, the weight of the position before the query's, from the second row on.

    Clark et al. 2019, §3.1.
    """
    before = weights.diagonal(-1, dim1=2, dim2=3)
    return _mean_over_rows(before, _has_keys(weights)[..., 1 : 1 + before.shape[-1]])


def induction(weights: Tensor, tokens: Tensor) -> Tensor:
    """Σ a_ij over the positions j ≤ i that follow an earlier occurrence of token i.

    This is the prefix matching score of Olsson et al. 2022 ("In-context learning and induction
    heads"), on the given tokens instead of repeated random ones. Only rows whose token occurred
    before count.

    Args:
        weights: (B, H, L, L).
        tokens: (B, L), the ids of the tokens; those of padding do not matter.
    """
    follows = torch.zeros(len(tokens), *weights.shape[2:], dtype=torch.bool)
    follows[..., 1:] = tokens.unsqueeze(2) == tokens[:, None, :-1]
    follows = follows.tril().unsqueeze(1)  # the token before j is at j − 1 < i
    mass = (weights * follows).sum(-1)
    return _mean_over_rows(mass, _has_keys(weights) & follows.any(-1))


def head_similarity(weights: Tensor) -> Tensor:
    """The mean cosine between a head's rows and those of each other head; NaN with one head.

    1 means that all heads attend alike. Cosine is one of the measures of Bian et al. 2021 ("On
    attention redundancy").
    """
    heads = weights.transpose(0, 1).flatten(1, 2)  # (H, rows, S)
    rows = torch.nn.functional.normalize(heads, dim=-1).flatten(1)
    counted = (heads.sum(-1) > 0).to(rows.dtype)
    cosines = (rows @ rows.T) / (counted @ counted.T)
    others = ~torch.eye(len(cosines), dtype=torch.bool)
    return (cosines * others).sum(1) / others.sum(1)


def largest_logit(logits: Tensor, visible: Tensor) -> Tensor:
    """max_ij z_ij, the largest logit of a visible key (Dehghani et al. 2023).

    Logits are those of the score, before position biases and head mixing. They grow without bound
    when training becomes unstable.

    Args:
        logits: (B, H, L, S).
        visible: (B, H, L, S) bool, True where a key has weight.
    """
    largest = logits.masked_fill(~visible, -torch.inf).amax((0, 2, 3))
    return largest.masked_fill(largest == -torch.inf, torch.nan)


def monotonicity(weights: Tensor) -> Tensor:
    """The share of steps i → i + 1 at which argmax_j a_ij does not decrease.

    1 means that attention never moves backwards, as in the monotonic alignments of Raffel et al.
    2017.
    """
    top, counted = weights.argmax(-1), _has_keys(weights)
    steps = counted[..., 1:] & counted[..., :-1]
    return _mean_over_rows((top[..., 1:] >= top[..., :-1]).to(weights.dtype), steps)


def alignment_error_rate(weights: Tensor, alignments: Tensor) -> Tensor:
    """1 − 2 |A ∩ G| / (|A| + |G|) (Och & Ney 2003, alignment error rate).

    A links each row to its key of largest weight (Luong et al. 2015, §5.4). G are the gold links,
    all of them sure. Rows without a gold link do not count.

    Args:
        weights: (B, H, L, S).
        alignments: the gold links, (B, L' ≤ L, S) bool.
    """
    gold = alignments.unsqueeze(1)
    weights = weights[:, :, : gold.shape[2]]
    counted = _has_keys(weights) & gold.any(-1)
    top = weights.argmax(-1, keepdim=True)
    right = gold.expand_as(weights).gather(-1, top).squeeze(-1) & counted
    links = counted.sum((0, 2)) + (gold.sum(-1) * counted).sum((0, 2))
    return 1 - 2 * right.sum((0, 2)) / links


def _has_keys(weights: Tensor) -> Tensor:
    """Which rows have weight, (B, H, L) bool."""
    return weights.any(-1)


def _mean_over_rows(values: Tensor, counted: Tensor) -> Tensor:
    """The mean, (H,), of values (B, H, L) over the rows that count; NaN if there is none."""
    return (values * counted).sum((0, 2)) / counted.sum((0, 2))


def _without_padding(layer: RecordedLayer, labels: Labels) -> Tensor:
    """The weights of a layer, with zeros at the queries and the keys that are padding."""
    weights, (queries, keys) = layer.weights, layer.axes
    rows = _positions(labels, queries, weights.shape[2])
    columns = _positions(labels, keys, weights.shape[3])
    return weights * (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _positions(labels: Labels, sequence: str, width: int) -> Tensor:
    """Which positions of a sequence are not padding, (B, width) bool."""
    lengths = torch.tensor(
        [len(position_names(example, sequence, is_query=False)) for example in labels]
    )
    return torch.arange(width) < lengths.unsqueeze(1)


def _token_ids(names: Sequence[Sequence[str]], width: int) -> Tensor:
    """Ids of tokens, the same for the same names, (B, width) int64."""
    known: dict[str, int] = {}
    ids = torch.zeros(len(names), width, dtype=torch.int64)
    for row, example in zip(ids, names, strict=True):
        numbers = [known.setdefault(name, len(known)) for name in example]
        row[: len(numbers)] = torch.tensor(numbers)
    return ids


def append_rows(path: Path, step: int, layers: LayerSummaries) -> None:
    """Append a row for each layer and head to ``summaries.csv``; a new file gets a header."""
    rows = [
        {"step": step, "layer": name, "head": head}
        | {key: f"{value:.6g}" for key, value in values.items() if not isnan(value)}
        for name, summaries in layers.items()
        for head, values in enumerate(_by_head(summaries))
    ]
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(_lines(rows, header=file.tell() == 0))


def keep_rows(path: Path, steps: Collection[int]) -> Mapping[int, LayerSummaries]:
    """Remove the rows of other steps from ``summaries.csv``.

    Returns:
        The summaries that stay, by step; none if there is no such file.
    """
    if not path.exists():
        return {}
    with io.TextIOWrapper(open_file(path), "utf-8", newline="") as file:
        kept = [row for row in csv.DictReader(file) if row["step"] in set(map(str, steps))]
    write_atomically(path, _lines(kept, header=True))
    found: dict[int, dict[str, dict[str, list[float]]]] = {}
    for row in kept:
        layer = found.setdefault(int(row["step"]), {}).setdefault(row["layer"], {})
        for name in SUMMARIES:
            layer.setdefault(name, []).append(_number(row[name]))
    return found


def _number(cell: str | None) -> float:
    """The number in a cell; NaN if it is empty or damaged."""
    try:
        return float(cell or "nan")
    except ValueError:
        return nan


def _by_head(summaries: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    heads = zip(*summaries.values(), strict=True)
    return (dict(zip(summaries, head, strict=True)) for head in heads)


def _lines(rows: Sequence[Mapping[str, Any]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ("step", "layer", "head", *SUMMARIES), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
