"""metrics.csv: every logged metric by step."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from attention_lab.tracking.csv_file import CSVFile


class MetricsCSVLogger(CSVFile, Logger):
    """Logs metrics to a CSV file, with a row for each call and a column for each metric.

    Args:
        path: the file.
    """

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing: hyperparameters are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.append({**metrics, "step": step})

    @rank_zero_only
    def save(self) -> None:
        super().save()
