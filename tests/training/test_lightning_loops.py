"""Lightning has the private attributes that we use; these tests fail if an upgrade changes them.

test_preemption.py, test_resume.py and test_run.py test what they are used for.
"""

import inspect
from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel
from lightning.pytorch.loops import training_epoch_loop
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors import data_connector
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from torch import nn

from attention_lab.training.lightning_loops import (
    BATCH_HOOKS,
    InspectHooksOnce,
    QuickHooksModule,
    disable_signal_handlers,
    skip_empty_hooks,
)
from attention_lab.training.strategies import NoProfiler


def test_lightning_registers_signal_handlers_in_the_method_that_we_replace() -> None:
    trainer = Trainer(accelerator="cpu", logger=False)
    assert isinstance(trainer._signal_connector, _SignalConnector)
    assert "_signal_connector.register_signal_handlers()" in inspect.getsource(Trainer._run)
    disable_signal_handlers(trainer)
    assert trainer._signal_connector.register_signal_handlers() is None


def test_lightnings_loops_have_the_attributes_that_we_set() -> None:
    loop = Trainer(accelerator="cpu", logger=False).fit_loop.epoch_loop
    assert loop.max_steps == -1
    assert isinstance(loop.val_loop, _EvaluationLoop)
    assert loop.val_loop._has_run is False
    assert loop.val_loop.restarting is False
    assert callable(loop.val_loop.reset_restart_stage)


def short_trainer(max_steps: int, callbacks: list[Callback], **options: Any) -> Trainer:
    """A Trainer that trains for some steps, and writes nothing."""
    return Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        limit_val_batches=0,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class Counter(Callback):
    """Counts training batches."""

    count = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.count += 1


class Model(BoringModel):
    """A module with one hook."""

    norm: float | None = None

    def on_after_backward(self) -> None:
        self.norm = float(self.layer.weight.grad.norm())  # type: ignore[union-attr]


class Calls(NoProfiler):
    """Records what Lightning calls."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def profile(self, action_name: str) -> Any:
        self.names.append(action_name)
        return super().profile(action_name)


def test_lightning_calls_only_the_batch_hooks_that_are_overridden() -> None:
    calls, counter, model = Calls(), Counter(), Model()
    trainer = short_trainer(2, [counter, Callback()], profiler=calls)
    skip_empty_hooks(trainer, model)
    trainer.fit(model)
    assert counter.count == 2
    assert model.norm is not None
    owners = ("[Callback]", "[LightningModule]")
    called = {n for n in calls.names if n.startswith(owners) and n.endswith(BATCH_HOOKS)}
    assert called == {
        "[Callback]Counter.on_train_batch_end",
        "[LightningModule]Model.on_after_backward",
    }


def test_hooks_are_skipped_once_more_without_harm() -> None:
    trainer, model = Trainer(accelerator="cpu", logger=False), Model()
    for _ in range(2):
        skip_empty_hooks(trainer, model)
    assert model.on_before_backward is None
    assert callable(model.on_after_backward)


class Data(BoringDataModule):
    """Data with a hook for each batch."""

    moved = 0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.moved += 1
        return batch


def test_hooks_of_the_data_and_arguments_of_the_step_are_not_inspected_at_each_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inspected: list[str] = []
    original = data_connector.is_overridden

    def is_overridden(hook: str, *owner: Any) -> bool:
        inspected.append(hook)
        return original(hook, *owner)

    monkeypatch.setattr(data_connector, "is_overridden", is_overridden)
    monkeypatch.delattr(training_epoch_loop, "is_param_in_hook_signature")
    trainer = short_trainer(5, [InspectHooksOnce()])
    trainer.fit(BoringModel(), datamodule=(data := Data()))
    assert data.moved == 5
    # Twice: of the data, and of the task.
    assert max(inspected.count(hook) for hook in inspected if "batch" in hook) <= 2


class StepWithoutIndex(BoringModel):
    """A module whose training step takes the batch only."""

    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return self.step(batch)


def test_a_training_step_need_not_take_the_index_of_the_batch() -> None:
    trainer = short_trainer(2, [InspectHooksOnce()])
    trainer.fit(StepWithoutIndex())
    assert trainer.global_step == 2


def test_lightning_notes_the_current_hook_without_a_search_for_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = inspect.getsource(call._call_lightning_module_hook)
    assert "pl_module._current_fx_name = hook_name" in source
    module = QuickHooksModule()
    module.layer = nn.Linear(1, 1)
    assert len(list(module.parameters())) == 2
    monkeypatch.setattr(nn.Module, "__setattr__", None)
    module._current_fx_name = "training_step"
    assert module._current_fx_name == "training_step"
