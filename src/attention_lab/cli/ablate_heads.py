"""`attention-lab evaluate --ablate-heads`: the metric with each attention head switched off."""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from attention_lab.atomic_write import replacing, write_atomically
from attention_lab.printing import counted, echo
from attention_lab.tracking.evaluations import evaluation_file, make_folder

if TYPE_CHECKING:
    from attention_lab.reports.head_ablation import HeadEffect
    from attention_lab.training.build import BuiltRun
    from attention_lab.training.tasks.base import Split


def print_ablation(run: "BuiltRun", split: "Split", directory: Path, name: str) -> int:
    """Print the effect of each head line by line, save table and chart; returns the exit code.

    Args:
        run: the run, with its weights.
        split: "validation" or "test".
        directory: the run's directory.
        name: how the evaluation differs from the run's own test (``evaluation_name``).
    """
    from attention_lab.attention import attention_layers
    from attention_lab.reports.head_ablation import head_effect, table_header, table_row
    from attention_lab.training.head_ablation import ablate_heads, number_of_examples, parts_scorer

    layers, metric, effects = attention_layers(run.task.model), run.data.monitor, []
    number = sum(layer.num_heads for layer in layers.values())
    if not number:
        echo(f"{directory} has no attention heads")
        return 0
    width = max(map(len, (*layers, "all heads")))
    score = parts_scorer(run, split, metric)
    all_heads = score()
    mean = fmean(all_heads.values())
    echo(*table_header(metric, mean, width))
    for layer, head, parts in ablate_heads(run, score):
        effects.append(head_effect(layer, head, parts, all_heads, number))
        echo(table_row(metric, effects[-1], width))
    examples = counted(number_of_examples(run, split), "example")
    echo(
        f"{split}: {examples} in {counted(len(all_heads), 'part')}; means over the parts, and 95 % "
        f"intervals for all {counted(number, 'head')} together; * marks those that exclude 0"
    )
    _save(evaluation_file(directory, split, f"{name},heads".strip(",")), metric, mean, effects)
    return 0


def _save(file: Path, metric: str, all_heads: float, effects: "list[HeadEffect]") -> None:
    """Save the table as CSV and the chart as PNG, and print where they are."""
    from attention_lab.reports.head_ablation import chart, csv_text

    try:
        make_folder(file)
        write_atomically(file.with_suffix(".csv"), csv_text(metric, all_heads, effects))
        with replacing(file.with_suffix(".png")) as image:
            chart(metric, effects).savefig(image, format="png", dpi=150)
    except OSError as error:  # the directory may belong to another user
        echo(f"attention-lab: {file.parent} cannot be written: {error.strerror}", error=True)
    else:
        echo(f"saved to {file.with_suffix('.csv')} and {file.with_suffix('.png').name}")
