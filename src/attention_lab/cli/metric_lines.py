"""Format the metrics of a run beside those of the baselines."""

from collections.abc import Iterator, Mapping

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
    for name, value in metrics.items():
        others = ", ".join(
            f"{baseline} {known[name]:.4f}".replace(" ", "\N{NO-BREAK SPACE}")
            for baseline, known in baselines.items()
            if name in known
        )
        yield from hanging(others, f"{indent}{split}/{name:<{width}} {value:.4f}   ")
