"""The runs of sweeps in Python, as pandas DataFrames."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_lab.api.dataframe import pandas_module
from attention_lab.config.flatten import flatten
from attention_lab.reports.comparison import compare
from attention_lab.reports.csv_table import COST_COLUMNS, csv_rows
from attention_lab.reports.evaluations import with_evaluation
from attention_lab.reports.groups import group_runs
from attention_lab.reports.runs import RecordedRun, number, read_runs, section, settings

if TYPE_CHECKING:
    import pandas

#: The costs of a run, by column: the path of keys in ``result.json``.
COSTS: Mapping[str, Sequence[str]] = {
    **COST_COLUMNS,
    "steps": ["steps"],
    "best_step": ["best_step"],
    "steps_to_threshold": ["steps_to_threshold"],
}


def load_sweep(*directories: str | Path, evaluation: str | None = None) -> "Sweep":
    """Load the runs of sweeps.

    Args:
        directories: of sweeps or of runs.
        evaluation: take the test metrics from what ``attention-lab evaluate`` saved under this
            name: "num_beams=5", "data.test=other.tsv". None means the runs' own test.

    Raises:
        NotARun: if a directory is neither; it is a ValueError with a message of one line.
        ValueError: if a finished run has no such evaluation.
    """
    runs = read_runs(map(Path, directories))
    return Sweep(with_evaluation(runs, evaluation) if evaluation else runs)


class Sweep:
    """The runs of one or more sweeps, in the order of the sweeps.

    Args:
        recorded: the runs.
    """

    def __init__(self, recorded: Sequence[RecordedRun]) -> None:
        self._recorded = recorded

    def __repr__(self) -> str:
        return repr(self.runs)

    def _repr_html_(self) -> str:
        return str(self.runs.to_html())

    @property
    def runs(self) -> "pandas.DataFrame":
        """A row for each run: its values of the swept keys, seed, status, metrics and costs.

        The columns are the swept keys, ``seed``, ``status``, the metrics ``test/NAME`` and
        ``validation/NAME`` (of the best checkpoint), the costs, ``error`` and ``directory``. A run
        without a result has NaN for its metrics.

        Raises:
            ImportError: if pandas is not installed.
        """
        pandas = pandas_module()
        _, swept = group_runs([run for run in self._recorded if run.overrides is not None])
        frame = pandas.DataFrame([_row(run, swept) for run in self._recorded])
        last = [name for name in ("error", "directory") if name in frame]
        return frame[[name for name in frame if name not in last] + last]

    def compare(self, baseline: str | None = None, metric: str | None = None) -> "pandas.DataFrame":
        """The comparison of a report: a row for each test metric of every group and baseline.

        Runs that differ only in their seed are a group. The columns are those of ``report.csv``: n,
        mean and 95 % interval over seeds, costs, and the paired difference to the baseline group
        with its p-value, adjusted over all groups. ``.attrs["caveats"]`` lists the reasons to doubt
        the comparison.

        Args:
            baseline: the group to compare with: "attention=scaled_dot_product".
            metric: the test metric to compare by, which comes first: "test/wer".

        Raises:
            ImportError: if pandas is not installed.
            ValueError: if the baseline matches no group or several, or no run was tested for the
                metric.
        """
        pandas = pandas_module()
        runs = [run for run in self._recorded if not run.debug_settings]
        comparison = compare(runs, baseline, metric)
        frame = pandas.DataFrame(csv_rows(comparison))
        frame.attrs["caveats"] = comparison.caveats
        if not comparison.same_data:
            warnings.warn("the runs have different data, so no group is better", stacklevel=2)
        return frame


def _row(run: RecordedRun, swept: Sequence[str]) -> dict[str, Any]:
    """The columns of a run. The values of swept keys have the types of its config."""
    chosen, typed = settings(run), dict(flatten(run.config))
    row: dict[str, Any] = {key: typed.get(key, chosen.get(key)) for key in swept}
    row |= {"seed": run.seed, "status": run.status}
    for split in ("test", "validation"):
        metrics = section(run.result, split)
        row |= {f"{split}/{name}": number(metrics, name) for name in metrics}
    row |= {name: number(run.result, *keys) for name, keys in COSTS.items()}
    return row | {"error": run.error, "directory": str(run.directory)}
