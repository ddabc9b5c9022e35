"""The learning rate schedule of an extended run, which is computed for the new length."""

from typing import cast

from lightning import Trainer
from torch.optim.lr_scheduler import LambdaLR

from attention_lab.printing import echo
from attention_lab.training.lr_schedules import Decay, Plateau
from attention_lab.training.tasks.base import AttentionTask


def restart_schedule(trainer: Trainer, extended: str) -> None:
    """Set the learning rates of the first step of an extension, and print a line about it.

    The checkpoint has the rates of the shorter training's schedule. Those of ``Plateau`` are kept:
    they do not depend on the length, and change one step after a validation.

    Args:
        trainer: the Trainer, which has loaded the checkpoint.
        extended: the directory of the run that is extended.
    """
    task = cast(AttentionTask, trainer.lightning_module)
    schedule, scheduler = task.optimization.schedule, task.lr_schedulers()
    assert isinstance(scheduler, LambdaLR)
    if not isinstance(schedule, Plateau):
        rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        scheduler._last_lr = [base * factor(scheduler.last_epoch) for base, factor in rates]
        for group, rate in zip(scheduler.optimizer.param_groups, scheduler._last_lr, strict=True):
            group["lr"] = rate
    if not trainer.is_global_zero:
        return
    step, total = trainer.global_step, task.total_steps
    line = f"extending {extended} from step {step} to step {total}"
    if isinstance(schedule, Decay):
        line += (
            f"; scheduler={type(schedule).__name__.lower()} is extended: computed for {total} "
            f"steps from step {step} on, so the result differs from training {total} steps at once"
        )
    echo(line)
