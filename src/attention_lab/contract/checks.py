"""What every attention mechanism must do: checks that take a layer and raise AssertionError.

Most work on the tensor level, ``layer.attend``, and compare with the visibility that the example
says, never with the layer's own idea of its mask. What a layer need not do, its ``info``
say.
"""

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.testing import assert_close

from attention_lab.attention import (
    AttentionInputs,
    AttentionLayer,
    Cache,
    Causal,
    Dense,
    Mask,
    Padding,
)


class Example(NamedTuple):
    """A tensor-level input, and which keys each query may attend to."""

    query: Tensor  # (B, H, L, E)
    key: Tensor  # (B, H_kv, S, E)
    value: Tensor  # (B, H_kv, S, E_v)
    mask: Mask | None
    visible: Tensor  # (B, H, L, S) bool, by the definition of the mask, not by its code

    @property
    def empty(self) -> Tensor:
        """(B, H, L) bool: the queries without visible keys."""
        return ~self.visible.any(-1)


MASKS = ("none", "causal", "padding", "causal-and-padding")
MASKS_WITH_EMPTY_ROWS = ("padding", "causal-and-padding")


def example(
    mask: str = "none",
    *,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    queries: int = 3,
    keys: int = 5,
    head_dim: int = 3,
    value_dim: int = 2,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Example:
    """A random example of batch size 3 under one of ``MASKS``.

    With padding, sequence 0 is padded on the right, 1 on the left (so that, with a causal mask, its
    first query has no visible key), and 2 has no real key at all.
    """
    valid = torch.ones(3, keys, dtype=torch.bool)
    if "padding" in mask:
        valid[0, -1] = False
        valid[1, 0] = False
        valid[2, :] = False
    visible = torch.empty(3, num_heads, queries, keys, dtype=torch.bool)
    for position in range(queries):
        for other in range(keys):
            allowed = other <= position or "causal" not in mask
            visible[:, :, position, other] = valid[:, other, None] & allowed
    padding, visible = Padding(valid.to(device)), visible.to(device)
    by_name = {
        "none": None,
        "causal": Causal(),
        "padding": padding,
        "causal-and-padding": Causal() & padding,
    }
    return Example(
        torch.randn(3, num_heads, queries, head_dim, dtype=dtype, device=device),
        torch.randn(3, num_kv_heads, keys, head_dim, dtype=dtype, device=device),
        torch.randn(3, num_kv_heads, keys, value_dim, dtype=dtype, device=device),
        by_name[mask],
        visible,
    )


def device_of(layer: AttentionLayer) -> torch.device:
    """Where the layer's parameters are; the CPU if it has none."""
    return next(layer.parameters(), torch.empty(0)).device


def sequence_for(layer: AttentionLayer, length: int, width: int | None = None) -> Tensor:
    """A random batch (2, length, embed_dim or another width) on the layer's device."""
    width = layer.embed_dim if width is None else width
    return torch.randn(2, length, width, dtype=torch.float64, device=device_of(layer))


def mechanism_parameters(layer: AttentionLayer) -> list[Tensor]:
    """The parameters that ``attend`` uses: all but the projections."""
    return [p for name, p in layer.named_parameters() if "_projection" not in name]


def output_of(layer: AttentionLayer, it: Example) -> Tensor:
    return layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, False))[0]


def weights_of(layer: AttentionLayer, it: Example) -> Tensor:
    weights = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, True))[1]
    assert weights is not None, "weights were asked for and not given"
    return weights


def with_gradients(it: Example) -> Example:
    query, key, value = (x.detach().clone().requires_grad_() for x in it[:3])
    return it._replace(query=query, key=key, value=value)


def gradients(output: Tensor, layer: AttentionLayer, it: Example) -> list[Tensor]:
    """Gradients of ``output`` to query, key, value and the parameters; zeros where unused."""
    inputs = [*it[:3], *mechanism_parameters(layer)]
    return list(torch.autograd.grad(output, inputs, retain_graph=True, materialize_grads=True))


def per_query_head(x: Tensor, num_heads: int) -> Tensor:
    """(B, H, S, E) from (B, H_kv, S, E): neighbouring query heads share one."""
    return x.repeat_interleave(num_heads // x.shape[1], dim=1)


@contextmanager
def training(layer: AttentionLayer) -> Iterator[None]:
    layer.train()
    try:
        yield
    finally:
        layer.eval()


def check_gradients(layer: AttentionLayer, it: Example) -> None:
    """Gradients to query, key, value and parameters are those of finite differences."""
    it = with_gradients(it)

    def attend(*_: Tensor) -> Tensor:
        return output_of(layer, it)

    inputs = (*it[:3], *mechanism_parameters(layer))
    try:
        gradcheck(attend, inputs, fast_mode=True)
    except GradcheckError as error:
        raise AssertionError("gradients are wrong") from error


def check_second_derivatives(layer: AttentionLayer, it: Example) -> None:
    """Second derivatives match finite differences, or raise if they are not supported.

    Also for queries below 0, where features such as elu(q) + 1 are small.
    """
    for query in (it.query, -it.query.abs()):
        example = with_gradients(it._replace(query=query))

        def attend(*_: Tensor, example: Example = example) -> Tensor:
            return output_of(layer, example)

        inputs = (*example[:3], *mechanism_parameters(layer))
        try:
            gradgradcheck(attend, inputs, fast_mode=True)
        except GradcheckError as error:
            raise AssertionError("second derivatives are wrong") from error
        except RuntimeError as error:
            if layer.info.double_backward:
                raise AssertionError("second derivatives are claimed, but raise") from error


def check_agreement(layer: AttentionLayer, reference: AttentionLayer, it: Example) -> None:
    """Output and all gradients are those of a reference with the same parameters."""
    it = with_gradients(it)
    output, expected = output_of(layer, it), output_of(reference, it)
    assert_close(output, expected)
    direction = torch.randn_like(expected)
    assert_close(
        gradients((output * direction).sum(), layer, it),
        gradients((expected * direction).sum(), reference, it),
    )


def check_hidden_keys_do_not_matter(layer: AttentionLayer, it: Example) -> None:
    """No output depends on a key or value that its query may not look at.

    With a causal mask: changing the future changes nothing earlier. With padding: changing what
    is in the padding changes nothing.
    """
    it = with_gradients(it)
    output = output_of(layer, it)
    for position in range(it.key.shape[2]):
        key, value = it.key.detach().clone(), it.value.detach().clone()
        key[:, :, position] += 100 * torch.randn_like(key[:, :, position])
        value[:, :, position] += 1000
        changed = output_of(layer, it._replace(key=key, value=value))
        hidden = ~it.visible[..., position]
        assert_close(changed[hidden], output[hidden], rtol=0, atol=1e-10)
    for position in range(it.query.shape[2]):
        _, to_key, to_value, *_ = gradients(output[:, :, position].sum(), layer, it)
        hidden = ~group_sees(it)[:, :, position]
        assert not to_key[hidden].any(), f"query {position} has a gradient to hidden keys"
        assert not to_value[hidden].any(), f"query {position} has a gradient to hidden values"


def check_visible_keys_matter(layer: AttentionLayer, it: Example) -> None:
    """Each output depends on every value that its query may attend to: a mask hides no more."""
    it = with_gradients(it)
    output = output_of(layer, it)
    for position in range(it.query.shape[2]):
        _, _, to_value, *_ = gradients(output[:, :, position].sum(), layer, it)
        visible = group_sees(it)[:, :, position]
        assert to_value[visible].all(), f"query {position} overlooks values it may attend to"


def group_sees(it: Example) -> Tensor:
    """(B, H_kv, L, S) bool: whether any query head that shares a key head may look."""
    return it.visible.unflatten(1, (it.key.shape[1], -1)).any(2)


def check_empty_rows_are_zero(layer: AttentionLayer, it: Example) -> None:
    """A query without visible keys gives zeros, with zero gradient, and no NaN anywhere."""
    assert it.empty.any(), "the example has no query without visible keys"
    it = with_gradients(it)
    outputs = [output_of(layer, it)]
    if layer.info.weights:
        outputs.append(weights_of(layer, it))
    for output in outputs:
        assert not output[it.empty].any(), "an empty row is not zero"
        assert output.isfinite().all(), "an empty row makes others infinite or NaN"
        for gradient in gradients(output[it.empty].sum(), layer, it):
            assert not gradient.any(), "an empty row has a gradient"
        for gradient in gradients(output.square().sum(), layer, it):
            assert gradient.isfinite().all(), "an empty row makes gradients infinite or NaN"
    try:
        with torch.autograd.set_detect_anomaly(True):
            gradients(output_of(layer, it).square().sum(), layer, it)
    except RuntimeError as error:
        raise AssertionError("there is NaN on the way to the gradients") from error


def check_large_logits(layer: AttentionLayer, it: Example) -> None:
    """However long queries or keys, weights stay a distribution and hidden keys stay hidden.

    Long keys are positive: elu(x) + 1 is 0 far below 0, so that such a key weighs nothing.
    """
    for query, key in ((it.query * 1e10, it.key), (it.query, it.key.abs() * 1e10)):
        large = it._replace(query=query, key=key)
        assert output_of(layer, large).isfinite().all()
        if layer.info.weights:
            check_weights(layer, large)
        check_hidden_keys_do_not_matter(layer, large)


def check_permutation_equivariance(layer: AttentionLayer, it: Example) -> None:
    """Without positions, order means nothing: of batch, of queries, and of keys with values."""
    output = output_of(layer, it)
    batch, queries, keys = (
        torch.arange(n, device=output.device).flip(0)
        for n in (it.query.shape[0], it.query.shape[2], it.key.shape[2])
    )
    visible = it.visible[batch][:, :, queries][:, :, :, keys]
    permuted = Example(
        it.query[batch][:, :, queries],
        it.key[batch][:, :, keys],
        it.value[batch][:, :, keys],
        Dense(visible),
        visible,
    )
    assert_close(output_of(layer, permuted), output[batch][:, :, queries])


def check_weights(layer: AttentionLayer, it: Example) -> None:
    """Weights are over the visible keys, per head, and make up the output.

    Where the mechanism says that they are a distribution, they are.
    """
    output, weights = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, True))
    assert weights is not None, "weights were asked for and not given"
    assert weights.shape == it.visible.shape
    assert not weights[~it.visible].any(), "a hidden key has weight"
    if layer.info.distribution:
        assert (weights >= 0).all(), "a weight is negative"
        assert_close(weights.sum(-1), (~it.empty).to(weights.dtype))
    if layer.info.linear_in_values:
        assert_close(output, weights @ per_query_head(it.value, it.query.shape[1]))


def check_weights_only_when_asked(layer: AttentionLayer, it: Example) -> None:
    """Asking for weights changes nothing, gradients included, but that they are there."""
    it = with_gradients(it)
    output, weights = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, False))
    assert weights is None, "weights were given that nobody asked for"
    asked, _ = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, True))
    assert_close(output, asked)
    direction = torch.randn_like(output)
    assert_close(
        gradients((output * direction).sum(), layer, it),
        gradients((asked * direction).sum(), layer, it),
    )


def check_observing_changes_nothing(layer: AttentionLayer, it: Example, dtype: torch.dtype) -> None:
    """Asking for weights changes no bit of the output, in any precision and for large inputs.

    Nor does it in training, with dropout.
    """
    layer = copy.deepcopy(layer).to(dtype)
    for size in (1, 100):
        query, key, value = (
            (it.query * size).to(dtype),
            (it.key * size).to(dtype),
            it.value.to(dtype),
        )
        for train in (False, True):
            layer.train(train)
            outputs = []
            for need_weights in (False, True):
                torch.manual_seed(0)
                outputs.append(
                    layer.attend(AttentionInputs(query, key, value, it.mask, need_weights))[0]
                )
            assert outputs[0].isfinite().all(), f"inputs {size} times as large overflow"
            assert torch.equal(*outputs), "asking for weights changes the output"


def check_eval_is_deterministic(layer: AttentionLayer, it: Example) -> None:
    """Nothing random happens in eval, whatever the dropout."""
    assert torch.equal(output_of(layer, it), output_of(layer, it)), "eval is random"


def check_dropout(layer: AttentionLayer, dropout: float, it: Example) -> None:
    """In training each weight is dropped with this probability, the rest scaled to make up."""
    copies = 500
    batch = torch.arange(len(it.query), device=it.query.device).repeat_interleave(copies)
    rotation, _ = torch.linalg.qr(torch.randn_like(it.key[0, 0] @ it.key[0, 0].mT))
    visible = it.visible[batch]
    many = Example(
        it.query[batch],
        it.key[batch],
        rotation.expand(len(batch), it.key.shape[1], -1, -1),  # undone, outputs are the weights
        Dense(visible),
        visible,
    )
    weights = weights_of(layer, many)
    with training(layer):
        once, again = output_of(layer, many), output_of(layer, many)
        output, before = layer.attend(AttentionInputs(*many[:4], True))
    assert not torch.equal(once, again), "training drops nothing, or always the same"
    assert before is not None
    assert_close(before, weights)
    for kept in (once @ rotation.mT, output @ rotation.mT):
        dropped = kept < weights / 2
        assert_close(kept, torch.where(dropped, 0, weights / (1 - dropout)))
        rate = dropped[visible].double().mean().item()
        deviation = (dropout * (1 - dropout) / int(visible.sum())) ** 0.5
        assert abs(rate - dropout) < 5 * deviation, f"{rate:.3f} of the weights are dropped"
        mean, expected = kept.unflatten(0, (-1, copies)).mean(1), weights[::copies]
        deviation = (dropout / (1 - dropout) / copies) ** 0.5
        assert_close(mean, expected, rtol=5 * deviation, atol=1e-10)


def check_low_precision(
    layer: AttentionLayer, reference: AttentionLayer, it: Example, dtype: torch.dtype
) -> None:
    """In a low precision the error is that of the rounding, and no larger than the reference's."""
    layer, reference = copy.deepcopy(layer).to(dtype), copy.deepcopy(reference).to(dtype)
    query, key, value = (x.to(dtype) for x in it[:3])
    rounded = it._replace(query=query, key=key, value=value)
    wide = it._replace(query=query.double(), key=key.double(), value=value.double())
    exact = output_of(copy.deepcopy(reference).double(), wide)

    def error(subject: AttentionLayer) -> float:
        output = output_of(subject, rounded)
        assert output.dtype == dtype
        assert not output[it.empty].any(), "an empty row is not zero"
        return (output.double() - exact).abs().max().item()

    rounding = torch.finfo(dtype).eps * it.value.abs().max().item()
    assert error(reference) <= 4 * rounding
    assert error(layer) <= 2 * error(reference) + rounding
    if layer.info.weights:
        weights, exact = weights_of(layer, rounded), weights_of(copy.deepcopy(layer).double(), wide)
        assert_close(weights.double(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps)


def check_autocast(layer: AttentionLayer, dtype: torch.dtype) -> None:
    """In mixed precision the output is near that of single precision, and gradients are finite.

    Some keys are zero vectors, as a recurrent encoder leaves them in the padding.
    """
    layer = copy.deepcopy(layer).float()
    device = device_of(layer)
    query = torch.randn(3, 6, layer.embed_dim, device=device)
    across = layer.info.cross_attention
    memory = torch.randn(3, 6, layer.kdim, device=device) if across else query
    valid = torch.ones(3, 6, dtype=torch.bool, device=device)
    valid[0, 4:], valid[1] = False, False
    memory[~valid] = 0
    mask = Causal() & Padding(valid) if layer.info.causal else Padding(valid)
    exact = layer(query, memory, mask).output
    with torch.autocast(device.type, dtype):
        output = layer(query, memory, mask).output
    assert_close(output.float(), exact, rtol=0, atol=0.06)
    assert not output[1].any()
    output.float().square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def check_saving(make: Callable[[], AttentionLayer]) -> None:
    """A layer of the same making gives the same output once it has loaded the state."""
    torch.manual_seed(1)
    saved = make()
    torch.manual_seed(2)
    loaded = make()
    sequence = sequence_for(saved, 5)
    assert not torch.equal(saved(sequence).output, loaded(sequence).output)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(saved(sequence).output, loaded(sequence).output), "state was lost"


def check_decoding(layer: AttentionLayer, length: int = 7) -> None:
    """Step by step with a cache gives what the whole causal pass gives, whatever the steps."""
    sequence = sequence_for(layer, length)
    valid = torch.ones(2, length, dtype=torch.bool, device=sequence.device)
    valid[0, 0] = False
    whole = layer(sequence, mask=Causal() & Padding(valid)).output
    for steps in ([1] * length, [3, 1, length - 4], [length]):
        cache, outputs = Cache(), []
        for step in sequence.split(steps, dim=1):
            seen = cache.length + step.shape[1]
            mask = Causal() & Padding(valid[:, :seen])
            outputs.append(layer(step, mask=mask, cache=cache).output)
        assert_close(torch.cat(outputs, dim=1), whole)
        assert cache.length == length
        assert cache.size > 0, "a cache that keeps nothing cannot know the past"


def check_remembering(layer: AttentionLayer, length: int = 5) -> None:
    """Step by step to another sequence, projected once, gives what the whole pass gives.

    Its width may differ from that of the queries.
    """
    memory, queries = sequence_for(layer, length, layer.kdim), sequence_for(layer, 4)
    valid = torch.ones(2, length, dtype=torch.bool, device=memory.device)
    valid[0, -1] = False
    whole = layer(queries, memory, Padding(valid)).output
    cache = layer.remember(memory)
    rows = torch.tensor([1, 0], device=memory.device)  # the batch may go on in another order
    outputs = [layer(queries[:, :2], mask=Padding(valid), cache=cache).output]
    cache.select(rows)
    for step in queries[rows, 2:].split(1, dim=1):
        outputs.append(layer(step, mask=Padding(valid[rows]), cache=cache).output[rows])
    assert_close(torch.cat(outputs, dim=1), whole)


def check_own_mask(masked: AttentionLayer, bare: AttentionLayer, mask: Mask, length: int) -> None:
    """A layer with a mask of its own is one without, called with what the mask spells out."""
    bare.load_state_dict(masked.state_dict())
    sequence = sequence_for(masked, length)
    visible = mask.dense(2, 1, length, length, sequence.device).expand(2, 1, length, length)
    assert not visible.all(), "the sequence is too short for the mask to hide anything"
    assert_close(masked(sequence).output, bare(sequence, mask=Dense(visible)).output)
    both = masked(sequence, mask=Causal()).output
    assert_close(both, bare(sequence, mask=Dense(visible) & Causal()).output)


def check_lengths(layer: AttentionLayer) -> None:
    """Sequences of length 0 and 1 are no special case."""
    across = layer.info.cross_attention
    for queries, keys in ((1, 1), (0, 0), *(((0, 3), (3, 0)) if across else ())):
        query = sequence_for(layer, queries)
        memory = sequence_for(layer, keys, layer.kdim) if across else query
        output = layer(query, memory).output
        assert output.shape == query.shape
        assert output.isfinite().all()


def check_bad_input(layer: AttentionLayer) -> None:
    """Wrong shapes and masks are refused in words, before anything is computed."""
    sequence = sequence_for(layer, 4)
    wrong = [
        lambda: layer(sequence[0]),
        lambda: layer.remember(sequence[..., :-1]),
        lambda: layer(sequence[..., :-1]),
        lambda: layer(sequence, sequence[:1]),
        lambda: layer(sequence, mask=Padding(torch.ones(2, 5, dtype=torch.bool))),
        lambda: layer(sequence, mask=Padding(torch.ones(3, 4, dtype=torch.bool))),
        lambda: layer(sequence, mask=torch.ones(4, 4, dtype=torch.bool)),
        lambda: layer(sequence, sequence, cache=Cache()),
    ]
    if layer.info.cross_attention:
        wrong.append(lambda: layer(sequence[:1], cache=layer.remember(sequence)))
    else:
        wrong += [lambda: layer(sequence, sequence.clone()), lambda: layer.remember(sequence)]
    for call in wrong:
        with pytest.raises(ValueError, match=r"^[^\n]{10,}$"):
            call()


#: Knobs of speed, which must not change what comes out.
SPEED = {"backend", "chunk"}


def check_knobs(node: Mapping[str, Any], make: Callable[[Any], AttentionLayer]) -> None:
    """Every value in a config does something: parameters, training outputs or an error change."""
    before = _fingerprint(node, make)
    for path, value in _knobs(node):
        changed = copy.deepcopy(dict(node))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = _another(value)
        is_same = _fingerprint(changed, make) == before
        name = ".".join(path)
        assert is_same == (path[-1] in SPEED), f"{name}: {value!r} → {inner[path[-1]]!r}"


def _knobs(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _knobs(value, (*path, key))
        elif isinstance(value, bool | int | float) and not key.startswith("_"):
            yield (*path, key), value


def _another(value: float) -> float:
    if isinstance(value, bool):
        return not value
    return 2 * value if isinstance(value, int) else value * 1.5 + 0.01


def _fingerprint(node: Mapping[str, Any], make: Callable[[Any], AttentionLayer]) -> str:
    """What one sees of a mechanism: its parameters, what it gives in training, or its refusal."""
    torch.manual_seed(0)
    try:
        layer = make(node).double()
        sequence = sequence_for(layer, 40)
        output = layer(sequence).output.detach()
    except ValueError as error:
        return str(error)
    shapes = [(name, tuple(p.shape)) for name, p in layer.named_parameters()]
    return f"{shapes} {output.mul(1e6).round().sum(0).tolist()}"
