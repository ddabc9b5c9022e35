"""Slices by length: every length in one of them, and none across what was trained on."""

import pytest
import torch

from attention_lab.data.slices import by_length


@pytest.mark.parametrize("trained", [None, (1, 25), (5, 9), (1, 30), (8, 40), (40, 50)])
@pytest.mark.parametrize("at_most", [3, 8, 40])
def test_every_length_is_in_the_slice_that_names_it(
    trained: tuple[int, int] | None, at_most: int
) -> None:
    lengths = torch.arange(1, 31)
    slices = by_length(1, 30, lambda batch: batch, at_most, trained, what="size")
    assert len(slices.names) <= at_most
    for length, slice_ in zip(lengths.tolist(), slices.of(lengths).tolist(), strict=True):
        what, _, ends = slices.names[slice_].partition("=")
        first, _, last = ends.partition("-")
        assert what == "size"
        assert int(first) <= length <= int(last or first)
        if trained is not None:
            known = [trained[0] <= int(end) <= trained[1] for end in (first, last or first)]
            assert known[0] == known[1] == (trained[0] <= length <= trained[1])


def test_slices_are_as_fine_as_may_be() -> None:
    assert len(by_length(1, 30, len, at_most=40).names) == 30
    assert by_length(1, 5, len, at_most=3, trained=(2, 3)).names == [
        "length=1",
        "length=2-3",
        "length=4-5",
    ]
