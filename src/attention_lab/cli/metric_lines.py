"""Metrics as a command prints them, beside what says how good they are."""

from collections.abc import Iterator, Mapping


def lines(
    metrics: Mapping[str, float], split: str, marks: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    """A line for each metric.

    Args:
        metrics: by name.
        split: what they are of.
        marks: some of these metrics for the trivial and each shortcut baseline, by its name.
    """
    width = max(map(len, metrics))
    for name, value in metrics.items():
        known = (f"   {mark} {of[name]:.4f}" for mark, of in marks.items() if name in of)
        yield f"{split}/{name:<{width}} {value:.4f}{''.join(known)}"
