"""Gradient checkpointing keeps fewer activations and changes no gradient."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from attention_lab.config.components import ConfigError
from attention_lab.config.identity import identity
from attention_lab.training.tasks.base import AttentionTask
from attention_lab.training.trainer import TrainerOptions
from tests.conftest import Compose
from tests.runs import build

SMALL = ("model.d_model=16", "data.examples=60", "data.evaluation_examples=20", "trainer=cpu")
MODELS = {
    "encoder_decoder": ("data=reverse", "model.num_encoder_layers=3", *SMALL),
    "prefix_decoder": ("data=reverse", "model.num_layers=4", *SMALL),
    "decoder": ("data=recall", "model.num_layers=4", *SMALL),
    "encoder_classifier": ("data=listops", "model.num_layers=4", *SMALL),
}


def kept(task: AttentionTask, batch: Any) -> tuple[Tensor, int]:
    """The loss of a batch, and the number of elements that its graph keeps for the backward."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.loss(batch).mean
    return loss, sum(sizes.values())


@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_the_same_and_less_is_kept(model: str, compose: Compose) -> None:
    config = compose(f"model={model}", "attention.dropout=0.2", *MODELS[model])
    run = build(config)
    plain, task = copy.deepcopy(run.task), build(with_checkpointing(config)).task
    batch = next(iter(run.data.train_dataloader()))
    gradients, sizes = [], []
    for each in (plain, task):
        loss, size = kept(each.train(), batch)
        gradients.append(torch.autograd.grad(loss, list(each.model.parameters())))
        sizes.append(size)
    assert all(map(torch.equal, *gradients))
    assert sizes[1] < 0.5 * sizes[0]
    assert kept(task.eval(), batch)[1] == kept(plain.eval(), batch)[1], "active in eval"
    assert task.state_dict().keys() == plain.state_dict().keys()


def test_a_model_without_layers_is_refused(compose: Compose) -> None:
    config = compose("model=recurrent_encoder_decoder", "data=reverse", *SMALL)
    with pytest.raises(ConfigError, match="RecurrentEncoderDecoder has no stack of layers"):
        build(with_checkpointing(config))


def test_compiling_excludes_it() -> None:
    with pytest.raises(ValueError, match="gradient_checkpointing must be false with compile"):
        TrainerOptions(compile=True, gradient_checkpointing=True)


def test_it_does_not_change_the_identity(compose: Compose) -> None:
    config = compose()
    assert identity(with_checkpointing(config)) == identity(config)


def with_checkpointing(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "trainer": {**config["trainer"], "gradient_checkpointing": True}}
