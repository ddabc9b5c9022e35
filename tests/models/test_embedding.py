"""Positions against the paper's formula, and the scale of embeddings."""

import numpy as np
import pytest
import torch

from attention_lab.models.embedding import (
    SinusoidalPositions,
    position_embedding,
    sinusoids,
    token_embedding,
)


def paper(length: int, width: int) -> torch.Tensor:
    """PE(pos, 2i) = sin(pos / 10000^(2i / d)), PE(pos, 2i + 1) = cos of the same (§3.5)."""
    encoding = np.zeros((length, width))
    for position in range(length):
        for i in range(width // 2):
            angle = position / 10000 ** (2 * i / width)
            encoding[position, 2 * i] = np.sin(angle)
            encoding[position, 2 * i + 1] = np.cos(angle)
    return torch.tensor(encoding, dtype=torch.float32)


@pytest.mark.parametrize("width", [2, 6, 16])
def test_sinusoids_are_those_of_the_paper(width: int) -> None:
    torch.testing.assert_close(sinusoids(300, width), paper(300, width), atol=1e-4, rtol=0)


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="need an even d_model, got 5"):
        sinusoids(10, 5)
    with pytest.raises(ValueError, match="need an even d_model, got 5"):
        SinusoidalPositions(5)


def test_positions_have_no_end() -> None:
    positions = SinusoidalPositions(6)
    vectors = torch.randn(2, 700, 6)
    before = positions(vectors[:, :256]) - vectors[:, :256]
    added = positions(vectors) - vectors
    torch.testing.assert_close(added, paper(700, 6).expand(2, -1, -1), atol=2e-4, rtol=0)
    torch.testing.assert_close(added[:, :256], before)


def test_positions_learn_and_store_nothing() -> None:
    positions = SinusoidalPositions(6)
    assert not list(positions.parameters())
    assert not positions.state_dict()


def test_positions_are_right_after_initialization_on_the_meta_device() -> None:
    """And they follow the vectors' precision, but in mixed precision they keep their own."""
    with torch.device("meta"):
        positions = SinusoidalPositions(6)
    positions = positions.to_empty(device="cpu")
    for left_over in positions.buffers():
        left_over.fill_(torch.nan)  # as memory may hold anything
    positions.load_state_dict(SinusoidalPositions(6).state_dict())
    vectors = torch.zeros(1, 9, 6)
    torch.testing.assert_close(positions(vectors)[0], paper(9, 6), atol=1e-5, rtol=0)
    assert positions(vectors.half()).dtype == torch.float16
    with torch.autocast("cpu", torch.bfloat16):
        assert positions(vectors.bfloat16()).dtype == torch.float32


def test_token_vectors_have_unit_length_on_average_and_padding_is_zero() -> None:
    embedding = token_embedding(2000, 32, padding_idx=3)
    lengths = embedding.weight.norm(dim=1)
    assert lengths[3] == 0
    assert abs(lengths.square().sum().item() / 1999 - 1) < 0.05
    embedding(torch.tensor([3, 4])).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad[3].abs().max() == 0
    assert embedding.weight.grad[4].abs().max() > 0


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_positions_vary_as_much_as_they_should(kind: str) -> None:
    positions = position_embedding(kind, d_model=64, max_length=600, std=0.3)
    for start, end in ((0, 100), (400, 600)):  # near the beginning and far from it
        added = positions(torch.zeros(1, end - start, 64), start)
        assert float(added.square().mean().sqrt().detach()) == pytest.approx(0.3, rel=0.05)
