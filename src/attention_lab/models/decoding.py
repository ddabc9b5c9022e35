"""Writing sequences with a network that says, step by step, what may come next."""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from attention_lab.attention import attention_layers
from attention_lab.attention.precision import wide
from attention_lab.attention.validation import check_positive
from attention_lab.models.embedding import LearnedPositions
from attention_lab.models.protocol import LanguageNetwork, Past, SequenceToSequenceNetwork


@torch.no_grad()
def greedy(
    network: SequenceToSequenceNetwork, source: Tensor, begin: int, end: int, max_length: int
) -> Tensor:
    """Write the most probable next token, again and again.

    Args:
        network: reads and writes.
        source: (B, S) token ids.
        begin: the token that every target begins with.
        end: the token that ends a target.
        max_length: give up after so many tokens.

    Returns:
        Token ids (B, T ≤ max_length) without ``begin``; whatever follows ``end`` is arbitrary.
    """
    past = network.read(source)
    tokens = source.new_full((len(source), 1), begin)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    written = []
    for _ in range(max_length):
        tokens = network.next(tokens, past).argmax(-1, keepdim=True)
        written.append(tokens)
        ended |= tokens == end
        if ended.all():
            break
    return torch.cat(written, dim=1)


@torch.no_grad()
def beam_search(
    network: SequenceToSequenceNetwork,
    source: Tensor,
    begin: int,
    end: int,
    max_length: int,
    beams: int,
    length_penalty: float = 0.6,
) -> Tensor:
    """Write several hypotheses side by side, and give back the best that ended.

    At each step the most probable continuations of all hypotheses go on. One that ends is put
    aside (Sutskever et al. 2014, §3.2), and leaves the beam narrower by one: so a beam of 1 is
    greedy. Those that ended are compared by

        log p / ((5 + length) / 6)^α

    (Wu et al. 2016, eq. 14, without coverage), where the length counts ``end``. An example is done
    once none that goes on can do better: log p / ((5 + max_length) / 6)^α of the most probable is
    not above the best score. If none ends within ``max_length``, the most probable is the answer.

    Args:
        network: reads and writes.
        source: (B, S) token ids.
        begin: the token that every target begins with.
        end: the token that ends a target.
        max_length: give up after so many tokens.
        beams: number of hypotheses.
        length_penalty: α, from 0; the larger, the longer what is written.

    Returns:
        Token ids (B, T ≤ max_length) without ``begin``; whatever follows ``end`` is arbitrary.

    Raises:
        ValueError: if a value is out of range.
    """
    check_positive(max_length=max_length, beams=beams)
    if length_penalty < 0:
        raise ValueError(f"length_penalty must be at least 0, got {length_penalty}")
    past = network.read(source)
    search = _Beams(source, begin, end, beams)
    for length in range(1, max_length + 1):
        rows = search.step(network.next(search.last, past), ((5 + length) / 6) ** length_penalty)
        if search.done(((5 + max_length) / 6) ** length_penalty):
            break
        for cache in past.values():
            cache.select(rows)
    return search.best()


class _Beams:
    """The hypotheses of all examples: K that go on, and the best of those that ended, of each.

    Args:
        source: (B, S), of the examples.
        begin: the token that a hypothesis begins with.
        end: the token that ends one.
        beams: the greatest number of hypotheses of an example.
    """

    def __init__(self, source: Tensor, begin: int, end: int, beams: int) -> None:
        examples = len(source)
        self.end = end
        self.written = source.new_full((examples, 1, 1), begin)  # (B, K, begin and length)
        self.log_p = torch.zeros((examples, 1), device=source.device)  # (B, K), -inf if it ended
        self.free = source.new_full((examples, 1), beams)  # how many have not ended
        self.ended = source.new_full((examples, 1), end)  # (B, length), the best that ended
        self.score = torch.full_like(self.log_p, -torch.inf)  # (B, 1), its score

    @property
    def last(self) -> Tensor:
        """What was written last, (B · K, 1)."""
        return self.written[..., -1].flatten().unsqueeze(1)

    def step(self, logits: Tensor, penalty: float) -> Tensor:
        """Go on with the best continuations.

        Args:
            logits: (B · K, V), of what comes next.
            penalty: what the log-probability of those that end now is divided by.

        Returns:
            The rows that the hypotheses continue, (B · new K,) int64.
        """
        examples, kept, _ = self.written.shape
        log_p = wide(logits).log_softmax(-1).unflatten(0, (examples, kept))
        log_p = log_p + self.log_p.unsqueeze(-1)
        vocabulary, beams = log_p.shape[-1], int(self.free.amax())
        log_p, chosen = log_p.flatten(1).topk(min(beams, kept * vocabulary), dim=1)
        parents, tokens = chosen // vocabulary, (chosen % vocabulary).unsqueeze(-1)
        before = self.written.gather(1, parents.unsqueeze(-1).expand(-1, -1, self.written.shape[2]))
        self.written = torch.cat([before, tokens], dim=-1)
        rank = torch.arange(log_p.shape[1], device=log_p.device)
        log_p = log_p.masked_fill(rank >= self.free, -torch.inf)
        ends = (tokens.squeeze(-1) == self.end) & (log_p > -torch.inf)
        self._keep_best(log_p.masked_fill(~ends, -torch.inf) / penalty)
        self.log_p = log_p.masked_fill(ends, -torch.inf)
        self.free = self.free - ends.sum(1, keepdim=True)
        first = torch.arange(examples, device=log_p.device).unsqueeze(1) * kept
        return (first + parents).flatten()

    def done(self, penalty: float) -> bool:
        """Whether no hypothesis that goes on can beat what ended, with this penalty at best."""
        hopeless = self.log_p.amax(1, keepdim=True) / penalty <= self.score
        self.log_p = self.log_p.masked_fill(hopeless, -torch.inf)
        return bool(hopeless.all())

    def best(self) -> Tensor:
        """The best that ended of each example, or else the most probable, (B, length)."""
        unended = self._written(self.log_p.argmax(1, keepdim=True))
        return torch.where(self.score > -torch.inf, self.ended, unended)

    def _keep_best(self, scores: Tensor) -> None:
        """Take those that end now, with scores (B, K), into account; -inf for the others."""
        score, which = scores.max(1, keepdim=True)
        longer = torch.cat([self.ended, self.ended[:, -1:]], 1)[:, : self.written.shape[2] - 1]
        self.ended = torch.where(score > self.score, self._written(which), longer)
        self.score = torch.maximum(score, self.score)

    def _written(self, which: Tensor) -> Tensor:
        """One hypothesis of each example, (B, length), of those with numbers (B, 1)."""
        return self.written[torch.arange(len(which), device=which.device), which.squeeze(1), 1:]


def room(network: LanguageNetwork, wanted: int) -> int:
    """How many of the positions wanted a network has: all, unless it knows an end before."""

    def ends_before(length: int) -> bool:
        try:
            for module in network.modules():
                if isinstance(module, LearnedPositions):
                    module.check_length(length)
            for layer in attention_layers(network).values():
                layer.check_lengths(length, length)
        except ValueError:
            return True
        return False

    return bisect_left(range(1, wanted + 1), True, key=ends_before)


@torch.no_grad()
def sample(
    network: LanguageNetwork,
    prompt: Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    never: Sequence[int] = (),
) -> Tensor:
    """Draw the next token, again and again.

    Args:
        network: says what comes next.
        prompt: (B, n ≥ 1) token ids, without padding.
        length: how many tokens to write.
        temperature: what logits are divided by; 0 takes the most probable token.
        top_k: draw among so many of the most probable only (Fan et al. 2018, §5.3); None: all.
        top_p: draw among the fewest most probable tokens that together have at least this
            probability, with the others of ``top_k`` left out before (Holtzman et al. 2020, §3.1);
            None means all.
        generator: of the random numbers, on the prompt's device; None means torch's own.
        never: tokens that are not drawn, however probable; the others share what they had.

    Returns:
        The tokens that follow the prompt, (B, length).

    Raises:
        ValueError: if a value is out of range, or the network has no positions for so many tokens.
    """
    _check_sampling(prompt, length, temperature, top_k, top_p)
    past: Past = {}
    tokens, written = prompt, []
    for _ in range(length):
        logits = _without(never, network.next(tokens, past))
        if temperature == 0:
            tokens = logits.argmax(-1, keepdim=True)
        else:
            probabilities = _probabilities(logits, temperature, top_k, top_p)
            tokens = torch.multinomial(probabilities, 1, generator=generator)
        written.append(tokens)
    return torch.cat(written, dim=1)


def _without(never: Sequence[int], logits: Tensor) -> Tensor:
    """Logits (B, V) with those of some tokens at -inf."""
    vocabulary = logits.shape[-1]
    if len(set(never)) == vocabulary or not all(0 <= token < vocabulary for token in never):
        raise ValueError(f"never must be some of {vocabulary} tokens, and not all, got {never}")
    unwanted = torch.tensor(never, dtype=torch.int64, device=logits.device)
    return logits.index_fill(-1, unwanted, -torch.inf)


def _probabilities(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None
) -> Tensor:
    """What :func:`sample` draws from, (B, V), for logits (B, V)."""
    # Below 1e-30 nothing changes, but that numbers overflow.
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
        raise ValueError("a prompt needs at least one token")
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None:
        check_positive(top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
