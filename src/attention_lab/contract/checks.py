"""Checks of a mechanism's computation: each takes a layer and raises AssertionError.

They call ``layer.attend`` and compare with the visible keys that the example states, not with the
layer's own mask. ``layer.info`` declares which checks apply.
"""

import copy

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError, gradcheck, gradgradcheck
from torch.testing import assert_close

from attention_lab.attention import AttentionInputs, AttentionLayer, Dense
from attention_lab.contract.examples import (
    Example,
    gradients,
    mechanism_parameters,
    output_of,
    per_query_head,
    training,
    weights_of,
    with_gradients,
)


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
            device = it.query.device.type
            if device in layer.info.double_backward_on:
                raise AssertionError(
                    f"info.double_backward_on has {device}, but second derivatives raise"
                ) from error


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
    """No output depends on a key or value that is hidden from its query.

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
        hidden = ~visible_to_group(it)[:, :, position]
        assert not to_key[hidden].any(), f"query {position} has a gradient to hidden keys"
        assert not to_value[hidden].any(), f"query {position} has a gradient to hidden values"


def check_visible_keys_matter(layer: AttentionLayer, it: Example) -> None:
    """Each output depends on every value that its query may attend to: a mask hides no more."""
    it = with_gradients(it)
    output = output_of(layer, it)
    for position in range(it.query.shape[2]):
        _, _, to_value, *_ = gradients(output[:, :, position].sum(), layer, it)
        visible = visible_to_group(it)[:, :, position]
        assert to_value[visible].all(), f"query {position} does not depend on all visible values"


def visible_to_group(it: Example) -> Tensor:
    """(B, H_kv, L, S) bool: whether a key is visible to any query head of its group."""
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
        assert output.isfinite().all(), "an empty row gives infinite or NaN outputs"
        for gradient in gradients(output[it.empty].sum(), layer, it):
            assert not gradient.any(), "an empty row has a gradient"
        for gradient in gradients(output.square().sum(), layer, it):
            assert gradient.isfinite().all(), "an empty row gives infinite or NaN gradients"
    try:
        with torch.autograd.set_detect_anomaly(True):
            gradients(output_of(layer, it).square().sum(), layer, it)
    except RuntimeError as error:
        raise AssertionError("NaN in the backward pass") from error


def check_large_logits(layer: AttentionLayer, it: Example) -> None:
    """For very long queries or keys, outputs are finite and hidden keys do not matter.

    Long keys are positive: with elu(x) + 1, a key far below 0 has no weight.
    """
    for query, key in ((it.query * 1e10, it.key), (it.query, it.key.abs() * 1e10)):
        large = it._replace(query=query, key=key)
        assert output_of(layer, large).isfinite().all()
        if layer.info.weights:
            check_weights(layer, large)
        check_hidden_keys_do_not_matter(layer, large)


def check_permutation_equivariance(layer: AttentionLayer, it: Example) -> None:
    """Permuting batch, queries, and keys with values permutes the output in the same way."""
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
    """Weights of hidden keys are 0, and the output is the product of weights and values.

    If ``info.distribution``, weights are at least 0 and sum to 1.
    """
    output, weights = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, True))
    assert weights is not None, "need_weights is true, but no weights were returned"
    assert weights.shape == it.visible.shape
    assert not weights[~it.visible].any(), "a hidden key has weight"
    if layer.info.distribution:
        assert (weights >= 0).all(), "a weight is negative"
        assert_close(weights.sum(-1), (~it.empty).to(weights.dtype))
    if layer.info.linear_in_values:
        assert_close(output, weights @ per_query_head(it.value, it.query.shape[1]))


def check_weights_only_when_asked(layer: AttentionLayer, it: Example) -> None:
    """Weights are returned on request only, without effect on the output and its gradients."""
    it = with_gradients(it)
    output, weights = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, False))
    assert weights is None, "weights were returned without need_weights"
    asked, _ = layer.attend(AttentionInputs(it.query, it.key, it.value, it.mask, True))
    assert_close(output, asked)
    direction = torch.randn_like(output)
    assert_close(
        gradients((output * direction).sum(), layer, it),
        gradients((asked * direction).sum(), layer, it),
    )


def check_observing_changes_nothing(layer: AttentionLayer, it: Example, dtype: torch.dtype) -> None:
    """Returning weights changes no bit of the output, in any precision and for large inputs.

    The same holds in training, with dropout.
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
            assert torch.equal(*outputs), "need_weights changes the output"


def check_eval_is_deterministic(layer: AttentionLayer, it: Example) -> None:
    """In eval mode two calls give the same output, with any dropout."""
    assert torch.equal(output_of(layer, it), output_of(layer, it)), "eval is random"


def check_dropout(layer: AttentionLayer, dropout: float, it: Example) -> None:
    """In training each weight is dropped with this probability, and others are scaled up."""
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
