"""Decoding: greedy search, beam search and sampling."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attention_lab.argument_checks import check_positive
from attention_lab.attention import attention_layers
from attention_lab.attention.precision import wide
from attention_lab.models.base import Caches, LanguageNetwork, SequenceToSequenceNetwork
from attention_lab.models.embedding import LearnedPositions


@torch.no_grad()
def greedy_search(
    network: SequenceToSequenceNetwork, source: Tensor, begin: int, end: int, max_length: int
) -> Tensor:
    """Decode the most probable token at each step.

    Args:
        network: the network.
        source: (B, S) token ids.
        begin: the id of BOS.
        end: the id of EOS.
        max_length: greatest number of tokens, EOS included.

    Returns:
        Token ids (B, T ≤ max_length) without BOS; ids after EOS are arbitrary.
    """
    caches = network.prefill(source)
    tokens = source.new_full((len(source), 1), begin)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    decoded = []
    for _ in range(max_length):
        tokens = network.next_logits(tokens, caches).argmax(-1, keepdim=True)
        decoded.append(tokens)
        ended |= tokens == end
        if ended.all():
            break
    return torch.cat(decoded, dim=1)


class NBest(NamedTuple):
    """The n best hypotheses of each example, the best first."""

    #: Token ids (B, n, T) without BOS; ids after EOS are arbitrary.
    tokens: Tensor
    #: (B, n), those of :func:`beam_search`; -inf if there are fewer hypotheses.
    scores: Tensor


def beam_search(
    network: SequenceToSequenceNetwork,
    source: Tensor,
    begin: int,
    end: int,
    max_length: int,
    num_beams: int,
    length_penalty: float = 0.6,
) -> Tensor:
    """Decode several hypotheses in parallel, and return the best finished one.

    At each step the most probable continuations of all hypotheses are kept. A finished hypothesis
    leaves the beam, which shrinks by one (Sutskever et al. 2014, §3.2), so one beam is greedy
    search. The score of a finished hypothesis is

        log p / ((5 + length) / 6)^α

    (Wu et al. 2016, eq. 14, without coverage), where the length includes EOS. The search of an
    example ends when no active hypothesis can reach a better score:
    log p / ((5 + max_length) / 6)^α of the most probable one is not above the best score. If none
    finishes within ``max_length``, the most probable hypothesis is returned.

    Args:
        network: the network.
        source: (B, S) token ids.
        begin: the id of BOS.
        end: the id of EOS.
        max_length: greatest number of tokens, EOS included.
        num_beams: number of hypotheses.
        length_penalty: α, at least 0; larger values favor longer outputs.

    Returns:
        Token ids (B, T ≤ max_length) without BOS; ids after EOS are arbitrary.

    Raises:
        ValueError: if a value is out of range.
    """
    best = n_best_search(network, source, begin, end, max_length, num_beams, 1, length_penalty)
    return best.tokens[:, 0]


@torch.no_grad()
def n_best_search(
    network: SequenceToSequenceNetwork,
    source: Tensor,
    begin: int,
    end: int,
    max_length: int,
    num_beams: int,
    n_best: int,
    length_penalty: float = 0.6,
) -> NBest:
    """Like :func:`beam_search`, but return the n best hypotheses, at most ``num_beams``.

    The search of an example ends when no active hypothesis can reach a better score than the n-th.
    Finished hypotheses come before those that did not finish within ``max_length``.

    Raises:
        ValueError: if a value is out of range.
    """
    check_positive(max_length=max_length, num_beams=num_beams, n_best=n_best)
    if n_best > num_beams:
        raise ValueError(f"n_best must be at most num_beams, got {n_best} of {num_beams}")
    if length_penalty < 0:
        raise ValueError(f"length_penalty must be at least 0, got {length_penalty}")
    caches = network.prefill(source)
    search = _Beams(source, begin, end, num_beams, n_best)
    for length in range(1, max_length + 1):
        logits = network.next_logits(search.last, caches)
        rows = search.step(logits, ((5 + length) / 6) ** length_penalty)
        if search.done(((5 + max_length) / 6) ** length_penalty):
            break
        for cache in caches.values():
            cache.select(rows)
    return search.best(((5 + max_length) / 6) ** length_penalty)


class _Beams:
    """The hypotheses of a batch: for each example, K active ones and the n best finished ones.

    Args:
        source: (B, S), of the examples.
        begin: the id of BOS.
        end: the id of EOS.
        num_beams: number of hypotheses of each example.
        n_best: number of finished hypotheses to keep.
    """

    def __init__(self, source: Tensor, begin: int, end: int, num_beams: int, n_best: int) -> None:
        examples = len(source)
        self.end = end
        self.active = source.new_full((examples, 1, 1), begin)  # (B, K, 1 + length)
        self.log_p = torch.zeros((examples, 1), device=source.device)  # (B, K), -inf if finished
        self.free = source.new_full((examples, 1), num_beams)  # number of unfinished hypotheses
        self.finished = source.new_full((examples, n_best, 1), end)  # (B, n, length)
        self.score = self.log_p.new_full((examples, n_best), -torch.inf)  # (B, n), descending

    @property
    def last(self) -> Tensor:
        """The last token of each active hypothesis, (B · K, 1)."""
        return self.active[..., -1].flatten().unsqueeze(1)

    def step(self, logits: Tensor, penalty: float) -> Tensor:
        """Extend the hypotheses by their most probable continuations.

        Args:
            logits: (B · K, V), of the next tokens.
            penalty: divisor of the log-probability of hypotheses that finish in this step.

        Returns:
            The rows that the new hypotheses continue, (B · new K,) int64.
        """
        examples, kept, length = self.active.shape
        log_p = wide(logits).log_softmax(-1).unflatten(0, (examples, kept))
        log_p = log_p + self.log_p.unsqueeze(-1)
        vocab_size, most = log_p.shape[-1], int(self.free.amax())
        log_p, chosen = log_p.flatten(1).topk(min(most, kept * vocab_size), dim=1)
        parents, tokens = chosen // vocab_size, (chosen % vocab_size).unsqueeze(-1)
        prefixes = self.active.gather(1, parents.unsqueeze(-1).expand(-1, -1, length))
        self.active = torch.cat([prefixes, tokens], dim=-1)
        rank = torch.arange(log_p.shape[1], device=log_p.device)
        log_p = log_p.masked_fill(rank >= self.free, -torch.inf)
        ends = (tokens.squeeze(-1) == self.end) & (log_p > -torch.inf)
        self._keep_best(log_p.masked_fill(~ends, -torch.inf) / penalty)
        self.log_p = log_p.masked_fill(ends, -torch.inf)
        self.free = self.free - ends.sum(1, keepdim=True)
        first = torch.arange(examples, device=log_p.device).unsqueeze(1) * kept
        return (first + parents).flatten()

    def done(self, penalty: float) -> bool:
        """Whether no active hypothesis can reach the n best scores, given the least penalty."""
        hopeless = self.log_p.amax(1, keepdim=True) / penalty <= self.score[:, -1:]
        self.log_p = self.log_p.masked_fill(hopeless, -torch.inf)
        return bool(hopeless.all())

    def best(self, penalty: float) -> NBest:
        """The n best hypotheses of each example: finished ones, then the most probable others.

        Args:
            penalty: divisor of the log-probability of hypotheses that have not finished.
        """
        log_p, order = self.log_p.sort(dim=1, descending=True, stable=True)
        tokens = torch.cat([self.finished, _hypotheses(self.active[..., 1:], order)], 1)
        scores = torch.cat([self.score, log_p / penalty], 1)
        chosen = scores.isneginf().to(torch.int8).argsort(dim=1, stable=True)
        chosen = chosen[:, : self.score.shape[1]]
        return NBest(_hypotheses(tokens, chosen), scores.gather(1, chosen))

    def _keep_best(self, scores: Tensor) -> None:
        """Update the best finished hypotheses; scores are (B, K), -inf for unfinished ones."""
        padded = torch.cat([self.finished, self.finished[..., -1:]], -1)
        padded = padded[..., : self.active.shape[2] - 1]
        tokens = torch.cat([padded, self.active[..., 1:]], 1)
        scores, order = torch.cat([self.score, scores], 1).sort(dim=1, descending=True, stable=True)
        n_best = self.score.shape[1]
        self.finished, self.score = _hypotheses(tokens, order[:, :n_best]), scores[:, :n_best]


def _hypotheses(tokens: Tensor, which: Tensor) -> Tensor:
    """Some hypotheses (B, n, length) of each example, from all (B, K, length), by index (B, n)."""
    return tokens.gather(1, which.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def available_positions(network: LanguageNetwork, wanted: int) -> int:
    """The number of positions the network supports, at most ``wanted``."""

    def is_too_long(length: int) -> bool:
        try:
            for module in network.modules():
                if isinstance(module, LearnedPositions):
                    module.check_length(length)
            for layer in attention_layers(network).values():
                layer.check_lengths(length, length)
        except ValueError:
            return True
        return False

    return bisect_left(range(1, wanted + 1), True, key=is_too_long)


@torch.no_grad()
def sample(
    network: LanguageNetwork,
    prompt: Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    suppress_tokens: Sequence[int] = (),
) -> Tensor:
    """Continue prompts with sampled tokens.

    Args:
        network: the language model.
        prompt: (B, n ≥ 1) token ids, without padding.
        length: number of tokens to sample.
        temperature: divisor of the logits; 0 takes the most probable token.
        top_k: sample from the k most probable tokens (Fan et al. 2018, §5.3); None means all.
        top_p: sample from the fewest most probable tokens whose probabilities sum to at least p,
            after ``top_k`` (Holtzman et al. 2020, §3.1); None means all.
        generator: of random numbers, on the prompt's device; None means torch's default.
        suppress_tokens: ids that are not sampled.

    Returns:
        The tokens that follow the prompt, (B, length).

    Raises:
        ValueError: if a value is out of range, or the network has too few positions.
    """
    _check_sampling(prompt, length, temperature, top_k, top_p)
    caches: Caches = {}
    tokens, sampled = prompt, []
    for _ in range(length):
        logits = _suppress(suppress_tokens, network.next_logits(tokens, caches))
        if temperature == 0:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            probabilities = _probabilities(logits, temperature, top_k, top_p)
            tokens = torch.multinomial(probabilities, 1, generator=generator)
        sampled.append(tokens)
    return torch.cat(sampled, dim=1)


def _suppress(suppress_tokens: Sequence[int], logits: Tensor) -> Tensor:
    """Logits (B, V) with those of some tokens set to -inf."""
    vocab_size = logits.shape[-1]
    is_known = all(0 <= token < vocab_size for token in suppress_tokens)
    if len(set(suppress_tokens)) == vocab_size or not is_known:
        raise ValueError(
            f"suppress_tokens must be ids below {vocab_size}, and not all of them; got "
            f"{suppress_tokens}"
        )
    ids = torch.tensor(suppress_tokens, dtype=torch.int64, device=logits.device)
    return logits.index_fill(-1, ids, -torch.inf)


def _probabilities(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """The distribution (B, V) of :func:`sample` for logits (B, V)."""
    # Lower temperatures have the same result, but overflow.
    scaled = wide(logits) / max(temperature, 1e-30)
    ordered, order = scaled.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    probabilities = ordered.softmax(-1)
    if top_p is not None:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= top_p, 0.0)
    probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return torch.zeros_like(probabilities).scatter(-1, order, probabilities)


def _check_sampling(
    prompt: Tensor, length: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    check_positive(length=length)
    if prompt.shape[1] == 0:
        raise ValueError("the prompt is empty; give at least one token")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None:
        check_positive(top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
