"""The callback that records predictions for fixed validation examples at every validation."""

import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer

from attention_lab.tracking.csv_file import CSVFile, cell
from attention_lab.tracking.media import clipped, log_table
from attention_lab.training.distributed import process_group
from attention_lab.training.distributed.fsdp import reshard, unshard
from attention_lab.training.tasks.base import AttentionTask, Prediction

COLUMNS = ("step", "example", "input", "reference", "prediction", "correct")


class PredictionsTable(Callback):
    """Records what the network predicts for the same few validation examples at every validation.

    The first of these examples are those of the attention maps. Sequence to sequence: the generated
    target. Classification: the class. Language model: the most probable token at each
    labelled position, given the right tokens before it. Long texts are cut.

    The predictions are appended to ``path``, and logged as a table to loggers that take tables.

    Args:
        path: the CSV file.
        examples: the number of examples; at most a batch of the dataset is used.
    """

    def __init__(self, path: Path, examples: int) -> None:
        self.file = CSVFile(path, COLUMNS)
        self.examples = examples
        self._probe: Any = None
        #: Seconds spent in this callback so far.
        self.seconds = 0.0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        started = time.perf_counter()
        # All ranks predict, as each may hold a shard of the model; rank 0 records.
        predictions = self._predict(trainer, cast(AttentionTask, pl_module))
        if not trainer.is_global_zero:
            return
        rows = [
            (number, *map(clipped, prediction[:-1]), prediction.is_correct)
            for number, prediction in enumerate(predictions, start=1)
        ]
        for row in rows:
            cells = (trainer.global_step, *map(cell, row))
            self.file.append(dict(zip(COLUMNS, cells, strict=True)))
        self.file.save()
        columns, name = COLUMNS[1:], "validation/predictions"
        log_table(trainer.loggers, name, columns, rows, trainer.global_step)
        self.seconds += time.perf_counter() - started

    @torch.no_grad()
    def _predict(self, trainer: Trainer, task: AttentionTask) -> list[Prediction]:
        if self._probe is None:  # choosing the examples reads the lengths of all
            self._probe = task.data.probe(min(self.examples, task.data.batch_size))
        precision = trainer.precision_plugin
        batch = precision.convert_input(trainer.strategy.batch_to_device(self._probe))
        unshard(task.model)  # decoding calls parts of a sharded network
        with precision.val_step_context():
            predictions = task.predict_examples(batch)
        reshard(task.model)
        return predictions

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.file.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds = state_dict["seconds"]
        if process_group.is_rank_zero():
            self.file.resume(state_dict["rows"])
