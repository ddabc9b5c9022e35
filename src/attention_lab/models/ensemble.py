"""An ensemble: several networks whose predicted probabilities are averaged."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from attention_lab.attention.precision import wide
from attention_lab.models.base import Caches, Network


class Ensemble(Network):
    """Several networks of one task as one network, which averages their probabilities.

        log p(y) = logsumexp_m log p_m(y) - log M

    This is a uniform mixture of the M networks (Lakshminarayanan et al. 2017, §2.4). In decoding,
    the distributions of the next token are averaged at each step, as in fairseq's
    ``EnsembleModel``; Sutskever et al. 2014, §3.6, decode with ensembles. ``forward`` and
    ``next_logits`` return log-probabilities, where those of a single network return logits.

    Args:
        networks: the networks, with the same tokens or classes.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        # Any: each task calls other methods.
        self.networks: Any = nn.ModuleList(networks)
        #: Maps the ``hidden_states`` of language models, which are log-probabilities already.
        self.lm_head = nn.Identity()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Log-probabilities of the shape of the networks' logits, for their inputs."""
        return _log_mean(network(*inputs) for network in self.networks)

    def hidden_states(self, tokens: Tensor, **options: Tensor) -> Tensor:
        """Log-probabilities (B, L, V) of the next token at each position of tokens (B, L)."""
        return _log_mean(
            network.lm_head(network.hidden_states(tokens, **options)) for network in self.networks
        )

    def prefill(self, source: Tensor) -> Caches:
        """The caches of all networks for source tokens (B, S)."""
        return _joined(network.prefill(source) for network in self.networks)

    def next_logits(self, tokens: Tensor, caches: Caches) -> Tensor:
        """Log-probabilities (B, V) of the next token; appends the tokens (B, n) to the caches."""
        own = [_caches_of(number, caches) for number in range(len(self.networks))]
        log_p = _log_mean(
            network.next_logits(tokens, each)
            for network, each in zip(self.networks, own, strict=True)
        )
        caches.update(_joined(own))  # language models make their caches at the first step
        return log_p

    def attention_axes(self) -> dict[str, tuple[str, str]]:
        return {
            f"networks.{number}.{name}": axes
            for number, network in enumerate(self.networks)
            for name, axes in network.attention_axes().items()
        }


def _log_mean(logits: Iterable[Tensor]) -> Tensor:
    """The logarithm of the mean of the probabilities (…, V) that the logits of networks give."""
    log_p = [wide(each).log_softmax(-1) for each in logits]
    return functools.reduce(torch.logaddexp, log_p) - math.log(len(log_p))


def _joined(caches: Iterable[Caches]) -> Caches:
    """The caches of all networks, by the network's number and the cache's name."""
    return {
        f"{number}.{name}": cache
        for number, own in enumerate(caches)
        for name, cache in own.items()
    }


def _caches_of(number: int, caches: Caches) -> Caches:
    """The caches of one network, by name."""
    prefix = f"{number}."
    return {k.removeprefix(prefix): cache for k, cache in caches.items() if k.startswith(prefix)}
