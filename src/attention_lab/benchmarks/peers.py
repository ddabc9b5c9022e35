"""Implementations of other libraries, each with the layer of ours whose formula it computes.

Those that include projections have the weights of our layer.
"""

import importlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention_lab.attention import Additive, AttentionLayer, ScoredAttention
from attention_lab.benchmarks.implementations import (
    BASELINE,
    Implementation,
    Setting,
    Skipped,
    attended,
    make_layer,
    parameters_of,
)

#: The name of the implementation that the others are compared with.
SDPA = "torch SDPA"
#: The implementations that the others are compared with: those without and with projections.
BASELINES = {False: SDPA, True: f"{SDPA} + projections"}

Found = Iterator[Implementation | Skipped]


def peers(setting: Setting, groups: Sequence[str] | None = None) -> Found:
    """The implementations of other libraries; one that is not installed is skipped.

    Args:
        setting: the sizes, and where to run.
        groups: names of ``GROUPS`` to include; None means all. SDPA is always included.
    """
    yield from torch_sdpa(setting)
    for name, group in GROUPS.items():
        if groups is None or name in groups:
            yield from group(setting)


def installed(module: str, package: str) -> ModuleType | Skipped:
    """An optional module, or which package would bring it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError:
        return Skipped(package, f"not installed; pip install {package}")


def torch_sdpa(setting: Setting) -> Found:
    """PyTorch's scaled dot-product attention, as it chooses and on each of its backends."""
    layer = make_layer(BASELINE, setting, "eager")

    def restricted(
        backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor, causal: bool
    ) -> Tensor:
        with sdpa_kernel(backend):
            return sdpa(query, key, value, causal)

    yield Implementation(SDPA, sdpa, layer)
    names = {"MATH": "math", "FLASH_ATTENTION": "flash"}
    if setting.device == "cuda":
        names |= {"EFFICIENT_ATTENTION": "efficient", "CUDNN_ATTENTION": "cuDNN"}
    for backend, name in names.items():
        kernel = partial(restricted, getattr(SDPBackend, backend))
        yield Implementation(f"{SDPA} {name}", kernel, layer, is_eager=name == "math")


def sdpa(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """PyTorch's scaled dot-product attention."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal)


def flex_attention(setting: Setting) -> Found:
    """PyTorch's FlexAttention, compiled; on the CPU it has no backward pass."""
    from torch.nn.attention import flex_attention as flex

    compiled = torch.compile(flex.flex_attention)

    def is_visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return query >= key

    @cache
    def causal_mask(length: int) -> flex.BlockMask:
        return flex.create_block_mask(is_visible, None, None, length, length, setting.device)

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        mask = causal_mask(key.shape[2]) if causal else None
        output: Tensor = compiled(query, key, value, block_mask=mask)
        return output

    layer = make_layer(BASELINE, setting, "eager")
    yield Implementation("FlexAttention", call, layer, trains=setting.device == "cuda")


def with_projections(setting: Setting) -> Found:
    """Whole multi-head layers: ours, one written around torch's SDPA, and other libraries'."""
    layer = make_layer("multi_head", setting)
    projected = partial(_projected, make_layer("multi_head", setting, "eager"))
    yield projected(BASELINES[True], partial(_sdpa_layer, layer), layer)
    yield projected("multi_head + projections", partial(attended, layer, True), layer)
    torch_layer = _torch_layer(layer, setting)
    yield projected("nn.MultiheadAttention", partial(_call_torch_layer, torch_layer), torch_layer)
    library = installed("x_transformers.x_transformers", "x-transformers")
    if isinstance(library, Skipped):
        yield library
        return
    for name, flash in (("x-transformers", False), ("x-transformers, flash", True)):
        other = _x_transformers_layer(library, layer, setting, flash)
        yield projected(name, partial(_call_x_transformers, other), other)


def _projected(
    reference: AttentionLayer, name: str, call: Callable[..., Tensor], module: nn.Module
) -> Implementation:
    parameters = tuple(module.parameters())
    return Implementation(
        name,
        call,
        reference,
        parameters,
        projects=True,
        decodes=False,
        is_eager="flash" not in name,
    )


def _sdpa_layer(layer: AttentionLayer, sequence: Tensor, causal: bool) -> Tensor:
    """Multi-head attention written by hand, with the weights of our layer."""
    projections = (layer.query_projection, layer.key_projection, layer.value_projection)
    query, key, value = (
        F.linear(sequence, _weight(it)).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for it in projections
    )
    merged = sdpa(query, key, value, causal).transpose(1, 2).flatten(2)
    return F.linear(merged, _weight(layer.output_projection))


def _weight(projection: nn.Module) -> Tensor:
    return projection.get_parameter("weight")


def _torch_layer(layer: AttentionLayer, setting: Setting) -> nn.MultiheadAttention:
    sizes = (setting.embed_dim, setting.num_heads)
    made = nn.MultiheadAttention(*sizes, bias=False, batch_first=True)
    projections = (layer.query_projection, layer.key_projection, layer.value_projection)
    with torch.no_grad():
        made.in_proj_weight.copy_(torch.cat([_weight(it) for it in projections]))
        made.out_proj.weight.copy_(_weight(layer.output_projection))
    return made.to(setting.device, setting.dtype).eval()


def _call_torch_layer(layer: nn.MultiheadAttention, sequence: Tensor, causal: bool) -> Tensor:
    mask = None
    if causal:
        size = sequence.shape[1]
        mask = torch.ones(size, size, dtype=torch.bool, device=sequence.device).triu(1)
    inputs = (sequence, sequence, sequence)
    output: Tensor
    output, _ = layer(*inputs, need_weights=False, attn_mask=mask, is_causal=causal)
    return output


def _x_transformers_layer(
    library: ModuleType, layer: AttentionLayer, setting: Setting, flash: bool
) -> nn.Module:
    sizes = {"dim": setting.embed_dim, "dim_head": setting.head_dim, "heads": setting.num_heads}
    made: nn.Module = library.Attention(**sizes, causal=setting.causal, flash=flash)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out": "output"}
    with torch.no_grad():
        for theirs, ours in names.items():
            weight = layer.get_parameter(f"{ours}_projection.weight")
            made.get_parameter(f"{theirs}.weight").copy_(weight)
    return made.to(setting.device, setting.dtype).eval()


def _call_x_transformers(layer: nn.Module, sequence: Tensor, causal: bool) -> Tensor:
    output: Tensor = layer(sequence)  # it was made causal or not
    return output


def additive(setting: Setting) -> Found:
    """Additive attention as others write it: with a tensor of all pairs and features."""
    layer = make_layer("additive", setting, "eager")
    yield _additive("additive as in OpenNMT", layer, partial(_plain_additive, _score(layer)))
    with tempfile.TemporaryDirectory() as home:  # Keras writes its settings there
        variables = {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": setting.device}
        os.environ |= {"KERAS_HOME": home, **variables}
        keras: Any = installed("keras", "keras")
    if isinstance(keras, Skipped):
        yield keras
        return
    layer = make_layer("additive", setting, "eager")
    with torch.no_grad():  # its heads share one vector
        vector = _score(layer).vector
        vector.copy_(vector[:1].expand_as(vector))
    name = str(setting.dtype).removeprefix("torch.")
    theirs = keras.layers.AdditiveAttention(dtype=name)
    theirs.build([(None, None, setting.head_dim)] * 3)
    theirs.set_weights([vector[0].detach().float().cpu().numpy()])
    yield _additive("Keras AdditiveAttention", layer, partial(_keras, theirs, _score(layer)))


def _additive(name: str, layer: AttentionLayer, call: Callable[..., Tensor]) -> Implementation:
    return Implementation(name, call, layer, parameters_of(layer, False), is_eager=True)


def _score(layer: AttentionLayer) -> Additive:
    assert isinstance(layer, ScoredAttention)
    assert isinstance(layer.score, Additive)
    return layer.score


def _plain_additive(
    score: Additive, query: Tensor, key: Tensor, value: Tensor, causal: bool
) -> Tensor:
    pairs = (query @ score.query_weight).unsqueeze(3) + (key @ score.key_weight).unsqueeze(2)
    logits = (torch.tanh(pairs) @ score.vector[:, None, :, None]).squeeze(-1)
    if causal:
        visible = torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device).tril()
        logits = logits.masked_fill(~visible, -torch.inf)
    return logits.softmax(-1) @ value


def _keras(
    layer: Any, score: Additive, query: Tensor, key: Tensor, value: Tensor, causal: bool
) -> Tensor:
    heads = query @ score.query_weight, value, key @ score.key_weight
    output: Tensor = layer([x.flatten(0, 1) for x in heads], use_causal_mask=causal)
    return output.unflatten(0, query.shape[:2])


def linear(setting: Setting) -> Found:
    """Causal linear attention of flash-linear-attention, on a GPU."""
    name = "flash-linear-attention"
    if setting.device != "cuda" or not setting.causal:
        yield Skipped(name, "needs --device cuda --causal")
        return
    library = installed("fla.ops.linear_attn", name)
    if isinstance(library, Skipped):
        yield library
        return
    kernel = library.chunk_linear_attn

    def call(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
        features = (F.elu(query) + 1, F.elu(key) + 1, value)
        inputs: Sequence[Tensor] = [x.transpose(1, 2) for x in features]
        output, _ = kernel(*inputs, scale=1.0, normalize=True)
        return output.transpose(1, 2)

    yield Implementation(name, call, make_layer("linear", setting), decodes=False)


#: Other libraries' implementations, by the name with which the command chooses them.
GROUPS: dict[str, Callable[[Setting], Found]] = {
    "flex": flex_attention,
    "layers": with_projections,
    "additive": additive,
    "linear": linear,
}
