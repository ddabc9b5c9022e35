"""Arguments of ``lightning.Trainer`` that are refused, and those that make a run a debug run."""

from collections.abc import Mapping
from typing import Any

#: Why an argument of ``lightning.Trainer`` is no key, and what to set instead.
REFUSED = {
    "logger": "set logger=wandb or logger=csv instead",
    "callbacks": "set callbacks=early_stopping or another option of that group instead",
    "max_time": "set callbacks=timer and callbacks.timer.duration=00:12:00:00 instead",
    "limit_predict_batches": "attention-lab predict reads lines of text; limit its input instead",
    "num_sanity_val_steps": "set trainer.fast_dev_run=true first, which also tries the validation",
    "enable_checkpointing": "a run always has checkpoints; trainer.fast_dev_run=true saves none",
    "enable_model_summary": "set callbacks=model_summary instead",
    "use_distributed_sampler": "the batches are always split among the processes",
    "barebones": "a run always has checkpoints and logs",
    "plugins": "a run has its own; set trainer.precision or trainer.strategy instead",
    "reload_dataloaders_every_n_epochs": "the data is in memory and reshuffled in every epoch",
    "default_root_dir": "set hydra.run.dir, or hydra.sweep.dir with -m, instead",
    "enable_autolog_hparams": "the whole config is always logged",
    "model_registry": "checkpoints stay in the run's directory",
}

#: Keys that leave out batches, so that the results are no results.
SHORTENING = (
    *("fast_dev_run", "overfit_batches"),
    *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
)


def debug_settings(config: Mapping[str, Any]) -> list[str]:
    """The settings that make a run a debug run: it leaves out batches. Reports ignore such runs.

    >>> debug_settings({"trainer": {"limit_train_batches": 1, "limit_val_batches": 1.0}})
    ['trainer.limit_train_batches=1']

    Args:
        config: the config of a run, which may be a stranger's.
    """
    trainer = config.get("trainer")
    values = trainer if isinstance(trainer, Mapping) else {}
    return [
        f"trainer.{name}={str(values[name]).lower()}"
        for name in SHORTENING
        if values.get(name) and not (isinstance(values[name], float) and values[name] == 1)
    ]
