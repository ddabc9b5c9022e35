"""Checks of a whole layer: mixed precision, saving, decoding, its own mask, bad input, config keys.

Each takes a layer, or a function that makes one, and raises AssertionError.
"""

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from attention_lab.attention import AttentionLayer, Cache, Causal, Dense, Mask, Padding
from attention_lab.contract.examples import device_of, sequence_for


def check_autocast(layer: AttentionLayer, dtype: torch.dtype) -> None:
    """In mixed precision the output is near that of single precision, and gradients are finite.

    Some keys are zero vectors, as at the padding of a recurrent encoder.
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
    """A layer of the same config gives the same output after it has loaded the state."""
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
    assert torch.equal(saved(sequence).output, loaded(sequence).output), (
        "the state dict is incomplete"
    )


def check_decoding(layer: AttentionLayer, length: int = 7) -> None:
    """Decoding with a cache, in steps of any size, gives the output of one causal pass."""
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
        assert cache.size > 0, "the cache is empty"


def check_remembering(layer: AttentionLayer, length: int = 5) -> None:
    """Step-by-step attention to a cached memory gives the output of one pass.

    The memory's width may differ from that of the queries.
    """
    memory, queries = sequence_for(layer, length, layer.kdim), sequence_for(layer, 4)
    valid = torch.ones(2, length, dtype=torch.bool, device=memory.device)
    valid[0, -1] = False
    whole = layer(queries, memory, Padding(valid)).output
    cache = layer.remember(memory)
    rows = torch.tensor([1, 0], device=memory.device)  # decoding may reorder the batch
    outputs = [layer(queries[:, :2], mask=Padding(valid), cache=cache).output]
    cache.select(rows)
    for step in queries[rows, 2:].split(1, dim=1):
        outputs.append(layer(step, mask=Padding(valid[rows]), cache=cache).output[rows])
    assert_close(torch.cat(outputs, dim=1), whole)


def check_own_mask(masked: AttentionLayer, bare: AttentionLayer, mask: Mask, length: int) -> None:
    """A layer's own mask has the effect of the same mask as a dense one in the call."""
    bare.load_state_dict(masked.state_dict())
    sequence = sequence_for(masked, length)
    visible = mask.dense(2, 1, length, length, sequence.device).expand(2, 1, length, length)
    assert not visible.all(), "the sequence is too short for the mask to hide anything"
    assert_close(masked(sequence).output, bare(sequence, mask=Dense(visible)).output)
    both = masked(sequence, mask=Causal()).output
    assert_close(both, bare(sequence, mask=Dense(visible) & Causal()).output)


def check_lengths(layer: AttentionLayer) -> None:
    """Sequences of length 0 and 1 have finite outputs of the right shape."""
    across = layer.info.cross_attention
    for queries, keys in ((1, 1), (0, 0), *(((0, 3), (3, 0)) if across else ())):
        query = sequence_for(layer, queries)
        memory = sequence_for(layer, keys, layer.kdim) if across else query
        output = layer(query, memory).output
        assert output.shape == query.shape
        assert output.isfinite().all()


def check_bad_input(layer: AttentionLayer) -> None:
    """Wrong shapes and masks raise a ValueError with a message of one line."""
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


def check_arguments(node: Mapping[str, Any], make: Callable[[Any], AttentionLayer]) -> None:
    """Every number and bool in a config changes the parameters, the training output or an error.

    Those in ``speed_arguments`` of the layer's ``info`` must not.
    """
    before, speed_arguments = _fingerprint(node, make), make(node).info.speed_arguments
    for path, value in _arguments(node):
        changed = copy.deepcopy(dict(node))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = _another(value)
        is_same = _fingerprint(changed, make) == before
        name = ".".join(path)
        assert is_same == (name in speed_arguments), f"{name}: {value!r} → {inner[path[-1]]!r}"


def _arguments(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _arguments(value, (*path, key))
        elif isinstance(value, bool | int | float) and not key.startswith("_"):
            yield (*path, key), value


def _another(value: float) -> float:
    if isinstance(value, bool):
        return not value
    return 2 * value if isinstance(value, int) else value * 1.5 + 0.01


def _fingerprint(node: Mapping[str, Any], make: Callable[[Any], AttentionLayer]) -> str:
    """The shapes of a mechanism's parameters and its output in training, or its error message."""
    torch.manual_seed(0)
    try:
        layer = make(node).double()
        sequence = sequence_for(layer, 40)
        output = layer(sequence).output.detach()
    except ValueError as error:
        return str(error)
    shapes = [(name, tuple(p.shape)) for name, p in layer.named_parameters()]
    return f"{shapes} {output.mul(1e6).round().sum(0).tolist()}"
