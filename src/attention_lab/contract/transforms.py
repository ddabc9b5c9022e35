"""Checks that a layer can be compiled, exported, traced, vmapped, copied and made on meta.

Each takes a layer, or a function that makes one, and raises AssertionError. Shapes are small and
no code is generated, so a check takes a fraction of a second.
"""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._dynamo.testing import CompileCounter
from torch.export import Dim
from torch.func import functional_call, grad, vmap
from torch.testing import assert_close

from attention_lab.attention import AttentionLayer, Cache, Causal, Mask, Padding
from attention_lab.contract.examples import device_of, sequence_for

Make = Callable[[], AttentionLayer]


def causal_if_possible(layer: AttentionLayer) -> Mask | None:
    return Causal() if layer.info.causal else None


def sequence(layer: AttentionLayer, *shape: int) -> Tensor:
    return torch.randn(*shape, layer.embed_dim, dtype=torch.float64, device=device_of(layer))


def random_padding(layer: AttentionLayer, *shape: int) -> Tensor:
    """(batch, length) bool on the layer's device: True at positions that are not padding."""
    return torch.rand(*shape, device=device_of(layer)) < 0.7


def check_compiling(make: Make) -> None:
    """A fresh layer compiles into one graph with the same output and weights."""
    torch._dynamo.reset()
    layer, can = make(), make().info
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    arguments: dict[str, object] = {"need_weights": can.weights}
    if can.cross_attention:
        arguments["memory"] = sequence_for(layer, 6, layer.kdim)
    x = sequence(layer, 2, 4)
    with _one_graph():
        actual = compiled(x, **arguments)
    assert_close(actual, layer(x, **arguments))


def check_compiled_decoding(layer: AttentionLayer, steps: int = 5) -> None:
    """Decoding compiles a layer at most twice: the second graph takes any length."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    cache, expected = Cache(), Cache()
    with torch.no_grad():
        prompt = sequence(layer, 2, 3)
        for its_cache in (cache, expected):
            layer(prompt, mask=Causal(), cache=its_cache)
        for step in sequence(layer, 2, steps).split(1, dim=1):
            with _one_graph():
                output = compiled(step, mask=Causal(), cache=cache).output
            assert_close(output, layer(step, mask=Causal(), cache=expected).output)
    assert counter.frame_count <= 2, f"compiled {counter.frame_count} times for {steps} steps"


@contextmanager
def _one_graph() -> Iterator[None]:
    try:
        yield
    except TorchDynamoException as error:
        raise AssertionError(f"not one graph: {error}") from error


class Padded(nn.Module):
    """A layer that takes its padding as a tensor, as torch.export needs it."""

    def __init__(self, layer: AttentionLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        mask = causal_if_possible(self.layer)
        padding = Padding(valid)
        output: Tensor = self.layer(x, mask=padding if mask is None else mask & padding).output
        return output


def check_export(layer: AttentionLayer) -> None:
    """An exported layer takes batches and sequences of any size, up to 64."""
    padded = Padded(layer)

    def example(batch: int, length: int) -> tuple[Tensor, Tensor]:
        return sequence(layer, batch, length), random_padding(layer, batch, length)

    sizes = {0: Dim("batch", min=1, max=64), 1: Dim("length", min=2, max=64)}
    try:
        exported = torch.export.export(padded, example(2, 6), dynamic_shapes=(sizes, sizes))
    except torch._dynamo.exc.UserError as error:
        raise AssertionError(f"cannot be exported with dynamic lengths: {error}") from error
    module = exported.module()
    for batch, length in ((3, 9), (1, 2), (2, 40)):
        inputs = example(batch, length)
        assert_close(module(*inputs), padded(*inputs))


def check_tracing(layer: AttentionLayer) -> None:
    """torch.jit.trace records a layer."""
    padded, inputs = Padded(layer), (sequence(layer, 2, 5), random_padding(layer, 2, 5))
    try:
        traced = torch.jit.trace(padded, inputs, check_trace=False)
    except (RuntimeError, TypeError) as error:
        raise AssertionError(f"cannot be traced: {error}") from error
    assert_close(traced(*inputs), padded(*inputs))


def check_vmap(layer: AttentionLayer) -> None:
    """torch.func.vmap gives the outputs and gradients that each example gives alone."""
    mask = causal_if_possible(layer)
    parameters: dict[str, Tensor] = dict(layer.named_parameters())

    def loss(of: dict[str, Tensor], x: Tensor) -> Tensor:
        output: Tensor = functional_call(layer, of, (x,), {"mask": mask}).output
        return output.square().sum()

    xs = sequence(layer, 3, 1, 5)
    try:
        outputs = vmap(lambda x: layer(x, mask=mask).output)(xs)
        gradients = vmap(grad(loss), (None, 0))(parameters, xs)
    except RuntimeError as error:
        raise AssertionError(f"cannot be vmapped: {error}") from error
    assert_close(outputs, torch.stack([layer(x, mask=mask).output for x in xs]))
    assert_close({k: g[1] for k, g in gradients.items()}, grad(loss)(parameters, xs[1]))


def check_copies(layer: AttentionLayer) -> None:
    """Deep copies and pickles of a used layer give the same output."""
    x = sequence(layer, 2, 4)
    expected = layer(x).output
    try:
        pickled = pickle.loads(pickle.dumps(layer))
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise AssertionError(f"cannot be pickled: {error}") from error
    for twin in (copy.deepcopy(layer), pickled):
        assert torch.equal(twin(x).output, expected)


def check_meta_device(make: Make, make_on_meta: Make) -> None:
    """A layer made on the meta device works after to_empty and load_state_dict.

    It also runs on the meta device itself, where a tensor on another device would raise.
    """
    expected = make()
    with torch.device("meta"):
        layer = make_on_meta()
        x, valid = torch.randn(2, 4, layer.embed_dim).double(), torch.ones(2, 4, dtype=torch.bool)
    mask = causal_if_possible(layer)
    padded = Padding(valid) if mask is None else mask & Padding(valid)
    try:
        layer(x, mask=padded, need_weights=layer.info.weights).output.sum().backward()
    except RuntimeError as error:  # also its subclass NotImplementedError
        raise AssertionError(f"cannot be run on the meta device: {error}") from error
    layer = layer.to_empty(device=device_of(expected))
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            tensor.fill_(torch.nan)  # in place of uninitialized memory
    layer.load_state_dict(expected.state_dict())
    x = sequence(layer, 2, 4)
    assert torch.equal(layer(x).output, expected(x).output), "something is not in the state"
