"""What a W&B run has logged: each metric once at each step, also over several processes."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from attention_lab.tracking.media import wandb_table

#: The splits whose metrics may have slices, and the keys of their tables.
SLICES = {"validation": "validation/slices", "test": "test/slices"}
#: The metric that holds the step; Lightning logs it with each value.
STEP = "trainer/global_step"
#: The sections of metrics whose last values are not in the summary, where they could be confused
#: with the results.
NOT_IN_SUMMARY = ("validation/", "cost/")
#: The header of a .wandb file, and the size of its blocks, in bytes.
_HEADER, _BLOCK = 7, 2**15


class WandbRunLogger(WandbLogger):
    """Lightning's logger of W&B, with slices in one table and no value logged twice.

    W&B makes a panel for each metric, and would make one for each slice. An interrupted run repeats
    the steps after its last checkpoint, which W&B would show twice.

    Args:
        run: the W&B run.
        logged: the last step at which earlier processes of the run logged each metric.
    """

    def __init__(self, run: Any, logged: Mapping[str, int]) -> None:
        super().__init__(experiment=run)
        self._logged = logged
        self._names = set[str]()

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics, or other values that W&B takes, such as images."""
        tabled = _with_tables(metrics)
        new = {k: it for k, it in tabled.items() if step is None or step > self._logged.get(k, -1)}
        for name in new.keys() - self._names:
            self._names.add(name)
            if name.startswith(NOT_IN_SUMMARY) and isinstance(new[name], float | int):
                # By name, not by a pattern: W&B applies any one of the patterns that match.
                self.experiment.define_metric(
                    name, step_metric=STEP, step_sync=True, summary="none"
                )
        if new:
            super().log_metrics(new, step)


def _with_tables(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics with a table in place of the slices of each split."""
    plain, tables = dict[str, Any](), dict[str, list[list[Any]]]()
    for key, value in metrics.items():
        split, _, name = key.partition("/")
        metric, is_slice, part = name.partition("/")
        if split in SLICES and is_slice:
            tables.setdefault(SLICES[split], []).append([metric, part, value])
        else:
            plain[key] = value
    columns = ("metric", "slice", "value")
    return plain | {key: wandb_table(columns, rows) for key, rows in tables.items()}


def last_steps(directory: Path, run_id: str) -> dict[str, int]:
    """The last step at which a W&B run logged each metric, from its files in a directory.

    Args:
        directory: the directory in which W&B has its own, ``wandb``.
        run_id: the id of the W&B run.
    """
    steps: dict[str, int] = {}
    for file in directory.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb"):
        for record in records(file):
            if record.HasField("history"):
                items = {_key(item): item.value_json for item in record.history.item}
                step = int(float(items.pop(STEP, -1)))
                steps |= {key: max(step, steps.get(key, -1)) for key in items}
    return steps


def _key(item: Any) -> str:
    """The metric of an item; an image or a table has several items."""
    return str(item.nested_key[0] if item.nested_key else item.key)


def records(file: Path) -> Iterator[Any]:
    """Yield the records of a .wandb file, a LevelDB log of protocol buffers.

    After a header of 7 bytes come blocks of 32 KiB with chunks of checksum (4 bytes), length (2),
    type (1) and data. A record is one chunk (type 1), or several (2, then 3, then 4). A file that
    was cut off ends with the last complete record.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2  # its classes are made when it is imported
    data, position, content = file.read_bytes(), _HEADER, b""
    with suppress(struct.error, DecodeError):
        while position < len(data):
            left_in_block = _BLOCK - position % _BLOCK
            if left_in_block < _HEADER:
                position += left_in_block
                continue
            _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
            position += _HEADER + length
            content += data[position - length : position]
            if kind in (1, 4):
                record = messages.Record()
                record.ParseFromString(content)
                content = b""
                yield record
