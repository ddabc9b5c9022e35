"""chrF: the F-score of character n-grams (Popović 2015)."""

from collections import Counter

import torch
from torch import Tensor

#: The greatest length of n-grams, and the weight of recall relative to precision.
CHRF_ORDER, CHRF_BETA = 6, 2


def matching_ngrams(text: str, reference: str) -> Tensor:
    """Count the character n-grams of a text and a reference, without spaces.

    Returns:
        (3, ``CHRF_ORDER``) int64: the n-grams in both, in ``text``, and in ``reference``.
    """
    one, other = ("".join(each.split()) for each in (text, reference))
    counts = []
    for order in range(1, CHRF_ORDER + 1):
        predicted, wanted = (
            Counter(each[i : i + order] for i in range(len(each) - order + 1))
            for each in (one, other)
        )
        counts.append(((predicted & wanted).total(), predicted.total(), wanted.total()))
    return torch.tensor(counts).T


def chrf(ngrams: Tensor) -> float:
    """The F-score of n-gram counts (3, orders) from :func:`matching_ngrams`.

    Precision and recall are means over the orders for which the reference is long enough.
    (torchmetrics skips references whose prediction is empty, so an empty prediction can improve its
    score.)
    """
    matching, predicted, wanted = ngrams[:, ngrams[2] > 0].double()
    if not matching.any():
        return 0.0
    precision, recall = (matching / predicted.clamp(min=1)).mean(), (matching / wanted).mean()
    beta = CHRF_BETA**2
    return float((1 + beta) * precision * recall / (beta * precision + recall))
