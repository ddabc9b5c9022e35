"""Slices by length: each length is in one slice, and trained lengths have their own."""

import pytest
import torch

from attention_lab.data.core.slices import by_length, by_quantile


@pytest.mark.parametrize("trained", [None, (1, 25), (5, 9), (1, 30), (8, 40), (40, 50)])
@pytest.mark.parametrize("at_most", [3, 8, 40])
def test_every_length_is_in_the_slice_that_names_it(
    trained: tuple[int, int] | None, at_most: int
) -> None:
    lengths = torch.arange(1, 31)
    slices = by_length(1, 30, lambda batch: batch, at_most, trained, what="size")
    assert len(slices.names) <= at_most
    for length, slice_ in zip(lengths.tolist(), slices.index_of(lengths).tolist(), strict=True):
        what, _, ends = slices.names[slice_].partition("=")
        first, _, last = ends.partition("-")
        assert what == "size"
        assert int(first) <= length <= int(last or first)
        if trained is not None:
            known = [trained[0] <= int(end) <= trained[1] for end in (first, last or first)]
            assert known[0] == known[1] == (trained[0] <= length <= trained[1])


def test_slices_are_as_narrow_as_at_most_allows() -> None:
    assert len(by_length(1, 30, len, at_most=40).names) == 30
    assert by_length(1, 5, len, at_most=3, trained=(2, 3)).names == [
        "length=1",
        "length=2-3",
        "length=4-5",
    ]


@pytest.mark.parametrize("at_most", [1, 2, 5, 8])
@pytest.mark.parametrize("highest", [1, 3, 40])
def test_quantile_slices_are_about_equal_and_named_by_their_ends(
    at_most: int, highest: int
) -> None:
    known = torch.randint(1, highest + 1, (1000,), generator=torch.Generator().manual_seed(0))
    slices = by_quantile(known, lambda batch: batch, at_most, what="size")
    assert 1 <= len(slices.names) <= at_most
    lengths = torch.arange(1, highest + 30)
    ends = []
    for name in slices.names:
        first, _, last = name.removeprefix("size=").removesuffix("+").partition("-")
        ends.append((int(first), 10**6 if name.endswith("+") else int(last or first)))
    assert ends[-1][1] == 10**6
    for length, slice_ in zip(lengths.tolist(), slices.index_of(lengths).tolist(), strict=True):
        assert ends[slice_][0] <= length <= ends[slice_][1]
    most = max(known.tolist().count(length) for length in range(1, highest + 1))
    for first, last in ends:
        members = int(((known >= first) & (known <= last)).sum())
        assert 0 < members <= 1000 / at_most + most


def test_quantile_slices_work_for_long_tails() -> None:
    known = torch.tensor([1] * 40 + [2] * 30 + [3] * 20 + [500] * 10)
    assert by_quantile(known, len, at_most=3).names == ["length=1", "length=2", "length=3+"]
    assert by_quantile(known[[0, 1, 45, 46, 75, 95]], len, at_most=3).names == [
        "length=1",
        "length=2",
        "length=3+",
    ]
    assert by_quantile(known, len, at_most=2).names == ["length=1-2", "length=3+"]
