"""The causal language model: causal in every part, and the same step by step."""

import math
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from attention_lab.attention import (
    Causal,
    EluPlusOne,
    KernelAttention,
    Linformer,
    Rotary,
    ScaledDotProduct,
    ScoredAttention,
    Softmax,
)
from attention_lab.models.base import AttentionFactory, Caches
from attention_lab.models.blocks import ShortConvolution
from attention_lab.models.decoder import Decoder
from tests.conftest import Compose
from tests.models.conftest import ATTENTION
from tests.runs import build

MULTI_HEAD: AttentionFactory = partial(
    ScoredAttention, score=ScaledDotProduct, normalizer=Softmax, num_heads=2
)
ROTARY: AttentionFactory = partial(
    ScoredAttention, score=ScaledDotProduct, normalizer=Softmax, positions=Rotary, num_heads=2
)
LINEAR: AttentionFactory = partial(KernelAttention, feature_map=EluPlusOne, num_heads=2)

#: Every kind of decoder.
KINDS: dict[str, dict[str, Any]] = {
    "learned positions": {},
    "sinusoidal": {"positions": "sinusoidal"},
    "rotary": {"positions": "none", "self_attention": ROTARY},
    "hybrid": {"hybrid": {"a": LINEAR, "b": ROTARY}, "num_layers": 3},
    "convolution": {"conv_kernel_size": 3},
    "attention only": {"dim_feedforward": 0},
    "untied": {"tie_word_embeddings": False},
}


def decoder(**options: Any) -> Decoder:
    """A small decoder in double precision whose parameters are all in use."""
    sizes = {"d_model": 16, "self_attention": ATTENTION, **options}
    model = Decoder(11, 9, **sizes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Decoder:
    return decoder(**KINDS[request.param])


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(11, (3, 9))


def test_what_comes_later_never_matters(model: Decoder, tokens: Tensor) -> None:
    before = model(tokens)
    assert before.shape == (3, 9, 11)
    for position in range(9):
        changed = tokens.clone()
        changed[:, position] = (tokens[:, position] + 1) % 11
        after = model(changed)
        assert_close(after[:, :position], before[:, :position])
        assert (after[:, position:] - before[:, position:]).abs().amax((0, 2)).min() > 1e-6


@pytest.mark.parametrize("parts", [[9], [1] * 9, [4, 1, 3, 1]])
def test_decoding_step_by_step_agrees_with_the_full_pass(
    model: Decoder, tokens: Tensor, parts: list[int]
) -> None:
    caches: Caches = {}
    states = torch.cat(
        [model.hidden_states(part, caches) for part in tokens.split(parts, dim=1)], dim=1
    )
    assert_close(model.lm_head(states), model(tokens))
    again: Caches = {}
    logits = [model.next_logits(part, again) for part in tokens.split(parts, dim=1)]
    ends = torch.tensor(parts).cumsum(0) - 1
    assert_close(torch.stack(logits, 1), model(tokens)[:, ends])


def test_rows_of_the_caches_can_be_reordered(model: Decoder, tokens: Tensor) -> None:
    caches: Caches = {}
    model.hidden_states(tokens[:, :5], caches)
    rows = torch.tensor([2, 0, 2, 1])
    for cache in caches.values():
        cache.select(rows)
    assert_close(model.next_logits(tokens[rows, 5:6], caches), model(tokens[rows, :6])[:, -1])


def test_learned_positions_have_an_end(tokens: Tensor) -> None:
    longer = torch.cat([tokens, tokens], dim=1)
    with pytest.raises(ValueError, match=r"18 positions, but only 9 were learned; positions=sinu"):
        decoder()(longer)
    assert decoder(positions="sinusoidal")(longer).shape == (3, 18, 11)


def test_a_hybrid_stack_takes_its_mechanisms_in_turn() -> None:
    layers = decoder(**KINDS["hybrid"]).layers
    kinds = [type(layer.self_attention) for layer in layers]
    assert kinds == [KernelAttention, ScoredAttention, KernelAttention]


def test_lm_head_is_the_embedding_if_tied() -> None:
    tied, untied = decoder(), decoder(tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.embedding.weight
    assert untied.lm_head.weight is not untied.embedding.weight
    sizes = [sum(p.numel() for p in model.parameters()) for model in (tied, untied)]
    assert sizes[1] - sizes[0] == 11 * 16


def deviation(weight: Tensor) -> float:
    return float(weight.detach().std())


@pytest.mark.parametrize(
    ("options", "std"),
    [
        ({}, 64**-0.5),
        ({"d_model": 16}, 16**-0.5),
        ({"init_std": 0.3}, 0.3),
        ({"init": "gpt2"}, 0.02),
        ({"init": "gpt2", "init_std": 0.1}, 0.1),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_begin_as_asked(options: dict[str, Any], std: float, tied: bool) -> None:
    sizes = {"d_model": 64, "tie_word_embeddings": tied, "self_attention": ATTENTION, **options}
    model = Decoder(900, 600, **sizes)
    for drawn in (model.embedding.weight, model.lm_head.weight, model.positions.table):
        assert deviation(drawn) == pytest.approx(std, rel=0.04)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [16, 32, 128, 512])
def test_the_initial_loss_is_that_of_a_uniform_guess_at_any_width(width: int, tied: bool) -> None:
    """The first loss is that of logits with a standard deviation of about 1, and no more."""
    sizes = {"d_model": width, "tie_word_embeddings": tied, "self_attention": ROTARY}
    model = Decoder(256, 32, **sizes).eval()
    tokens = torch.randint(256, (2, 8, 32))
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens[0]).flatten(0, 1), tokens[1].flatten())
    assert math.log(256) < loss < math.log(256) + 1


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("width", [16, 32, 128, 512])
def test_at_any_width_attention_leaves_tokens_and_positions_to_be_told(
    width: int, positions: str
) -> None:
    """What the first layer adds does not drown what it was given."""
    sizes = {"d_model": width, "positions": positions, "self_attention": ROTARY}
    model = Decoder(256, 32, **sizes).eval()
    tokens = torch.arange(32).unsqueeze(0)
    with torch.no_grad():
        token = model.embedding(tokens)
        position = model.positions(torch.zeros_like(token))
        added = model.layers[0](token + position, Causal()) - token - position
    assert 0.8 < position.std() / token.std() < 1.25
    assert token.norm(dim=-1).mean() == pytest.approx(1, abs=0.15)
    assert added.std() / token.std() < width**0.5


def test_gpt2_is_initialized_as_published() -> None:
    """N(0, 0.02) everywhere, and the four projections that add to the stream over √4."""
    sizes = {"self_attention": partial(MULTI_HEAD, bias=True), "num_layers": 2, "init": "gpt2"}
    model = Decoder(300, 20, d_model=64, **sizes)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" not in name:
            adds = name.endswith(("output_projection.weight", "feed_forward.layers.3.weight"))
            assert deviation(parameter) == pytest.approx(0.01 if adds else 0.02, rel=0.1), name
    alone = Decoder(300, 20, d_model=64, dim_feedforward=0, **sizes)
    scaled = deviation(alone.layers[0].self_attention.output_projection.weight)
    assert scaled == pytest.approx(0.02 / 2**0.5, rel=0.1)


def test_gpt2_leaves_a_mechanism_what_is_its_own() -> None:
    torch.manual_seed(0)
    (ours,) = Decoder(
        30, 20, d_model=16, num_layers=1, self_attention=ATTENTION, init="gpt2"
    ).layers
    torch.manual_seed(0)
    (default,) = Decoder(30, 20, d_model=16, num_layers=1, self_attention=ATTENTION).layers
    kept = dict(default.self_attention.score.named_parameters())
    assert kept
    for name, parameter in ours.self_attention.score.named_parameters():
        assert torch.equal(parameter, kept[name]), name


def test_a_narrow_model_learns_associative_recall_with_default_settings(compose: Compose) -> None:
    """With embeddings of 0.02 in place of 1 / √32 it stays at 40 %, after 480 steps, too."""
    task = ["data.vocab_size=12", "data.lengths=[16]", "data.pairs=[3]", "data.examples=6000"]
    options = ["data=recall", *task, "data.batch_size=64", "optimizer.lr=3e-3", "model.d_model=32"]
    run = build(compose(*options, "trainer=cpu", "logger=csv"))
    model, steps = run.task.model, 240
    optimizer = run.task.optimization.create_optimizer(model)
    scheduler = run.task.optimization.schedule.scheduler(optimizer, steps)
    for batch in islice(chain.from_iterable(repeat(run.data.train_dataloader())), steps):
        optimizer.zero_grad()
        run.task.loss(batch).mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        run.task.update_metrics(run.data.split("test").select(torch.arange(500)), "test")
    assert run.task.compute_metrics("test")["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"self_attention": partial(Linformer, num_heads=2)}, "cannot be causal"),
        ({"hybrid": {"a": LINEAR, "b": Linformer}}, "cannot be causal"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        (
            {"hybrid": {"a": LINEAR, "b": ROTARY}, "num_layers": 1},
            "2 mechanisms .*a, b.* need as many layers, got 1",
        ),
        ({"init_std": 0.0}, "init_std must be above 0"),
        ({"init": "gpt3"}, "init must be default or gpt2, got 'gpt3'"),
        ({"dim_feedforward": -1}, "dim_feedforward must be at least 0"),
        ({"conv_kernel_size": 0}, "conv_kernel_size must be at least 1, or null"),
        ({"positions": "rotary"}, "positions must be learned, sinusoidal or none"),
        ({"dropout": 1.0}, "dropout must be in"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decoder(**options)


def test_a_convolution_is_the_sum_of_the_last_few_positions() -> None:
    convolution, x = ShortConvolution(4, kernel_size=3), torch.randn(2, 6, 4)
    assert_close(convolution(x), x)  # so it begins
    with torch.no_grad():
        convolution.weight.normal_()
    expected = torch.zeros_like(x)
    for position in range(6):
        for back in range(min(3, position + 1)):
            expected[:, position] += convolution.weight[:, 0, 2 - back] * x[:, position - back]
    assert_close(convolution(x), expected)


def test_the_mask_of_a_mechanism_still_counts(tokens: Tensor) -> None:
    """Every layer is causal, whatever else its own mask hides."""
    masked = decoder(self_attention=partial(ATTENTION, mask=Causal()))
    free = decoder()
    masked.load_state_dict(free.state_dict())
    assert_close(masked(tokens), free(tokens))
