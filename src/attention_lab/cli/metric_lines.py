"""Format the metrics of a run beside those of the baselines."""

from collections.abc import Iterator, Mapping


def metric_lines(
    metrics: Mapping[str, float], split: str, baselines: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    """Yield a line for each metric.

    Args:
        metrics: the run's metrics by name.
        split: "validation" or "test".
        baselines: metrics of each baseline, by the baseline's name; some metrics may be missing.
    """
    width = max(map(len, metrics))
    for name, value in metrics.items():
        others = (
            f"   {baseline} {known[name]:.4f}"
            for baseline, known in baselines.items()
            if name in known
        )
        yield f"{split}/{name:<{width}} {value:.4f}{''.join(others)}"
