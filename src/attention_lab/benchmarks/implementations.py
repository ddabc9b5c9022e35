"""Implementations to measure, and ours among them: each mechanism on each of its backends."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_lab.attention import AttentionInputs, AttentionLayer, Cache, Causal, Mask, NoMask
from attention_lab.config.components import check_node, create
from attention_lab.config.compose import composed, group_options

#: The mechanism that torch's SDPA computes, which the others are compared with.
BASELINE = "scaled_dot_product"
#: Keys of a layer that do not change attention itself, which is measured without projections.
OUTSIDE = ("bias", "gate", "latent_dim", "projections")


@dataclass(frozen=True)
class Setting:
    """The sizes of all calls, and where they run."""

    batch_size: int
    num_heads: int
    head_dim: int
    lengths: Sequence[int]
    device: str
    dtype: torch.dtype
    causal: bool = False

    @property
    def embed_dim(self) -> int:
        """Size of all heads together."""
        return self.num_heads * self.head_dim


class Skipped(NamedTuple):
    """Something that was not measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Implementation:
    """A way to compute attention that is timed.

    ``call`` takes query, key and value of all heads, (B, H, L, E) and twice (B, H_kv, S, E), and
    the keyword ``causal``. With ``projects`` it takes a sequence (B, L, H·E) in their place, and
    includes the projections.
    """

    name: str
    call: Callable[..., Tensor]
    #: Our layer, with the same parameters, that computes the same formula by plain operations.
    reference: AttentionLayer
    #: The parameters that need a gradient.
    parameters: tuple[Tensor, ...] = ()
    projects: bool = False
    #: Whether it keeps tensors of all pairs of positions.
    is_eager: bool = False
    trains: bool = True
    decodes: bool = True
    #: Whether a RuntimeError means that it does not support the device, the data type or the sizes,
    #: as torch's kernels, compiled code and other libraries raise it; in our code it is a fault.
    may_refuse: bool = True
    #: Our layer, which decodes with its own cache; None for another library.
    layer: AttentionLayer | None = None

    def reference_output(self, *inputs: Tensor, causal: bool) -> Tensor:
        """The output by plain operations in double precision."""
        exact = deepcopy(self.reference).double()
        return attended(exact, self.projects, *(x.double() for x in inputs), causal=causal)

    def on_meta(self) -> "Implementation":
        """The reference on the meta device, where calls cost nothing."""
        layer = deepcopy(self.reference).to("meta")
        call = partial(attended, layer, self.projects)
        parameters = parameters_of(layer, self.projects)
        return replace(self, call=call, layer=layer, parameters=parameters)


def attended(layer: AttentionLayer, projects: bool, *inputs: Tensor, causal: bool) -> Tensor:
    """The output of a layer: (B, L, H·E) with its projections, or (B, H, L, E) without."""
    mask: Mask = Causal() if causal else NoMask()
    if projects:
        return layer(*inputs, mask=mask).output
    query, key, value = inputs
    return layer.attend(AttentionInputs(query, key, value, layer.mask & mask))[0]


def parameters_of(layer: AttentionLayer, projects: bool) -> tuple[Tensor, ...]:
    """The parameters of a layer, with or without those of its projections."""
    named = layer.named_parameters()
    return tuple(it for name, it in named if projects or "_projection" not in name)


@cache
def attention_node(option: str) -> dict[str, Any]:
    """The composed config of a mechanism, an option of ``attention``."""
    node: dict[str, Any] = composed([], None, f"attention/{option}")["attention"]
    check_node(option, node, AttentionLayer)
    return node


def distinct_options() -> list[str]:
    """All mechanisms, each way of attending once; scaled dot product first.

    Some options differ in their projections only, such as ``gated``.
    """
    first: dict[str, str] = {}
    for option in [BASELINE, *group_options("attention")]:
        node = {key: it for key, it in attention_node(option).items() if key not in OUTSIDE}
        first.setdefault(json.dumps(node | {"num_heads": 1}, sort_keys=True), option)
    return list(first.values())


def make_layer(option: str, setting: Setting, backend: str | None = None) -> AttentionLayer:
    """A layer of a mechanism in the benchmark's sizes; its parameters are always the same.

    Raises:
        ValueError: if the mechanism cannot have these sizes, or this backend.
    """
    longest = max(setting.lengths) + 1  # a decode step adds a position
    node = _with_max_length(attention_node(option), longest)
    sizes = {"num_heads": setting.num_heads, "head_dim": setting.head_dim, "backend": backend}
    given = {key: it for key, it in sizes.items() if key in node and it is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer: AttentionLayer = create({**node, **given})(setting.embed_dim)
    return layer.to(setting.device, setting.dtype).eval()


def _with_max_length(value: Any, max_length: int) -> Any:
    """A config node with another ``max_length``, wherever it has one."""
    if not isinstance(value, dict):
        return value
    inner = {key: _with_max_length(it, max_length) for key, it in value.items()}
    return inner | ({"max_length": max_length} if "max_length" in inner else {})


def mechanisms(
    options: Iterable[str], backends: Sequence[str] | None, setting: Setting
) -> Iterator[Implementation | Skipped]:
    """Our implementations: each mechanism on each of its backends, or on those that are named."""
    for option in options:
        try:
            layer = make_layer(option, setting)
        except ValueError as error:
            yield Skipped(option, str(error))
            continue
        if setting.causal and not layer.info.causal:
            yield Skipped(option, "cannot be causal")
            continue
        has_backends = "backend" in attention_node(option)
        for backend in layer.info.backends if has_backends else ("eager",):
            # On the CPU, flex compiles for half a minute; elsewhere, tiled computes as eager.
            is_default = backend != ("flex" if setting.device == "cpu" else "tiled")
            if is_default if backends is None else backend in backends:
                yield _ours(option, backend, has_backends, setting)


def _ours(option: str, backend: str, has_backends: bool, setting: Setting) -> Implementation:
    layer, eager = (
        make_layer(option, setting, name if has_backends else None) for name in (backend, "eager")
    )
    return Implementation(
        f"{option} {backend}",
        partial(attended, layer, False),
        eager,
        parameters_of(layer, False),
        is_eager=backend == "eager",
        trains=backend != "flex" or setting.device == "cuda",
        decodes=layer.info.causal,
        may_refuse=backend == "flex",
        layer=layer,
    )


def decoder(layer: AttentionLayer, cache: Cache, *inputs: Tensor) -> Callable[[], Tensor]:
    """A function that decodes the position after those of the inputs, each time the same one.

    Args:
        layer: the layer.
        cache: an empty cache.
        inputs: query, key and value of the positions before, which fill the cache.
    """
    mask = layer.mask & Causal()

    def step(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        new = AttentionInputs(query, key, value, mask, start=cache.length)
        output, _ = layer.attend_next(new, cache)
        cache.length += query.shape[2]
        return output

    step(*inputs)
    length, tensors = cache.length, dict(cache.tensors)
    query, key, value = (x[:, :, -1:] for x in inputs)

    def call() -> Tensor:
        # All calls attend to the same number of keys, as those of other libraries do.
        cache.length, cache.tensors = length, dict(tensors)
        return step(query, key, value)

    return call
