"""Changes to Lightning's loops and signal handlers; only this file uses its private API."""

import functools
from collections import OrderedDict
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

#: The hooks that Lightning calls for each batch of training, on all callbacks and on the module.
BATCH_HOOKS = (
    *("on_train_batch_start", "on_before_zero_grad", "on_before_backward"),
    *("on_after_backward", "on_before_optimizer_step", "on_train_batch_end"),
)


class QuickHooksModule(LightningModule):
    """A LightningModule in which Lightning notes the current hook in less time.

    It does so 50 times in a step. ``nn.Module`` would check each time whether the name of the hook
    is a parameter, a module or a buffer.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class InspectHooksOnce(Callback):
    """Keeps Lightning from inspecting the hooks of the data and of the task for each batch.

    It would look up each time who defines the hooks that move a batch to the device, and whether
    ``training_step`` takes the index of the batch.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        selector = trainer._data_connector._datahook_selector
        assert selector is not None
        takes_index = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)

        def step_arguments(kwargs: Any, batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
            index = {"batch_idx": batch_idx} if takes_index else {}
            return OrderedDict(batch=batch, **index)

        # Lightning has no option for this, so its methods are replaced, anew in each fit.
        selector.get_instance = functools.cache(selector.get_instance)  # type: ignore[method-assign]
        trainer.fit_loop.epoch_loop._build_kwargs = step_arguments  # type: ignore[method-assign]


class EnterTrainingLoop(Callback):
    """Makes Lightning enter the training loop of a resumed run that has taken its last step.

    Lightning skips a loop that has reached ``max_steps``, and with it the hooks ``on_train_start``
    and ``on_train_end``, in which other callbacks restore the run or repeat a validation. This
    callback must come before them.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._max_steps = trainer.max_steps
        if trainer.ckpt_path is not None:
            trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = self._max_steps


class ValidateAtLastStep(Callback):
    """Makes Lightning validate (and so save a checkpoint) after the last step, in mid-epoch too.

    It must come after callbacks that may stop training.
    """

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._last_step = trainer.estimated_stepping_batches  # too slow to compute at every step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self._last_step:
            trainer.should_stop = True
            # Else Lightning would not validate before these.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
        # Lightning validates when it stops, but not in an epoch that check_val_every_n_epoch skips.
        if trainer.should_stop and trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = 1


class ValidateBetweenSteps(Callback):
    """Postpones validations and stops between accumulated batches until after the optimizer step.

    Lightning would validate, or stop, with gradients that no checkpoint holds.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        is_due = loop._should_check_val_fx
        stops = False

        def is_due_after_step(data_fetcher: Any) -> bool:
            nonlocal stops
            stops |= trainer.should_stop
            trainer.should_stop = stops and not loop._should_accumulate()
            if loop._should_accumulate():
                return False
            return is_due(data_fetcher) or self._was_due(trainer)

        # Replaced on this Trainer only.
        loop._should_check_val_fx = is_due_after_step  # type: ignore[method-assign]

    @staticmethod
    def _was_due(trainer: Trainer) -> bool:
        """Whether a validation was due after any batch of the optimizer step just taken."""
        loop, interval = trainer.fit_loop.epoch_loop, trainer.val_check_batch
        if not isinstance(interval, int) or not loop._should_check_val_epoch():
            return False
        across_epochs = trainer.check_val_every_n_epoch is None
        last = loop.total_batch_idx if across_epochs else loop.batch_idx
        first = last - loop.batch_idx % trainer.accumulate_grad_batches
        return (last + 1) // interval > first // interval


def is_accumulating(trainer: Trainer) -> bool:
    """Whether some, but not all, batches of an optimizer step have been processed."""
    return trainer.accumulate_grad_batches > 1 and trainer.fit_loop.epoch_loop._should_accumulate()


def repeat_validation(trainer: Trainer) -> None:
    """Run an interrupted validation from its beginning; Lightning would skip it."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False  # otherwise it would resume in the middle, without the first batches
    trainer.validating = True
    loop.run()
    loop.reset_restart_stage()
    loop._has_run = False  # otherwise Lightning would not end an epoch that has no other batches
    trainer.training = True


def disable_signal_handlers(trainer: Trainer) -> None:
    """Keep Lightning from handling signals: its SIGTERM handler waits for other ranks."""
    # Replaced on this Trainer only.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def skip_empty_hooks(trainer: Trainer, task: LightningModule) -> None:
    """Keep Lightning from calling, for each batch, the hooks that are not overridden.

    Each of these calls takes microseconds, and a step has 70 of them. Lightning skips a hook that
    is not callable.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by Lightning
    for owner, base in [(task, LightningModule), *((each, Callback) for each in callbacks)]:
        for hook in BATCH_HOOKS:
            if getattr(getattr(owner, hook), "__func__", None) is getattr(base, hook):
                setattr(owner, hook, None)
