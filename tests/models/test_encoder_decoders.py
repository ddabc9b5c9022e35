"""What every network from one sequence to another must do, whatever it is made of."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from attention_lab.attention import (
    ALiBi,
    Linformer,
    NystromAttention,
    SlidingWindow,
    T5Bias,
    attention_layers,
    record_attention,
)
from attention_lab.models.decoding import greedy_search
from tests.models.conftest import (
    ATTENTION,
    END,
    PAD,
    SOURCE_VOCABULARY,
    START,
    TARGET_VOCABULARY,
    MakeModel,
    MakeNetwork,
    recurrent,
    talkative,
    transformer,
)


def test_shapes(make_model: MakeModel, source: Tensor, target: Tensor) -> None:
    model = make_model()
    encoded = model.encode(source)
    assert encoded.memory.shape == (3, 5, 16)
    assert torch.equal(encoded.valid, source != PAD)
    assert model(source, target).shape == (3, 4, TARGET_VOCABULARY)
    assert greedy_search(model, source, START, END, max_length=6).shape[0] == 3


def test_a_recurrent_decoder_starts_where_the_encoder_ended(source: Tensor) -> None:
    model = recurrent()
    summary = model.encode(source).summary
    assert summary is not None
    assert summary.shape == (2, 3, 16)
    # The last forward state has read the last letter, the last backward state the first one.
    states, (last, _) = model.encoder(model.source_embedding(source[:1]))
    assert_close(states[0, -1, :8], last[2, 0])
    assert_close(states[0, 0, 8:], last[3, 0])
    for layer in range(2):
        both = torch.cat([last[2 * layer, 0], last[2 * layer + 1, 0]])
        assert_close(summary[layer, 0], torch.tanh(model.bridge(both)))
    assert transformer().encode(source).summary is None


def test_more_padding_changes_nothing(
    make_model: MakeModel, source: Tensor, target: Tensor
) -> None:
    model = make_model()
    narrow = model(source, target)
    wide_source = torch.cat([source, source.new_zeros(3, 4)], dim=1)
    wide_target = torch.cat([target, target.new_zeros(3, 2)], dim=1)
    assert model.encode(wide_source).memory.shape == (3, 9, 16)
    assert_close(model(wide_source, wide_target)[:, :4], narrow)
    assert_close(model(source[1:2, :3], target[1:2, :2]), narrow[1:2, :2])


def test_what_stands_in_the_padding_changes_nothing(
    make_model: MakeModel, source: Tensor, target: Tensor
) -> None:
    model = make_model()
    before = model(source, target)
    with torch.no_grad():
        model.source_embedding.weight[PAD] = 100 * torch.randn(16)
        model.target_embedding.weight[PAD] = 100 * torch.randn(16)
    after = model(source, target)
    for row, length in enumerate((target != PAD).sum(1).tolist()):
        assert_close(after[row, :length], before[row, :length])


def test_each_example_is_alone(make_network: MakeNetwork, source: Tensor, target: Tensor) -> None:
    model = make_network()
    together = model(source, target)
    for row in range(3):
        assert_close(model(source[row : row + 1], target[row : row + 1]), together[row : row + 1])


def test_every_source_token_counts(
    make_network: MakeNetwork, source: Tensor, target: Tensor
) -> None:
    model = make_network()
    before = model(source, target)
    for position in range(5):
        changed = source.clone()
        changed[0, position] = 10
        after = model(changed, target)
        assert (after[0] - before[0]).abs().amax(-1).min() > 1e-6
        assert_close(after[1:], before[1:])


def test_later_target_tokens_never_change_earlier_logits(
    make_network: MakeNetwork, source: Tensor, target: Tensor
) -> None:
    model = make_network()
    before = model(source, target)
    for position in range(1, 4):
        changed = target.clone()
        changed[:, position:] = torch.randint(3, TARGET_VOCABULARY, changed[:, position:].shape)
        changed[:, position] = (target[:, position] + 1) % TARGET_VOCABULARY
        after = model(source, changed)
        assert torch.equal(after[:, :position], before[:, :position])
        # … while the token itself is read at once.
        assert (after[:, position] - before[:, position]).abs().amax(-1).min() > 1e-6


def test_greedy_search_agrees_with_teacher_forcing(make_network: MakeNetwork) -> None:
    changes = 0
    for _ in range(4):
        model, source = talkative(make_network()), torch.randint(3, SOURCE_VOCABULARY, (30, 5))
        decoded = greedy_search(model, source, START, end=-1, max_length=7)
        assert decoded.shape == (30, 7)
        read = torch.cat([torch.full((30, 1), START), decoded[:, :-1]], dim=1)
        assert torch.equal(model(source, read).argmax(-1), decoded)
        changes += int((decoded[:, 1:] != decoded[:, :-1]).sum())
    assert changes > 30  # the models do not just repeat themselves


def test_greedy_stops_once_every_row_has_ended(make_network: MakeNetwork, source: Tensor) -> None:
    model = talkative(make_network())
    unending = greedy_search(model, source, START, end=-1, max_length=7)
    # Whatever token is taken for the end, as many are decoded as the longest row needs.
    for end in unending.unique().tolist():
        ends = [row.index(end) if end in row else 6 for row in unending.tolist()]
        decoded = greedy_search(model, source, START, end, max_length=7)
        assert torch.equal(decoded, unending[:, : max(ends) + 1])


def test_greedy_gives_up_after_max_length(make_model: MakeModel, source: Tensor) -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[5] = 1.0
    assert greedy_search(model, source, START, END, max_length=3).tolist() == [[5, 5, 5]] * 3
    with torch.no_grad():
        model.lm_head.bias[END] = 2.0
    assert greedy_search(model, source, START, END, max_length=3).tolist() == [[END]] * 3


def test_greedy_keeps_no_graph(make_model: MakeModel, source: Tensor) -> None:
    model = make_model()
    grad_enabled = []
    model.lm_head.register_forward_hook(lambda *_: grad_enabled.append(torch.is_grad_enabled()))
    greedy_search(model, source, START, END, max_length=2)
    assert set(grad_enabled) == {False}


def test_dropout_is_off_in_eval_and_on_in_training(
    make_network: MakeNetwork, source: Tensor, target: Tensor
) -> None:
    model = make_network(dropout=0.5)
    assert torch.equal(model(source, target), model(source, target))
    model.train()
    assert not torch.equal(model(source, target), model(source, target))
    model = make_network(dropout=0.0).train()
    assert torch.equal(model(source, target), model(source, target))


def test_input_feeding_passes_on_what_was_attended_to(source: Tensor, target: Tensor) -> None:
    """Luong et al. 2015, §3.3: the next step sees h̃; without input feeding it does not."""

    def change(input_feeding: bool) -> Tensor:
        """How far each step's logits move if the first step attends to something else."""
        torch.manual_seed(0)
        model = recurrent(input_feeding=input_feeding)
        before = model(source, target)
        calls = 0

        def disturb(_module: object, _inputs: object, output: tuple[Tensor, None]) -> object:
            nonlocal calls
            calls += 1
            context = output[0].clone()
            if calls == 1:
                context[:, 0] += 1.0
            return output._replace(output=context)  # type: ignore[attr-defined]

        model.cross_attention.register_forward_hook(disturb)
        return (model(source, target) - before).abs().amax((0, 2))

    assert (change(input_feeding=True) > 1e-6).tolist() == [True, True, True, True]
    assert (change(input_feeding=False) > 1e-6).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"num_encoder_layers": 0}, "num_encoder_layers must be at least 1, got 0"),
        ({"num_decoder_layers": -1}, "num_decoder_layers must be at least 1, got -1"),
        ({"dim_feedforward": -1}, "dim_feedforward must be at least 0, got -1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"d_model": 7}, "need an even d_model, got 7"),
    ],
)
def test_a_transformer_refuses(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transformer(lambda query, memory: ATTENTION(16, 16), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1, got 0"),
        ({"d_model": 7}, r"d_model must be even \(two encoder directions\), got 7"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"cell": "rnn"}, "cell must be lstm or gru, got 'rnn'"),
    ],
)
def test_a_recurrent_model_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recurrent(**options)


def test_input_feeding_tells_attention_where_it_is(source: Tensor, target: Tensor) -> None:
    """A mask and positions of the mechanism's own see the same positions step by step."""
    attention = partial(ATTENTION, mask=SlidingWindow(2), positions=ALiBi)
    model = recurrent(attention, input_feeding=True)
    with record_attention(model) as calls:
        model(source, target)
    weights = torch.cat(calls["cross_attention"], dim=2)
    visible = SlidingWindow(2).dense(3, 1, 4, 5, weights.device) & (source != PAD)[:, None, None]
    assert torch.equal(weights[:, :1] > 0, visible)


def test_a_transformer_needs_no_positions_of_its_own(source: Tensor, target: Tensor) -> None:
    model = transformer(partial(ATTENTION, positions=T5Bias), positions="none")
    assert not model.positions.state_dict()
    assert not torch.allclose(model(source, target), model(source.flip(1), target))
    with pytest.raises(ValueError, match="positions must be sinusoidal or none, got 'rotary'"):
        transformer(positions="rotary")


def test_a_decoder_refuses_what_cannot_be_causal() -> None:
    with pytest.raises(ValueError, match="Linformer cannot be causal"):
        transformer(Linformer)
    transformer(Linformer, self_attention=ATTENTION)


@pytest.mark.parametrize("make", [transformer, recurrent])
def test_cross_attention_is_refused_to_what_stays_within_one_sequence(make: MakeModel) -> None:
    with pytest.raises(ValueError, match="NystromAttention attends within one sequence only"):
        make(NystromAttention)


def test_a_transformers_two_kinds_of_attention_may_differ() -> None:
    layers = attention_layers(transformer(self_attention=partial(ATTENTION, num_heads=4)))
    heads = {name: layer.num_heads for name, layer in layers.items()}
    assert heads == {name: 4 if name.endswith("self_attention") else 2 for name in layers}
    layers = attention_layers(transformer())
    assert {layer.num_heads for layer in layers.values()} == {2}


def test_options_do_what_they_say() -> None:
    assert transformer(num_encoder_layers=3, num_decoder_layers=1).attention_axes().keys() == {
        "encoder.0.self_attention",
        "encoder.1.self_attention",
        "encoder.2.self_attention",
        "decoder.0.self_attention",
        "decoder.0.cross_attention",
    }
    hidden = transformer(dim_feedforward=None).encoder[0].feed_forward.layers[0]
    assert hidden.weight.shape == (64, 16)
    model = recurrent(num_layers=3, cell="gru", input_feeding=True)
    assert isinstance(model.decoder, torch.nn.GRU)
    assert (model.decoder.num_layers, model.decoder.input_size) == (3, 32)
    assert isinstance(recurrent(cell="lstm").encoder, torch.nn.LSTM)
    assert recurrent().decoder.input_size == 16
    model = transformer(padding_idx=4)
    assert model.encode(torch.tensor([[3, 4, 0]])).valid.tolist() == [[True, False, True]]
    assert model.source_embedding.num_embeddings == SOURCE_VOCABULARY
    assert model.source_embedding.weight[4].abs().max() == 0
