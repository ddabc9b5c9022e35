"""Fully sharded training: each rank holds a part of every parameter.

Source: Rajbhandari et al. 2020, "ZeRO", stage 3; Zhao et al. 2023 ("PyTorch FSDP").
"""

from typing import cast

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from attention_lab.models.base import LanguageNetwork, SequenceToSequenceNetwork

#: Methods besides ``forward`` that need the whole parameters.
FORWARD_METHODS = {
    SequenceToSequenceNetwork: ("prefill", "next_logits"),
    LanguageNetwork: ("hidden_states",),
}


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank holds only a part of a network."""
    return isinstance(model, FSDPModule)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network layer by layer, so that one layer at a time is gathered to compute.

    Args:
        model: the network, with the same weights on all ranks.
        mesh: the ranks, in one dimension.
    """
    for layers in [each for each in model.modules() if isinstance(each, nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for kind, methods in FORWARD_METHODS.items():
        for method in methods if isinstance(model, kind) else ():
            register_fsdp_forward_method(model, method)


def unshard(model: nn.Module) -> None:
    """Gather all parameters of a sharded network on each rank, until :func:`reshard`.

    Ranks then need not wait for each other, for example if one of them decodes longer sequences.
    """
    for part in _parts(model):
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()


def reshard(model: nn.Module) -> None:
    """Free the parameters that :func:`unshard` gathered."""
    for part in _parts(model):
        part.reshard()
        part.set_reshard_after_forward(part is not cast(FSDPModule, model), recurse=False)


def _parts(model: nn.Module) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)]
