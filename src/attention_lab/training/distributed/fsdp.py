"""Sharing a model out: each of several processes holds a part of every parameter.

Fully sharded data parallelism (Rajbhandari et al. 2020, "ZeRO", stage 3; Zhao et al. 2023).
"""

from typing import cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from attention_lab.models.base import LanguageNetwork, SequenceToSequenceNetwork

#: What is called of networks beside ``forward``: there, too, the parameters have to be whole.
CALLED = {
    SequenceToSequenceNetwork: ("prefill", "next_logits"),
    LanguageNetwork: ("hidden_states",),
}


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of a network only."""
    return isinstance(model, FSDPModule)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share a network out, layer by layer: one layer at a time is whole while it computes.

    Args:
        model: the network, all of whose processes have the same weights.
        mesh: the processes, in one dimension.
    """
    for layers in [each for each in model.modules() if isinstance(each, nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for kind, methods in CALLED.items():
        for method in methods if isinstance(model, kind) else ():
            register_fsdp_forward_method(model, method)


def gather(model: nn.Module) -> None:
    """Let each process hold all of a sharded network, until :func:`scatter`.

    So they need not wait for each other: one may write longer sequences than another.
    """
    for part in _parts(model):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def scatter(model: nn.Module) -> None:
    """Let each process hold its part of a network only, again."""
    for part in _parts(model):
        part.reshard()
        part.set_reshard_after_forward(part is not cast(FSDPModule, model), recurse=False)


def _parts(model: nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]
