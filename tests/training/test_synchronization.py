"""Training does not synchronize: it reads no values from the GPU and copies none to it.

On the meta device, which has no values, reading one fails. A function mode finds the copies.
Validation and decoding are tested in the same way, except for ``HOST_METHODS`` and
``HOST_DECODING``.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from attention_lab.models.base import Caches
from attention_lab.training.tasks.sequence_to_sequence import SequenceToSequence
from attention_lab.training.tasks.slice_accuracy import SliceAccuracy
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
#: The methods that synchronize in a validation step, and why.
HOST_METHODS = {
    MeanMetric.update: "torchmetrics asks whether a value is NaN",
    MulticlassAccuracy.update: "torchmetrics checks the labels, and leaves out padding",
    SliceAccuracy.update: "the lengths that separate slices are on the CPU",
    SequenceToSequence.generate: "it ends when all sequences have ended, and returns lists",
}
#: The models whose decoding synchronizes, and why.
HOST_DECODING = {"prefix_decoder": "it groups sources by length, to compute no padding"}

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


class Reached(Exception):
    """A validation step has reached the decoding, which synchronizes."""


@pytest.fixture
def without_host_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics ignore their batches, and a validation step ends with :class:`Reached` to decode."""

    def stop(*_: Any) -> NoReturn:
        raise Reached

    for method in HOST_METHODS:
        owner = f"{method.__module__}.{method.__qualname__}"
        monkeypatch.setattr(owner, (lambda *_, **__: None) if owner.endswith("update") else stop)


def decode(model: Any, source: Tensor | None) -> None:
    """Three steps of decoding on the meta device, with beams that change places."""
    caches: Caches = {} if source is None else model.prefill(source)
    rows = 2 if source is None else len(source)
    tokens = torch.ones(rows, 1, dtype=torch.int64, device="meta")
    for _ in range(3):
        tokens = model.next_logits(tokens, caches).argmax(-1, keepdim=True)
        for cache in caches.values():
            cache.select(tokens.squeeze(1))


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
        progress_bar_callback=None,
    )
    task._trainer, task._fabric = trainer, None  # type: ignore[assignment]  # all that a step uses
    logged: dict[str, Any] = {}

    def log(name: str, value: Any, prog_bar: bool = False, **_: Any) -> None:
        assert not prog_bar, f"Lightning would read {name} at every step, for its progress bar"
        logged[name] = value

    task.log = log  # type: ignore[method-assign, assignment]  # the arguments that a step uses
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


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.usefixtures("without_host_methods")
def test_validation_and_decoding_do_not_synchronize(
    model: str, mechanism: str, compose: Compose
) -> None:
    if mechanism in ("linformer", "nystrom") and "classifier" not in model:
        pytest.skip("it cannot be causal")
    run = build(compose(f"model={model}", f"attention={mechanism}", *MODELS[model]))
    batch = next(iter(run.data.val_dataloader()))
    task = run.task.to("meta").eval()
    batch = move_data_to_device(batch, torch.device("meta"))
    with NoCopies(), torch.no_grad():
        with pytest.raises(Reached) if hasattr(task, "generate") else nullcontext():
            task.validation_step(batch, 0)
        task.compute_metrics("validation")
        if task.task == "classification":
            return
        reads = pytest.raises(NotImplementedError, match="Meta")
        with reads if model in HOST_DECODING else nullcontext():
            decode(task.model, getattr(batch, "source", None))


def test_a_recurrent_encoder_synchronizes_to_read_the_lengths(compose: Compose) -> None:
    """The only exception in training: PyTorch packs sequences by lengths on the CPU.

    Padded sequences, reversed for the backward direction, would need no lengths there, but the
    results differ in the last digits.
    """
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
