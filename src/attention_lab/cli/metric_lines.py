"""Format the metrics of a run beside those of the baselines."""

from collections.abc import Iterator, Mapping

from attention_lab.data.core.metric_info import with_unit
from attention_lab.printing import hanging


def metric_lines(
    metrics: Mapping[str, float],
    split: str,
    baselines: Mapping[str, Mapping[str, float]],
    indent: str = "",
) -> Iterator[str]:
    """Yield a line for each metric, wrapped at the terminal's width.

    Args:
        metrics: the run's metrics by name.
        split: "validation" or "test".
        baselines: metrics of each baseline, by the baseline's name; some metrics may be missing.
        indent: the start of each line.
    """
    width = max(map(len, metrics))
    values = {name: with_unit(name, value) for name, value in metrics.items()}
    widest = max(map(len, values.values()))
    for name, value in values.items():
        others = ", ".join(
            f"{baseline} {with_unit(name, known[name])}".replace(" ", "\N{NO-BREAK SPACE}")
            for baseline, known in baselines.items()
            if name in known
        )
        yield from hanging(others, f"{indent}{split}/{name:<{width}} {value:>{widest}}   ")
