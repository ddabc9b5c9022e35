"""A decoder alone over source and target."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_lab.models.decoding import greedy_search
from attention_lab.models.prefix_decoder import PrefixDecoder
from tests.models.conftest import ATTENTION, END, SOURCE_VOCABULARY, START, TARGET_VOCABULARY


def model(**options: Any) -> PrefixDecoder:
    sizes = {"d_model": 16, "self_attention": ATTENTION, **options}
    made = PrefixDecoder(SOURCE_VOCABULARY, TARGET_VOCABULARY, **sizes).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made


def test_it_reads_each_pair_as_one_sequence_without_padding(source: Tensor, target: Tensor) -> None:
    made = model()
    logits = made(source, target)
    assert logits.shape == (3, 4, TARGET_VOCABULARY)
    for row in range(3):
        read = source[row][source[row] != 0]
        whole = torch.cat([read, target[row] + SOURCE_VOCABULARY]).unsqueeze(0)
        expected = made.decoder(whole)[0, len(read) :, SOURCE_VOCABULARY:]
        assert_close(logits[row], expected)


def test_more_padding_changes_nothing(source: Tensor, target: Tensor) -> None:
    made = model()
    wide_source = torch.cat([source, source.new_zeros(3, 4)], dim=1)
    wide_target = torch.cat([target, target.new_zeros(3, 2)], dim=1)
    assert_close(made(wide_source, wide_target)[:, :4], made(source, target))


def test_greedy_search_agrees_with_teacher_forcing(source: Tensor) -> None:
    made = model()
    decoded = greedy_search(made, source, START, end=-1, max_length=6)
    read = torch.cat([torch.full((3, 1), START), decoded[:, :-1]], dim=1)
    assert torch.equal(made(source, read).argmax(-1), decoded)
    assert greedy_search(made, source, START, END, max_length=6).shape[0] == 3


def test_rows_of_the_caches_can_be_reordered(source: Tensor, target: Tensor) -> None:
    made = model()
    caches = made.prefill(source)
    made.next_logits(target[:, :2], caches)
    rows = torch.tensor([2, 0, 2])
    for cache in caches.values():
        cache.select(rows)
    expected = made(source[rows], target[rows, :3])[:, -1]
    assert_close(made.next_logits(target[rows, 2:3], caches), expected)


def test_rows_of_many_lengths_are_selected_again_and_again() -> None:
    """Some taken twice, some not at all, so that whole lengths go and others grow."""
    made = model()
    source = torch.randint(3, SOURCE_VOCABULARY, (8, 4))
    for row in range(8):
        source[row, row % 5 :] = 0  # of length 0, too
    caches = made.prefill(source)
    target = torch.randint(3, TARGET_VOCABULARY, (8, 1))
    logits = made.next_logits(target, caches)
    for rows in ([7, 6, 5, 4, 3, 2, 1, 0], [1, 1, 7, 0, 4, 1], [0, 3, 3], [2, 0, 1, 1]):
        assert_close(logits, made(source, target)[:, -1])
        for cache in caches.values():
            cache.select(torch.tensor(rows))
        source, target = source[rows], target[rows]
        following = torch.randint(3, TARGET_VOCABULARY, (len(rows), 1))
        target = torch.cat([target, following], dim=1)
        logits = made.next_logits(following, caches)
    assert_close(logits, made(source, target)[:, -1])


def test_every_position_is_computed_once(source: Tensor) -> None:
    """And logits are those of the target's vocabulary at the last position alone."""
    made = model()
    seen = {"states": 0, "logits": 0}

    def count(kind: str, vectors: Tensor) -> None:
        seen[kind] += vectors[..., 0].numel()

    made.decoder.norm.register_forward_hook(lambda module, inputs, out: count("states", out))
    made.decoder.lm_head.register_forward_hook(lambda module, inputs, out: count("logits", out))
    caches = made.prefill(source)
    cache_sizes = [sum(cache.size for cache in caches.values())]
    for _ in range(6):
        made.next_logits(torch.full((3, 1), START), caches)
        cache_sizes.append(sum(cache.size for cache in caches.values()))
    assert seen == {"states": (5 + 3 + 1) + 3 * 6, "logits": 3 * 6}
    # Nine positions are read, and three more at each step.
    assert [size * 9 for size in cache_sizes] == [cache_sizes[0] * (9 + 3 * n) for n in range(7)]


def test_learned_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="positions"):
        model(positions="learned")
