"""Lines of text for the metrics of a run, beside those of the baselines."""

from collections.abc import Iterator, Mapping


def metric_lines(
    metrics: Mapping[str, float], split: str, baselines: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    """A line for each metric.

    Args:
        metrics: by name.
        split: "validation" or "test".
        baselines: some of these metrics for the trivial and each shortcut baseline, by its name.
    """
    width = max(map(len, metrics))
    for name, value in metrics.items():
        others = (
            f"   {baseline} {known[name]:.4f}"
            for baseline, known in baselines.items()
            if name in known
        )
        yield f"{split}/{name:<{width}} {value:.4f}{''.join(others)}"
