"""A training step does not synchronize: it reads no values from the GPU and copies none to it.

On the meta device, which has no values, reading one fails. A function mode finds the copies.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tests.conftest import Compose
from tests.runs import build

SMALL = ("trainer=cpu", "model.d_model=32", "data.examples=100", "data.evaluation_examples=20")
REVERSE = ("data=reverse", *SMALL)
MODELS = {
    "encoder_decoder": REVERSE,
    "prefix_decoder": REVERSE,
    "decoder": ("data=recall", "data.vocab_size=64", "data.lengths=[32]", *SMALL),
    "encoder_classifier": ("data=listops", *SMALL),
    "self_attention_classifier": ("data=digits", "trainer=cpu", "model.d_model=32"),
}
MECHANISMS = (
    *("additive", "cosine", "differential", "gated", "grouped_query", "latent", "linear"),
    *("linformer", "local", "multi_head", "nystrom", "performer", "sigmoid", "sparsemax"),
)


CREATING, COPYING = ("tensor", "as_tensor", "new_tensor"), ("to", "type_as", "copy_")


class NoCopies(TorchFunctionMode):
    """Raises if a tensor on the CPU is copied to the meta device."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        from_cpu = name in CREATING or ("cpu" in devices(args) and name in COPYING)
        if from_cpu and "meta" in devices(output):
            raise RuntimeError(f"{name} copies from the CPU")
        return output


def devices(tree: Any) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}


def training_step(config: dict[str, Any], accumulated: int = 1) -> None:
    """One training step, forward and backward, on the meta device."""
    run = build(config)
    task = run.task
    batch = next(iter(run.data.train_dataloader()))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(_should_accumulate=lambda: False))
    trainer = SimpleNamespace(
        global_step=0,
        log_every_n_steps=1,
        accumulate_grad_batches=accumulated,
        optimizers=[optimizer],
        fit_loop=loop,
        world_size=1,
    )
    task._trainer, task._fabric = trainer, None  # type: ignore[assignment]  # all that a step uses
    logged: dict[str, Any] = {}
    task.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    task.to("meta")
    batch = move_data_to_device(batch, torch.device("meta"))
    with NoCopies():
        loss = task.training_step(batch, 0)
        (loss if isinstance(loss, Tensor) else loss["loss"]).backward()
        task.on_after_backward()
    assert logged
    for name, value in logged.items():
        assert isinstance(value, Tensor), f"{name} is a number, which Lightning copies"


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("model", MODELS)
def test_a_training_step_does_not_synchronize(model: str, mechanism: str, compose: Compose) -> None:
    if mechanism in ("linformer", "nystrom") and "classifier" not in model:
        pytest.skip("it cannot be causal")
    training_step(compose(f"model={model}", f"attention={mechanism}", *MODELS[model]))


@pytest.mark.parametrize("model", MODELS)
def test_an_accumulating_step_does_not_synchronize(model: str, compose: Compose) -> None:
    training_step(compose(f"model={model}", "attention=additive", *MODELS[model]), accumulated=4)


def test_a_recurrent_encoder_synchronizes_to_read_the_lengths(compose: Compose) -> None:
    """The only exception: PyTorch packs sequences by lengths on the CPU."""
    config = compose("model=recurrent_encoder_decoder", "attention=additive", *REVERSE)
    with pytest.raises(NotImplementedError, match="meta"):
        training_step(config)


@pytest.mark.parametrize(
    "read",
    [lambda x: x.tolist(), lambda x: x[x > 0], lambda x: x + torch.tensor(1.0, device="meta")],
)
def test_reads_and_copies_are_detected(read: Any) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)), NoCopies():
        read(torch.ones(2, device="meta"))
